"""Tables from whole networks: which to measure, what is concluded, and files of others."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import SPACE as TINY
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.config import LatencyConfig
from proxyless_ext.errors import UserError
from proxyless_ext.latency import (
    Conditions,
    LatencyTable,
    count_table,
    fit_networks,
    interval,
    measure_and_fit,
    plan_networks,
    read_measured,
)
from proxyless_ext.latency.additive import Layers
from proxyless_ext.latency.counting import count_layers
from proxyless_ext.latency.reference import find_network, name_network
from proxyless_ext.nn import Network, count_macs, count_parameters
from proxyless_ext.search.objective import Objective
from proxyless_ext.spaces import FirstBlock, Space, Stage, Stem

SPACE = Space(
    name="small",
    resolution=16,
    num_classes=10,
    stem=Stem(out_channels=8, stride=1),
    first_block=FirstBlock(channels=8),
    candidates=("k3e3", "k3e6", "k5e6", "zero"),
    stages=(Stage(channels=8, cells=3, stride=2), Stage(channels=16, cells=3, stride=2)),
    feature_mix=32,
)
LAYERS = Layers.of(SPACE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    SPACE.save("space.yaml")
    return tmp_path


def planted(seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Costs of the layers [K] that are about their multiply-accumulates, and a generator's."""
    rng = np.random.default_rng(seed)
    macs = LAYERS.features[:, 0]
    costs = macs / macs.sum() * np.exp(spread * rng.standard_normal(len(macs)))
    costs[LAYERS.stem] += 0.3  # What a network pays once.
    return costs, rng


def measure(choices: list[list[int]], costs: np.ndarray, rng: np.random.Generator, noise: float):
    networks = [SPACE.architecture(each) for each in choices]
    exact = LAYERS.count(networks) @ costs
    values = exact * (1 + noise * rng.standard_normal(len(networks)))
    return dict(zip(networks, values.tolist(), strict=True))


def test_planted_costs_lie_in_their_intervals() -> None:
    plan, inside = plan_networks(SPACE, 60), []
    for seed in range(4):
        costs, rng = planted(seed)
        networks = measure(plan, costs, rng, noise=0.01)
        posterior = LAYERS.posterior(LAYERS.count(networks), np.array(list(networks.values())))
        deviations = np.sqrt(posterior.covariance.diagonal())
        inside += (np.abs(costs - posterior.mean) <= 1.96 * deviations).tolist()
    assert 0.85 <= np.mean(inside) < 1  # Of 95 %, at 64 layers.


def test_a_fit_says_how_good_it_is() -> None:
    costs, rng = planted(0)
    networks = measure(plan_networks(SPACE, 60), costs, rng, noise=0.01)
    fit = fit_networks(SPACE, networks)
    assert list(fit.entries) == list(LAYERS.keys)
    assert fit.network_error == pytest.approx(0.01, rel=0.6)
    assert 0.003 < fit.held_out.median_error < 0.015
    assert fit.held_out.r2 > 0.98
    assert fit.held_out.measured.tolist() == list(networks.values())
    assert list(fit.by_number) == [10, 15, 20, 30, 45, 54]
    assert fit.by_number[54] == fit.held_out.median_error < fit.by_number[10]


def test_sums_over_a_fitted_table_are_whole_networks_where_costs_add_up() -> None:
    costs, rng = planted(3)
    fit = fit_networks(SPACE, measure(plan_networks(SPACE, 60), costs, rng, noise=0.0))
    table = LatencyTable(fit.entries)
    others = measure([[0, 1, 2, 2, 1, 0], [2, 0, 3, 1, 2, 1]], costs, rng, noise=0.0)
    for network, value in others.items():
        assert table.predict(network) == pytest.approx(value, rel=0.005)
    assert all(entry.mean >= 0 for entry in table.entries.values())


