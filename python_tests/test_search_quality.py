"""The ground truth of a tiny space, and what searches of it are said to have found."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
from pathlib import Path

import pytest
import yaml
from pages import ROOT
from tiny_runs import SPACE, begin, table_of

from benchmarks import beside_random, oracle_gates, search_quality, trainings
from benchmarks.quality import Found, KnownBand, SearchScore, describe, look_up
from benchmarks.truth import Training, Truth, TruthNetwork, truth_settings
from proxyless_ext.config import Config, LatencyConfig, load_config
from proxyless_ext.data import load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.runs import Result, Run
from proxyless_ext.search import Task
from proxyless_ext.search.derivation import best_finalists
from proxyless_ext.search.stages import Stages
from proxyless_ext.spaces import Space, Stage, read_model

TINY = Space(
    **SPACE.model_dump(exclude={"stages", "candidates", "name"}),
    name="tiniest",
    candidates=("k3e1", "k5e2", "zero"),
    stages=(Stage(channels=4, cells=1), Stage(channels=6, cells=2, stride=2)),
)
NETWORKS = [*itertools.product(range(3), range(2), range(3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and the truth that was made by it."""
    folder = tmp_path_factory.mktemp("truth")
    TINY.save(folder / "space.yaml")
    table_of(TINY).save(folder / "table.yaml")
    config = {
        "runtime": {"threads": 1},
        "data": {"limit": 100, "val_fraction": 0.05, "augment": "none"},
        "space": {"name": "space.yaml"},
        "latency": {"table": "table.yaml", "tolerance": 0.3, "target": "50%"},
        "warmup": {"epochs": 1, "batch_size": 16},
        "search": {"epochs": 2, "batch_size": 16},
        "gates": {"every": 1, "batch_size": 16},
        "derive": {"networks": 6, "generations": 1, "pictures": 32, "finalists": 4, "round": 0.25},
        "train": {"epochs": 2, "batch_size": 8, "ema_decay": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    trainer = trainings.Trainer.load(load_config(folder / "config.yaml", {}))
    trainings.train_all(trainer, NETWORKS, folder / "truth.json", seeds=2, processes=1)
    return folder


def load(folder: Path) -> tuple[Config, Truth]:
    config = load_config(folder / "config.yaml", {})
    data = load_pictures(config.data, TINY.resolution, config.seed)
    path = folder / "truth.json"
    return config, Truth.load(path, truth_settings(config), TINY, data.inventory)


def test_every_network_is_in_it_twice(folder: Path) -> None:
    config, truth = load(folder)
    assert [network.choices for network in truth.networks] == NETWORKS
    table = table_of(TINY)
    for network in truth.networks:
        assert len(network.trainings) == 2
        assert network.predicted_ms == pytest.approx(
            table.predict(TINY.architecture(network.choices)), rel=1e-5
        )
        assert all(len(training.curve) == 8 for training in network.trainings)
    trainer = trainings.Trainer.load(config)
    assert trainer.train(NETWORKS[7], 1) == truth[NETWORKS[7]].trainings[1]


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, truth = load(folder)
    journal = folder / "truth.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-2]) + lines[-1][:20])  # Killed while it wrote a line.
    (folder / "truth.json").unlink()
    trainer = trainings.Trainer.load(config)
    out = folder / "truth.json"
    assert trainings.train_all(trainer, NETWORKS, out, seeds=2, processes=1) == truth

    monkeypatch.setattr(trainings, "ProcessPoolExecutor", None)
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.2})})
    with pytest.raises(UserError, match=r"truth\.jsonl is of other settings, pictures or networks"):
        trainings.train_all(trainings.Trainer.load(other), NETWORKS, out, seeds=2, processes=1)


def test_the_table_that_comes_along_is_of_its_configuration() -> None:
    path = ROOT / "benchmarks" / "ground_truth" / "fashion.json"
    config = load_config(path.with_suffix(".yaml"), {})
    pictures = read_model(Truth, path).pictures
    space = config.space.build().with_classes(len(pictures.classes))
    assert len(Truth.load(path, truth_settings(config), space, pictures).networks) == 576


