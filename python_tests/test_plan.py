"""How a search spends a given time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny_config, write_inputs

from proxyless_ext.config import Config, load_config
from proxyless_ext.errors import UserError
from proxyless_ext.search import Task, check_plannable, parse_budget, plan_search
from proxyless_ext.search.pace import Pace
from proxyless_ext.search.plan import Planner


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("20 min", 1200), ("1.5h", 5400), ("2d", 172_800), ("0.5m", 30)],
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "0s", "1h30m", "nan h", "1e3s", "1 week"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UserError, match="is no span of time; write for example 20m"):
        parse_budget(text)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Task]:
    folder = tmp_path_factory.mktemp("plan")
    config = load_config(None, {**write_inputs(folder), "runtime.threads": 1})
    return config, Task.read(config, None)


@given(
    factor=st.floats(1.0, 1e4),
    weight=st.floats(1e-5, 1e-2),
    gate=st.floats(1, 6),
    score=st.floats(0.1, 1),
    train=st.floats(0.5, 1.5),
    rivals=st.integers(0, 5),
    targets=st.integers(0, 6),
)
def test_a_plan_fits_into_the_time_and_uses_it(
    task: tuple[Config, Task],
    factor: float,
    weight: float,
    gate: float,
    score: float,
    train: float,
    rivals: int,
    targets: int,
) -> None:
    config, searched = task
    devices = {"phone": config.latency} if targets else {}
    config = config.model_copy(
        update={
            "comparison": config.comparison.model_copy(update={"random_networks": rivals}),
            "devices": devices,
            "targets": tuple(f"{10 * target}%" for target in range(targets)),
        }
    )
    planner = Planner(config, searched, Pace(weight, gate * weight, score * weight, train * weight))
    least = planner.plan(planner.least_epochs, 8, 1, 1).total
    seconds = factor * least
    plan = planner.spend(seconds, seconds)
    assert plan.total <= seconds
    if factor > 20:
        assert plan.total >= 0.85 * seconds
    planned = plan.apply(config)
    searched.check(planned)
    assert planned.data == config.data
    again = planner.plan(
        planned.warmup.epochs + planned.search.epochs,
        planned.derive.networks,
        planned.derive.finalists,
        planned.train.epochs,
    )
    assert again == plan
    with pytest.raises(UserError, match=r"too small for 1438 pictures .* give \d+ min or more"):
        planner.spend(0.99 * least, 0.99 * least)


def test_settings_that_a_budget_would_overrule(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a budget plans warmup\.batch_size, .*train\.epochs; leave"
    ):
        check_plannable(tiny_config(tmp_path))
    allowed = {"search.paths": "sampled", "gates.mode": "two_path", "train.dropout": 0.2}
    check_plannable(load_config(None, allowed))


def test_steps_are_timed(task: tuple[Config, Task]) -> None:
    config, searched = task
    plan, timed = plan_search(config, searched, 600)
    assert timed.tables[""].entries
    assert 300 < plan.total <= 600
    settings = plan.apply(config)
    assert settings.search.epochs > settings.warmup.epochs >= 1
    with pytest.raises(UserError, match=r"a budget of 1 s is too small"):
        plan_search(config, searched, 1)


def test_several_networks_share_the_supernet_and_divide_the_rest(
    task: tuple[Config, Task],
) -> None:
    config, searched = task
    devices = {"here": config.latency, "there": config.latency.model_copy(update={"threads": 2})}
    several = config.model_copy(update={"devices": devices, "targets": ("30%", "60%")})
    known = replace(searched, tables=dict.fromkeys(devices, searched.tables[""]))
    assert 600 < plan_search(several, known, 1200)[0].total <= 1200
    pace = Pace(1e-3, 2e-3, 5e-4, 1e-3)
    one, four = (Planner(each, searched, pace).plan(5, 16, 4, 10) for each in (config, several))
    for (part, alone), (_, together) in zip(one.seconds.items(), four.seconds.items(), strict=True):
        if part.startswith(("warm-up", "search")):
            assert together == alone
        elif part != "figures and files":
            assert together == pytest.approx(4 * alone), part