def test_layers_that_no_network_has_are_known_worse() -> None:
    costs, rng = planted(4)
    plan = [[1 if choice == 2 else choice for choice in each] for each in plan_networks(SPACE, 60)]
    fit = fit_networks(SPACE, measure(plan, costs, rng, noise=0.01))
    widths: dict[bool, list[float]] = {True: [], False: []}
    for key, entry in fit.entries.items():
        low, high = interval(entry)
        widths["kernel:5" in key].append((high - low) / entry.mean)
    assert min(widths[True]) > np.median(widths[False])


@settings(max_examples=3, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=10, max_size=14), st.integers(0, 99))
def test_any_measurements_give_a_table(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    networks = {
        SPACE.architecture([int(rng.integers(count)) for count in SPACE.counts]): value
        for value in values
    }
    if len(networks) >= 10 and len(set(networks.values())) > 1:
        fit = fit_networks(SPACE, networks)
        assert all(0 <= entry.mean < float("inf") for entry in fit.entries.values())


def test_layers_are_counted_alike_by_choices_and_by_networks() -> None:
    choices = [[0, 1, 2, 2, 1, 0], [2, 3, 3, 1, 3, 3], [0] * 6]
    by_networks = LAYERS.count(map(SPACE.architecture, choices))
    assert np.array_equal(LAYERS.count_choices(choices), by_networks)
    assert by_networks.sum(axis=1).tolist() == [10, 6, 10]


def test_edges_that_share_a_choice_are_fitted_too() -> None:
    stage = Stage(channels=8, cells=2, candidates=("k3e3", "k5e6", "zero"), group="same")
    first = Stage(channels=8, cells=3, stride=2)
    stages = (first, stage, stage, *SPACE.stages[1:])
    space = Space.model_validate({**SPACE.model_dump(), "stages": stages})
    layers = Layers.of(space)
    plan = plan_networks(space, 30)
    networks = [space.architecture(each) for each in plan]
    assert len(plan[0]) == 7
    assert np.array_equal(layers.count_choices(plan), layers.count(networks))
    assert [find_network(space, name_network(space, each)) for each in plan] == networks
    costs = layers.features[:, 0]
    fit = fit_networks(space, dict(zip(networks, layers.count(networks) @ costs, strict=True)))
    assert fit.held_out.max_error < 0.02


# Which networks to measure.


def test_planned_networks_say_more_than_random_ones() -> None:
    """The mean variance of predictions that is left, by the formula of the regression itself."""
    rng = np.random.default_rng(0)
    random = [[int(rng.integers(count)) for count in SPACE.counts] for _ in range(600)]
    counts = LAYERS.count(map(SPACE.architecture, random))
    sizes = LAYERS.typical(counts)
    prior = LAYERS.variance(counts, sizes, 1.0, part_error=0.2)

    def left(rows: np.ndarray) -> float:
        after = np.linalg.inv(np.linalg.inv(prior) + rows.T @ rows / 0.02**2)
        return float(np.mean(np.sum(relative[300:] @ after * relative[300:], axis=1)))

    relative = counts * sizes / (counts @ sizes)[:, None]
    for number in (10, 20, 40):
        planned = LAYERS.count(map(SPACE.architecture, plan_networks(SPACE, number)))
        best = min(left(relative[i : i + number]) for i in range(0, 300 - number, number))
        assert left(planned * sizes / (planned @ sizes)[:, None]) < 0.95 * best


def test_a_plan_is_of_different_networks_and_begins_as_a_shorter_one() -> None:
    plan = plan_networks(SPACE, 40, seed=1)
    assert len({tuple(each) for each in plan}) == 40
    assert plan_networks(SPACE, 15, seed=1) == plan[:15]
    assert plan_networks(SPACE, 15, seed=2) != plan[:15]
    everything = plan_networks(TINY, TINY.num_networks)
    assert len({tuple(each) for each in everything}) == TINY.num_networks
    with pytest.raises(UserError, match="193 networks cannot be measured: 'tiny' has 192"):
        plan_networks(TINY, TINY.num_networks + 1)


# What is counted.


def test_counts_of_layers_add_up_to_those_of_networks() -> None:
    network = SPACE.architecture([0, 1, 3, 2, 3, 0])
    model = Network(network)
    assert count_table(SPACE, "macs").predict(network) == count_macs(model, 16)
    assert count_table(SPACE, "parameters").predict(network) == count_parameters(model)
    weights = count_table(SPACE, "weight_bytes")
    assert weights.predict(network) == 4 * count_parameters(model)
    assert weights.unit == "B"


def test_a_counted_table_takes_no_target_in_ms(here: Path) -> None:
    said = CliRunner().invoke(app, ["latency", "count", "space.yaml", "--out", "macs.yaml"])
    assert re.search(r"cheapest network: [\d.]+ MACs\n", said.stdout)
    table = LatencyTable.load("macs.yaml")
    assert table.entries == count_table(SPACE, "macs").entries
    with pytest.raises(UserError, match="target '9ms' is in ms, and networks here cost MACs"):
        Objective.of_space(SPACE, table, LatencyConfig(target="9ms"))


def test_activations_of_an_mbconv() -> None:
    network = SPACE.architecture([0] * 6)
    counts = count_layers([network])
    layer = network.layers()[2]
    assert (layer.operation, layer.in_size, layer.stride) == ("k3e3", 16, 2)
    expanded, depthwise, projected = 24 * 16 * 16, 24 * 8 * 8, 8 * 8 * 8
    assert counts[layer.key].activation_bytes == 4 * (expanded + depthwise + projected)
    assert counts[layer.key].operations == 3


# Files.


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["latency", "fit", "space.yaml", *arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.stdout if result.exit_code == 0 else result.stderr


def test_a_plan_that_somebody_else_measures(here: Path) -> None:
    said = invoke("--plan", "plan", "--networks", "12", "--unit", "us")
    assert (
        said
        == "plan/networks.csv: fill in its last column, then fit with --from plan/networks.csv\n"
    )
    table = Path("plan/networks.csv")
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == ["network", "onnx", "us"]
    assert all((table.parent / row["onnx"]).stat().st_size > 1000 for row in rows)
    costs, rng = planted(0)
    planned = measure(plan_networks(SPACE, 12), costs, rng, noise=0.0)
    for row, value in zip(rows, planned.values(), strict=True):
        row["us"] = str(1000 * value)
    with table.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    read, unit = read_measured(table, SPACE)
    assert unit == "ms"
    assert list(read) == list(planned)
    assert list(read.values()) == pytest.approx(list(planned.values()))
    said = invoke("--from", str(table), "--figure", "fit.svg", "--layers")
    assert "networks:         12\n" in said
    assert said.count(" ms  ") == len(LAYERS.keys)
    assert "<svg" in Path("fit.svg").read_text()
    fitted = LatencyTable.load("latency.yaml")
    assert fitted.costs(SPACE).unit == "ms"
    assert "networks.csv is there; fit" in invoke("--plan", "plan", "--networks", "12")
    assert "001.onnx is for 16 px and 10 classes, and the space for 16 px and 7 classes" in invoke(
        "--from", str(table), "--classes", "7"
    )
    assert "and the space for 32 px" in invoke("--from", str(table), "--resolution", "32")


def test_rows_of_json_and_of_architectures(here: Path) -> None:
    network = SPACE.architecture([0, 1, 3, 2, 3, 0], "mine")
    network.save("mine.json")
    names = "k3e3 k3e6 zero k5e6 zero k3e3"
    rows = [{"network": "mine.json", "mJ": 2}, {"network": names, "mJ": 3.0}]
    Path("rows.json").write_text(json.dumps(rows))
    read, unit = read_measured(Path("rows.json"), SPACE)
    assert unit == "mJ"
    assert list(read.values()) == [2.0, 3.0]  # Two names, so two networks.


NAMES = "k3e3 k3e6 k3e6 k5e6 zero k3e3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("network,ms\n", "holds no rows"),
        ("net,ms\nx,1\n", "row 1: the column network is missing"),
        (f"network\n{NAMES}\n", "has 0 columns beside 'network'; leave one, named by its unit"),
        (f"network,ms,mJ\n{NAMES},1,2\n", r"2 columns beside 'network' \(ms, mJ\)"),
        (f"network,ms\n{NAMES}\n", "row 1 has more or fewer cells than the header"),
        (f"network,ms\n{NAMES},1,2\n", "row 1 has more or fewer cells"),
        (f"network,ms\n{NAMES},fast\n", "row 1: 'fast' is no number"),
        (f"network,ms\n{NAMES},-1\n", "row 1: -1 ms cannot be"),
        (f"network,ms\n{NAMES},nan\n", "row 1: nan ms cannot be"),
        (f"network,ms\n{NAMES},1e300\n", "row 1: 1e300 ms cannot be"),
        (
            f"network,ms\n{NAMES},3\n{NAMES},99\n{NAMES},2.9\n",
            "rows 3 and 2 are about one network, which takes 2.9 by the one and 99 by the other",
        ),
        ("network,ms\nk3e3 k3e6,1\n", "row 1 has no .json file, and 'k3e3 k3e6' does not name one"),
        (f"network,ms\n{NAMES.replace('k3', 'k7')},1\n", "does not name one candidate"),
        ("network,ms\nmine.json,1\n", "cannot read .*mine.json"),
        (f"network,ms\n{NAMES},1\n", "1 measured networks are too few for a fit"),
    ],
)
def test_impossible_files_are_a_sentence(here: Path, text: str, message: str) -> None:
    Path("rows.csv").write_text(text)
    said = invoke("--from", "rows.csv")
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not Path("latency.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plan", "p", "--from", "x.csv"), "--plan is for before, --from for after"),
        (("--plan", "p", "--command", "x {onnx}"), "--plan measures nothing; leave out --command"),
        (("--from", "x.csv", "--plain", "--json", "a"), "leave out --plain, --json, or --from"),
        (("--from", "x.csv", "--unit", "us"), "leave out --unit, or --from"),
        (("--networks", "9"), "9 measured networks are too few for a fit; measure at least 10"),
        (("--figure", "fit.txt"), "cannot draw 'fit.txt'"),
    ],
)
def test_options_that_contradict_each_other(
    here: Path, options: tuple[str, ...], message: str
) -> None:
    said = invoke(*options)
    assert said.startswith("error: ")
    assert message in said
    assert [path.name for path in here.iterdir()] == ["space.yaml"]


