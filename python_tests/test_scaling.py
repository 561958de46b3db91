"""What a search takes on many devices."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE, tiny_config
from typer.testing import CliRunner

from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.cli import app
from proxyless_ext.config import Config, load_config
from proxyless_ext.errors import UserError
from proxyless_ext.nn import Network, SuperNet, count_parameters
from proxyless_ext.scaling import (
    Cluster,
    PictureCounts,
    StepCosts,
    count_steps,
    estimate,
    list_work,
    measure_steps,
)
from proxyless_ext.scaling.step_costs import Line
from proxyless_ext.scaling.work import KINDS

PICTURES = PictureCounts(weights=100, gates=40, val=30)
FREE = Cluster(bandwidth=math.inf, latency=0.0)


def costs(fixed: float = 0.0, each: float = 1e-3, num_bytes: float = 0.0) -> StepCosts:
    return StepCosts(
        seconds=dict.fromkeys(KINDS, Line(fixed=fixed, each=each)),
        reduced=dict.fromkeys(KINDS, num_bytes),
        memory=Line(fixed=1e6, each=1e3),
        source="a test",
    )


def test_the_work_of_a_search_is_that_of_its_loops() -> None:
    config = load_config(
        None,
        {
            "warmup.epochs": 2,
            "warmup.batch_size": 30,
            "search.epochs": 3,
            "search.batch_size": 16,
            "gates.every": 4,
            "gates.batch_size": 8,
            "derive.networks": 5,
            "derive.generations": 1,
            "derive.pictures": 20,
            "derive.finalists": 4,
            "derive.round": 0.25,
            "train.epochs": 8,
            "train.batch_size": 35,
            "comparison.random_networks": 2,
        },
    )
    work = {part: rest for part, *rest in list_work(config, PICTURES)}
    # Epochs leave out what does not fill a batch: 3 batches of 30 of 100 pictures, 6 of 16.
    gate_steps = sum((step + 1) % 4 == 0 for step in range(2 * 6))
    assert work == {
        "warm-up": ["weight", 2 * 3, 30],
        "search, weights": ["weight", 3 * 6, 16],
        "search, gates": ["gate", gate_steps, 8],
        "short list": ["score", 10 * 3, 8],
        # Four train for a quarter and two up to a half, of which the winner's half is not lost.
        "finalists": ["train", (4 * 0.25 + 2 * 0.25 - 0.5) * 8 * 4, 35],
        "training": ["train", 3 * 8 * 4, 35],
        "validation": ["score", 3 * 8, 30],
    }


def test_a_published_search_has_no_short_list(tmp_path: Path) -> None:
    given = {"derive.networks": 0, "gates.mode": "reinforce", "gates.networks": 7}
    config = load_config(None, {**given, "search.batch_size": 10, "gates.every": 9})
    parts = {each.part: each for each in list_work(config, PICTURES)}
    assert parts["search, gates"].kind == "score"
    assert parts["search, gates"].steps == 7 * (119 * 10 // 9)
    assert not {"short list", "finalists"} & parts.keys()


@given(
    devices=st.integers(1, 8),
    fixed=st.floats(0, 1),
    each=st.floats(1e-6, 1),
    num_bytes=st.floats(0, 1e9),
    bandwidth=st.floats(1e6, 1e12),
)
def test_devices_share_batches_and_wait_for_each_other(
    devices: int, fixed: float, each: float, num_bytes: float, bandwidth: float
) -> None:
    config = load_config(None, {"search.batch_size": 16, "derive.networks": 0})
    alone = estimate(config, PICTURES, costs(fixed, each, num_bytes), FREE, 1)
    free = estimate(config, PICTURES, costs(fixed, each, num_bytes), FREE, devices)
    real = estimate(config, PICTURES, costs(fixed, each, num_bytes), Cluster(bandwidth), devices)
    assert alone.wire_bytes == 0
    assert alone.total / devices <= free.total * (1 + 1e-9) <= alone.total * (1 + 2e-9)
    assert free.total <= real.total
    step = real.steps["weight"]
    sent = 2 * (devices - 1) / devices * num_bytes
    assert real.wire_bytes == pytest.approx(sent)
    assert step.waiting >= sent / bandwidth - step.compute
    shared = Cluster(bandwidth, latency=0, overlap=0)
    stopped = estimate(config, PICTURES, costs(fixed, each, num_bytes), shared, devices)
    assert stopped.steps["weight"].waiting == pytest.approx(sent / bandwidth)
    assert real.device_hours == pytest.approx(devices * real.total / 3600)


def test_no_batch_has_more_pictures_than_there_are() -> None:
    config = load_config(None, {"gates.every": 1})
    assert {each.part: each.batch_size for each in list_work(config, PICTURES)} == {
        "warm-up": 100,
        "search, weights": 100,
        "search, gates": 40,
        "short list": 40,
        "finalists": 140,
        "training": 140,
        "validation": 30,
    }
    assert estimate(config, PICTURES, costs(), FREE, 1).memory == 1e6 + 100 * 1e3


def test_gradients_of_several_paths_wait_for_backward() -> None:
    given = {"warmup.paths_per_step": 2, "search.paths_per_step": 2}
    slow, fast = Cluster(bandwidth=1e9, latency=0), Cluster(bandwidth=1e9, latency=0, overlap=0)
    told = [
        estimate(load_config(None, settings), PICTURES, costs(num_bytes=1e7), cluster, 2).steps
        for settings, cluster in ((given, slow), ({}, fast), ({}, slow))
    ]
    assert told[0]["weight"] == told[1]["weight"] != told[2]["weight"]
    assert told[0]["train"] == told[2]["train"]


def test_steps_wait_for_pictures() -> None:
    config = load_config(None, {})
    slow = estimate(config, PictureCounts(5000, 5000, 0), costs(), Cluster(loading=100), 4)
    step = slow.steps["weight"]
    assert step.loading == pytest.approx(64 / 100)
    assert step.total == pytest.approx(64 / 100 + step.waiting)


def test_a_batch_for_each_device() -> None:
    config, pictures = load_config(None, {}), PictureCounts(10_000, 10_000, 0)
    with pytest.raises(UserError, match=r"512 devices cannot share a batch of 256 .*raise batch"):
        estimate(config, pictures, costs(), FREE, 512)
    one, many = (
        estimate(config, pictures, costs(fixed=1.0), FREE, number, batch_per_device=4)
        for number in (1, 512)
    )
    assert many.steps["weight"] == one.steps["weight"]
    assert many.total < one.total / 300


def test_steps_counted_and_their_bytes() -> None:
    space = SPACE.model_copy(update={"stages": SPACE.stages[1:]})
    counted = count_steps(load_config(None, {}), space, tflops=1e-6)
    with torch.device("meta"):
        networks = [
            Network(space.architecture(choices))
            for choices in itertools.product(*map(range, space.counts))
        ]
    mean = sum(map(count_parameters, networks)) / len(networks)
    assert counted.reduced["weight"] == pytest.approx(4 * mean)
    assert counted.reduced["gate"] == 4 * len(space.counts) * max(space.counts)
    assert counted.seconds["train"].at(10) == pytest.approx(3 * counted.seconds["score"].at(10))


@pytest.mark.parametrize("weights", ["separate", "shared"])
def test_bytes_of_several_paths_are_those_of_what_any_of_them_uses(weights: str) -> None:
    space = SPACE.model_copy(update={"weights": weights})
    config = load_config(None, {"warmup.paths_per_step": 3, "search.paths_per_step": 2})
    planned = count_steps(config, space, tflops=1).reduced["weight"]
    edges, draws, drawn = SuperNet(space).edges, torch.Generator().manual_seed(0), []
    for _ in range(400):
        used = edges.used(edges.draw_apart(3, draws))
        drawn.append(sum(weight[part].nbytes for weight, part in used.items()))
    # Whatever is shared, BatchNorms are not.
    assert planned == pytest.approx(sum(drawn) / 400, rel=0.02 if weights == "separate" else 0.2)


def test_memory_is_what_the_dearest_path_keeps() -> None:
    line = count_steps(load_config(None, {}), SPACE, tflops=1).memory
    supernet = SuperNet(SPACE)
    kept = {}
    for size in (8, 16):
        supernet.edges.activate([SPACE.candidates.index("k5e2")] * len(SPACE.counts))
        with SavedTensors(supernet) as saved:
            supernet(torch.rand(size, 3, 8, 8))
        kept[size] = saved.bytes + 4 * size * 3 * 8 * 8
    assert line.at(16) - line.at(8) == pytest.approx(kept[16] - kept[8], rel=0.01)
    # Weights and their momentum.
    assert line.at(16) > kept[16] + 2 * 4 * count_parameters(supernet)


@pytest.mark.parametrize(
    "points", [[(2, 3.0), (6, 5.0)], [(2, 1.0), (4, 3.0)], [(2, 5.0), (4, 1.0)]]
)
def test_lines_neither_fall_nor_begin_below_zero(points: list[tuple[int, float]]) -> None:
    line = Line.through(points)
    assert line.fixed >= 0
    assert line.each >= 0
    if points[0][1] == 3.0:
        assert [line.at(2), line.at(6)] == [3.0, 5.0]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tmp_path_factory.mktemp("scaling"))


def test_steps_are_measured(config: Config) -> None:
    measured = measure_steps(config, SPACE, (4, 8))
    assert all(measured.seconds[kind].at(8) > 0 for kind in KINDS)
    assert measured.source == "steps of 4 and 8 pictures, measured here"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *arguments])
    return result.exit_code, result.output


def test_the_command(tmp_path: Path) -> None:
    out, figure = tmp_path / "plan.json", tmp_path / "plan.svg"
    given = ("--space", "cifar_mbconv", "--pictures", "50000", "--val-pictures", "10000")
    files = ("--out", str(out), "--figure", str(figure))
    code, told = run(*given, "--tflops", "0.5", "--price", "2", *files)
    assert code == 0, told
    rows = [line for line in told.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 1 + 9
    assert "not for more devices: 512 devices cannot share a batch of 256 pictures" in told
    written = json.loads(out.read_text())
    assert [each["devices"] for each in written["estimates"]] == [2**n for n in range(9)]
    assert figure.read_text().lstrip().startswith("<?xml")
    code, again = run(*given, "--steps", str(out), "--price", "2")
    assert code == 0
    assert again == told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--devices", "0"), "--devices is 0; give at least 1"),
        (("--bandwidth", "0"), "--bandwidth is 0; give a number from 1e-06 to 1e+09"),
        (("--tflops", "nan"), "--tflops is nan; give a number from 1e-06 to 1e+09"),
        (("--tflops", "1e-300"), "--tflops is 1e-300; give a number from"),
        (("--pictures", "0"), "--pictures is 0; give at least 1"),
        (("--classes", "5"), "--val-pictures and --classes are for pictures that are not at hand"),
        (("--pictures", "20", "--val-pictures", "-1"), "--val-pictures is -1; give 0 or more"),
        (("--pictures", "20", "--classes", "0"), "num_classes"),
        (("--pictures", "5"), "5 training pictures are too few for 10 classes; give at least two"),
        (("--pictures", "20", "--data", "digits"), "not at hand; leave it or --data out"),
        (
            ("--pictures", "20", "--classes", "5", "--set", "search.epochs=1"),
            "the search would not learn",
        ),
        (("--message", "-1"), "--message is -1; give 0 or more"),
        (
            ("--pictures", "50000", "--tflops", "1", "--devices", "300"),
            "300 devices cannot share a batch of 256 pictures",
        ),
        (
            (
                "--pictures",
                "50000",
                "--tflops",
                "1",
                "--devices",
                "2",
                "--set",
                "search.paths_per_step=3",
            ),
            "paths_per_step is 3 and there are 2 ranks; give a multiple",
        ),
        (("--tflops", "1", "--steps", "x.json"), "both say how fast a device is"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], sentence: str) -> None:
    code, told = run(*arguments)
    assert code == 1
    assert sentence in " ".join(told.split())


def test_a_file_without_steps(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    code, told = run("--pictures", "50000", "--steps", str(tmp_path / "other.json"))
    assert code == 1
    assert "holds no steps; give a file that plan --out has written" in " ".join(told.split())
