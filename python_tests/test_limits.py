"""Limits beside a target: their prices, and the networks that keep them, against brute force."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_candidates import log_probabilities
from tiny_runs import SPACE, begin, layers, search, settings_of, table_of, tiny_config
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.config import LatencyConfig
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Costs, Entry, LatencyTable, Limit, count_table, limited, sampling
from proxyless_ext.runs import SearchEpoch, load_checkpoint, read_metrics
from proxyless_ext.search import LatencyTarget, Objective
from proxyless_ext.search.candidates import Band, check_limits, warn_of_narrow_band
from proxyless_ext.search.limits import LimitPrices

NETWORKS = [*product(*map(range, SPACE.counts))]
TABLE = table_of(SPACE)
EDGES, WIDTH = 6, 4


# Prices.


@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans(), st.floats(0, 0.3))
@settings(max_examples=60)
def test_prices_are_those_of_the_nearest_distribution(
    seed: int, count: int, has_target: bool, slack: float
) -> None:
    """By the conditions of Karush, Kuhn and Tucker, which tell it in a convex problem."""
    generator = torch.Generator().manual_seed(seed)
    first, *others = torch.rand(1 + count, EDGES, WIDTH, generator=generator, dtype=torch.float64)
    alpha, feasible = 2 * torch.randn(2, EDGES, WIDTH, generator=generator, dtype=torch.float64)
    alpha[0, -1] = feasible[0, -1] = -torch.inf  # An edge with fewer candidates.
    p = feasible.softmax(1)
    counts = (WIDTH - 1, *[WIDTH] * (EDGES - 1))
    limits = []
    for part, each in zip((0.9, 0.3, 1e6), others, strict=False):
        costs = Costs(1e3 * (part * first + each) / part, 7.0, counts)
        limits.append(Limit("", costs, costs.expected(p).item() + slack * costs.edges.amax()))
    target = LatencyTarget(first, 0.5, 0.5 + (first * p).sum().item()) if has_target else None
    prices = LimitPrices(limits)
    charged = alpha
    for _ in range(2):  # The second time there is nothing left to pay.
        charged = charged + prices.charge(charged, target)
        charged = charged + target.charge(charged) if target else charged
        found = charged.softmax(1)
        paid = sum(
            price * each.costs.edges for price, each in zip(prices.prices, limits, strict=True)
        )
        if target:
            paid = paid + target.price * first
            assert (found * first).sum().item() == pytest.approx(target.target - 0.5, rel=1e-6)
        torch.testing.assert_close(charged, alpha - paid, rtol=1e-6, atol=1e-6)
        for price, each in zip(prices.prices, limits, strict=True):
            spread = each.costs.edges.amax().item()
            left = (each.most - each.costs.expected(found).item()) / spread
            assert price >= 0
            assert left > -1e-5
            assert price * spread * left < 1e-4  # What is not reached costs nothing.


def test_a_price_falls_again_where_the_limit_would_be_kept_without() -> None:
    costs = Costs.of([[1.0, 2.0], [1.0, 3.0]], 0.0)
    prices = LimitPrices([Limit("", costs, 3.0)])
    alpha = torch.zeros(2, 2)
    alpha += prices.charge(alpha, None)
    assert prices.prices[0] > 0
    alpha[:, 0] += 5  # Now the search prefers the cheap ones by itself.
    alpha += prices.charge(alpha, None)
    assert prices.prices == [0.0]
    torch.testing.assert_close(alpha[:, 0] - alpha[:, 1], torch.full((2,), 5.0))


def test_a_limit_that_no_distribution_keeps_is_paid_for_within_reason() -> None:
    costs = Costs.of([[1.0, 2.0], [1.0, 3.0]], 0.0)
    prices = LimitPrices([Limit("", costs, 1.0)])
    for _ in range(3):
        change = prices.charge(torch.zeros(2, 2), None)
        assert change.isfinite().all()
    assert prices.prices[0] <= 100


# Networks.


def objective_with(target: str | None, **limits: str) -> Objective:
    aim = {"regularizer": "none"} if target is None else {"target": target, "tolerance": 0.15}
    return Objective.of_space(SPACE, TABLE, LatencyConfig(**aim, limits=limits))


def members_of(band: Band) -> list[tuple[int, ...]]:
    """All networks of a band, by tables of their own."""
    objective = band.objective
    tables = {name: count_table(SPACE, name) for name in objective.config.limits}
    most = {each.name: each.most for each in objective.limits}
    found = []
    for choices in NETWORKS:
        network = SPACE.architecture(choices)
        if band.low <= TABLE.predict(network) <= band.high and all(
            table.predict(network) <= most[name] for name, table in tables.items()
        ):
            found.append(choices)
    return found


LIMITS = st.sampled_from(
    [
        {"parameters": "60%"},
        {"macs": "45%"},
        {"parameters": "70%", "activation_bytes": "60%"},
        {"macs": "50%", "parameters": "50%", "weight_bytes": "45%"},
    ]
)


@given(st.integers(0, 1000), st.none() | st.sampled_from(["40%", "60%"]), LIMITS, st.booleans())
@settings(max_examples=12)
def test_networks_that_keep_the_limits(
    seed: int, target: str | None, limits: dict[str, str], has_many: bool
) -> None:
    scores, objective = log_probabilities(seed), objective_with(target, **limits)
    band = Band.near(objective)
    members = members_of(band)
    with pytest.MonkeyPatch.context() as patch:
        if has_many:  # As where networks cannot be enumerated.
            patch.setattr(limited, "MAX_TRIES", 100)
            patch.setattr(sampling, "BINS", 300)
            drawn = band.drawn(5, seed)
            assert len(set(drawn)) == min(5, len(members))
            assert set(drawn) <= set(members)
        else:
            assert set(band.drawn(1000, seed)) == set(members)
    found = band.likeliest(scores, 5)

    def score(choices: tuple[int, ...]) -> float:
        return scores[range(len(choices)), choices].sum().item()

    assert set(found) <= set(members)
    best = sorted(map(score, members), reverse=True)[:5]
    assert [score(choices) for choices in found] == pytest.approx(best, abs=1e-9)
    assert all(map(band.holds, members))
    assert sum(map(band.holds, NETWORKS)) == len(members)
    assert bool(band.some(1)) == bool(members)
    if members:
        children = band.offspring(members[:4], set(members[:4]), 5, random.Random(seed))
        assert set(children) <= set(members) - set(members[:4])


def test_limited_networks_are_equally_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "MAX_TRIES", 40)  # So that they are drawn, not enumerated.
    monkeypatch.setattr(sampling, "BINS", 300)
    band = Band.near(objective_with("50%", parameters="45%", macs="50%"))
    members = members_of(band)
    assert 10 < len(members) < 60
    draws = 6 * len(members)
    counts = Counter(band.drawn(1, seed)[0] for seed in range(draws))
    assert set(counts) <= set(members)
    assert chisquare([counts[each] for each in members]).pvalue > 1e-4


# What is impossible.


@pytest.mark.parametrize(
    ("target", "limits", "sentence"),
    [
        (None, {"parameters": "5"}, r"limit of 5 params \(parameters\) is out of reach: networks"),
        ("70%", {"macs": "5%"}, "and the target conflict: networks of 'tiny' within 15% of the ta"),
        ("50%", {"macs": "3ms"}, "limit of macs '3ms' is in ms, and networks here cost MACs"),
        ("3mJ", {}, "target '3mJ' is in mJ, and networks here cost ms"),
    ],
)
def test_what_is_impossible_is_one_sentence(
    target: str | None, limits: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check_limits(objective_with(target, **limits))


def test_a_conflict_names_the_least_that_could_be() -> None:
    objective = objective_with("70%", macs="5%")
    free = members_of(Band.near(objective_with("70%")))
    table = count_table(SPACE, "macs")
    least = min(table.predict(SPACE.architecture(choices)) for choices in free)
    with pytest.raises(UserError, match=rf"have at least {least / 1e3:.4g} kMACs; move one"):
        Band.of(objective)


def test_limits_that_go_only_one_by_one(tmp_path: Path) -> None:
    """Of two edges' costs the one is high where the other is low."""
    rising, falling = (Costs.of([values, [0.0]], 0.0) for values in ([0.0, 1, 2], [2.0, 1, 0]))
    limits = (Limit("a", rising, 0.5), Limit("b", falling, 0.5))
    config = LatencyConfig(regularizer="none")
    objective = Objective.build("pair", rising, config, limits)
    with pytest.raises(UserError, match=r"\(a\) and the limit of 0.5 ms \(b\) together, though"):
        check_limits(objective)