def test_networks_that_all_cost_the_same_tell_nothing() -> None:
    planned = [SPACE.architecture(each) for each in plan_networks(SPACE, 12)]
    with pytest.raises(UserError, match="all 12 networks were measured to be 3, which tells"):
        fit_networks(SPACE, dict.fromkeys(planned, 3.0))


def test_networks_of_another_space_are_refused() -> None:
    other = SPACE.with_classes(3).architecture([0] * 6, "other")
    with pytest.raises(
        UserError, match=r"'other' is none of space 'small': it has Logits.*output:3"
    ):
        fit_networks(SPACE, {other: 1.0})


def test_a_table_in_csv(here: Path) -> None:
    Path("table.csv").write_text("key,mean,std,count\nConv-a,1.5,0.5,7\nConv-b,2,,\n")
    table = LatencyTable.load("table.csv")
    assert table.entries["Conv-a"].model_dump() == {"count": 7, "mean": 1.5, "var": 0.25}
    assert table.entries["Conv-b"].model_dump() == {"count": 1, "mean": 2.0, "var": 0.0}
    Path("table.csv").write_text("key,mean\nConv-a,1.5\nConv-a,2\n")
    with pytest.raises(UserError, match="the key 'Conv-a' stands twice"):
        LatencyTable.load("table.csv")
    Path("table.csv").write_text("key,mean\nConv-a,-1\n")
    with pytest.raises(UserError, match=r"table\.csv: Conv-a: 'mean' is -1"):
        LatencyTable.load("table.csv")


@pytest.mark.slow
def test_few_networks_predict_others_on_this_cpu(here: Path) -> None:
    space = Space.load(Path(__file__).parents[1] / "configs/spaces/small.yaml")
    fit, _ = measure_and_fit(space, Conditions(backend="onnxruntime"))
    assert fit.held_out.median_error <= 0.03
    assert fit.held_out.r2 >= 0.97