def test_tables_of_something_else_are_refused(folder: Path) -> None:
    config, truth = load(folder)
    path, settings = folder / "truth.json", truth_settings(config)
    with pytest.raises(UserError, match="is of another space than 'tiny'; give its own table"):
        Truth.load(path, settings, SPACE, truth.pictures)
    names = (*truth.pictures.classes[:-1], "nine")
    other = truth.pictures.model_copy(update={"classes": names})
    with pytest.raises(UserError, match="is of other pictures: class 'nine' is new"):
        Truth.load(path, settings, TINY, other)
    with pytest.raises(UserError, match="was made with other settings of data or train"):
        Truth.load(path, {**settings, "train": {}}, TINY, truth.pictures)
    shared = TINY.model_copy(update={"weights": "shared"})
    assert Truth.load(path, settings, shared, truth.pictures) == truth


def test_finalists_compete_by_the_table_as_in_a_run(folder: Path, tmp_path: Path) -> None:
    config, truth = load(folder)
    for seed in (0, 1):
        seeded = config.model_copy(update={"seed": seed})
        (tmp_path / str(seed)).mkdir()
        run = begin(tmp_path / str(seed) / "run", seeded)
        task = Task.load(config, None)  # The split of the truth's pictures is that of its own seed.
        stages = Stages.prepare(run, seeded, task)
        finalists = random.Random(seed).sample(NETWORKS, 6)
        score = SearchScore(
            seed=seed, target="50%", finalists=finalists, round=0.25, scored=(), trainings=3.0
        )
        found = Found.of(score, KnownBand(truth, config.latency))
        (best,) = best_finalists(stages, stages.search(), [finalists])
        assert found.network.choices == best
        assert found.trainings == 3.0 + (6 + 3 + 2 * 2) / 4


def made_up(accuracies: list[float]) -> Truth:
    """A truth in which all networks take 1 ms."""
    trainings = [Training(accuracy=each, loss=1 - each, curve=(1.0,) * 8) for each in accuracies]
    return Truth.model_construct(
        space=TINY,
        networks=tuple(
            TruthNetwork(
                choices=choices, parameters=1, macs=1, predicted_ms=1.0, trainings=(training,)
            )
            for choices, training in zip(NETWORKS, trainings, strict=True)
        ),
    )


def test_places_in_a_band(folder: Path) -> None:
    accuracies = [0.5 + index / 100 for index in range(17)]
    truth = made_up([*accuracies, 0.5])
    table = folder / "table.yaml"
    band = KnownBand(truth, LatencyConfig(table=table, target="1ms", tolerance=0.01))
    best, worst, tie = truth[NETWORKS[16]], truth[NETWORKS[1]], truth[NETWORKS[0]]
    assert band.percentile(best) == 1.0
    assert band.percentile(worst) == pytest.approx(2 / 17)
    assert band.percentile(tie) == pytest.approx(0.5 / 17)
    assert band.regret(best) == 0
    sd = statistics.stdev([*accuracies, 0.5])
    assert band.regret(worst) == pytest.approx(0.15 / sd)
    assert band.matches(best, 5, 0) == 1.0
    # The second best is beaten where the best is among the five drawn of 18.
    second = truth[NETWORKS[15]]
    assert band.matches(second, 5, 0) == pytest.approx(13 / 18, abs=4 * math.sqrt(0.2 / 2000))
    assert band.matches(tie, 1, 0) == pytest.approx(2 / 18, abs=4 * math.sqrt(0.1 / 2000))