def test_limits_that_leave_one_network_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="only one network of 'tiny' keeps the limit of"):
        warn_of_narrow_band(objective_with(None, parameters="0%"))


# Whole searches.


def energy_table() -> LatencyTable:
    entries = {
        layer.key: Entry(count=1, mean=1.0 + (31 * index % 7), var=0.0)
        for index, layer in enumerate(layers(SPACE))
    }
    return LatencyTable(entries, unit="mJ")


def test_a_search_for_parameters_measures_nothing_and_keeps_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
    monkeypatch.setattr("proxyless_ext.search.task.measure_table", None)
    energy_table().save(tmp_path / "energy.yaml")
    params, energy = count_table(SPACE, "parameters"), energy_table()
    cheapest, dearest = params.bounds(SPACE)
    most = sum(energy.bounds(SPACE)) / 2
    aim = (cheapest + dearest) / 2
    settings = {
        "latency.table": None,
        "latency.target": f"{aim / 1e3}kparams",
        "latency.tolerance": 0.3,
        "latency.limits": {str(tmp_path / "energy.yaml"): f"{most}mJ"},
        "comparison.random_networks": 1,
        "checkpoint_seconds": 1e9,
    }
    run = begin(tmp_path / "run", tiny_config(tmp_path, settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = search(run)
    assert result.choices is not None
    assert (result.unit, result.measured, result.target) == ("params", None, pytest.approx(aim))
    assert result.predicted == result.parameters == pytest.approx(aim, rel=0.3)
    (kept,) = result.limits
    assert (kept.name, kept.unit, kept.most) == ("energy.yaml", "mJ", pytest.approx(most))
    for network in (result, *run.outcome.comparison.random, *run.outcome.derivation.finalists):
        assert energy.predict(SPACE.architecture(network.choices)) <= most
    assert kept.predicted == energy.predict(SPACE.architecture(result.choices))
    state = load_checkpoint(run.checkpoint("search"))["phase"]["learners"][0]
    assert len(state["limit_prices"]) == 1
    records = [each for each in read_metrics(run.metrics_path) if isinstance(each, SearchEpoch)]
    costs = energy.costs(SPACE)
    for record in records[1:]:
        assert record.unit == "params"
        assert record.expected == pytest.approx(aim, rel=1e-5)
        p = torch.zeros(len(SPACE.counts), max(SPACE.counts))
        for row, values in zip(p, record.probabilities, strict=True):
            row[: len(values)] = torch.tensor(values)
        assert costs.expected(p).item() <= most * (1 + 1e-5)
    (tmp_path / "energy.yaml").unlink()  # The run has a copy.
    assert search(run).choices == result.choices
    said = CliRunner().invoke(app, ["report", str(run.folder)])
    assert said.exit_code == 0, said.output
    page = run.report_path.read_text()
    assert "Predicted cost" in page
    assert f"energy.yaml, {kept.predicted:.1f} mJ of at most {most:.1f} mJ." in page
    said = CliRunner().invoke(app, ["status", str(run.folder)])
    assert "params" in said.stdout
    out = tmp_path / "derived.json"
    limit = ["--limit", f"{tmp_path / 'energy.yaml'}={most}mJ", "--limit", "parameters=0"]
    said = CliRunner().invoke(app, ["derive", str(run.folder), "--out", str(out), *limit])
    assert "limit of 0 params (parameters) is out of reach" in said.stderr
    said = CliRunner().invoke(app, ["derive", str(run.folder), "--out", str(out), *limit[:2]])
    assert said.stdout.startswith(f"{out}: predicted cost ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--target", "2MB"), "target '2MB' is in B, and networks here cost ms"),
        (("--limit", "parameters=5"), "the limit of 5 params (parameters) is out of reach"),
        (("--limit", "none.yaml=5mJ"), "cannot read none.yaml"),
        (("--limit", "energy.yaml=5"), "energy.yaml lacks 12 of 12 layers"),
        (("--limit", "macs"), "--limit macs says no amount; write for example parameters=5.7M"),
        (("--limit", "macs=1M", "--limit", "macs=2M"), "--limit macs is given twice"),
    ],
)
def test_before_latencies_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    SPACE.save("space.yaml")
    LatencyTable({"another": Entry(count=1, mean=1.0, var=0.0)}, unit="mJ").save("energy.yaml")
    arguments = ["search", "--space", "space.yaml", "--data", "digits", "--out", "run", *options]
    sections = settings_of("runtime", "warmup", "search", "gates", "derive", "train")
    said = CliRunner().invoke(app, [*arguments, "--set", "data.limit=100", *sections])
    assert said.exit_code == 1
    assert sentence in said.stderr
    assert not Path("run").exists()