def test_searches_are_scored_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "quality"
    command = [
        *("search_quality", str(folder / "truth.json"), "--config", str(folder / "config.yaml")),
        *("--out", str(out), "--seeds", "2", "--targets", "40%", "60%", "--processes", "1"),
        *("--figure", str(folder / "quality.svg")),
    ]
    monkeypatch.setattr(sys, "argv", command)
    search_quality.main()
    printed = capsys.readouterr().out
    scores = search_quality.read_scores(out / "search.jsonl")
    assert {(score.seed, score.target) for score in scores} == {
        *itertools.product((0, 1), ("40%", "60%"))
    }
    config, truth = load(folder)
    for score in scores:
        latency = config.latency.model_copy(update={"target": score.target})
        members = {network.choices for network in KnownBand(truth, latency).networks}
        assert {network.choices for network in score.scored} == members
        assert set(score.finalists) <= members
        assert score.trainings > 0
    assert "\n".join(describe(look_up(truth, config.latency, {"search": scores}))) in printed
    assert "| **search** | 4 |" in printed
    assert (folder / "quality.svg").stat().st_size > 0

    # What there is stays.
    monkeypatch.setattr(search_quality, "score_search", None)
    search_quality.main()
    assert capsys.readouterr().out == printed


def test_the_oracle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(oracle_gates, "TARGETS", ("50%",))
    monkeypatch.setattr(oracle_gates, "TOLERANCE", 0.3)
    table = str(folder / "table.yaml")
    command = ["oracle_gates", str(folder / "truth.json"), "--latency", table, "--steps", "20"]
    monkeypatch.setattr(sys, "argv", command)
    oracle_gates.main()
    assert capsys.readouterr().out.count("\n") == 3


def finished_run(folder: Path, space: Space, choices: tuple[int, ...] | None) -> Path:
    """A run folder with what is read of one that has ended."""
    run = Run.create(folder, {}, 0, {})
    space.save(run.space_path)
    run.outcome.write_result(Result(choices=choices))
    return folder


@pytest.mark.slow
def test_found_and_random_networks_beside_each_other(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, truth = load(folder)
    found = [NETWORKS[3], NETWORKS[8], NETWORKS[8]]
    runs = [str(finished_run(tmp_path / str(i), TINY, each)) for i, each in enumerate(found)]
    config, out = str(folder / "config.yaml"), tmp_path / "figures.json"
    others = ["--networks", "4", "--out", str(out), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["beside_random", *runs, "--config", config, *others])
    beside_random.main()
    printed = capsys.readouterr().out
    trainer = trainings.Trainer.load(load_config(folder / "config.yaml", {}))
    random_ones = beside_random.random_ones(trainer, 4)
    trained = {network.choices: network for network in read_model(Truth, out).networks}
    assert set(trained) == {*found, *random_ones}
    # As in the truth, which was made of all networks.
    assert all(network == truth[choices] for choices, network in trained.items())
    assert "\n".join(beside_random.describe(truth, found, random_ones)) in printed


def test_chance_is_told_from_what_is_better(folder: Path) -> None:
    truth = made_up([0.5 + index / 100 for index in range(18)])
    *_, better = beside_random.describe(truth, NETWORKS[12:], NETWORKS[:12])
    # The only one of all divisions of 18 networks into 6 and 12 with such a difference.
    p = 1 / math.comb(18, 6)
    assert f"+9.00 points, p = {p:.2g}; a network found is as good as 100%" in better
    *_, worse = beside_random.describe(truth, NETWORKS[:2], NETWORKS[2:])
    assert "-9.00 points, p = 1;" in worse


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a"], "one run tells nothing of its settings; give two or more of other seeds"),
        (["a", "b", "b"], "a run is given twice; give each of them once"),
        (["a", "b", "--networks", "1"], "--networks is 1; give at least 2"),
        (["a", "b", "--seeds", "0"], "--seeds is 0; give at least 1"),
        (["a", "b", "--processes", "0"], "--processes is 0; give at least 1"),
    ],
)
def test_comparisons_that_tell_nothing(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["beside_random", *arguments, "--config", "none.yaml", "--out", "out.json"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(UserError, match=sentence):
        beside_random.main()


def test_runs_of_something_else_are_refused(tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other", SPACE, (0, 0, 0, 0))
    with pytest.raises(UserError, match="other searched another space than 'tiniest'; leave it"):
        beside_random.found_in(other, TINY)
    early = finished_run(tmp_path / "early", TINY, None)
    with pytest.raises(UserError, match="early has not ended; go on with --resume"):
        beside_random.found_in(early, TINY)
