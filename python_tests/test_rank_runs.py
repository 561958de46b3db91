"""Whole runs on several ranks: one writes, and all stop, fail and go on together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rank_processes import on_ranks
from sittings import Blow, sit_on_ranks
from test_phase import Walk, strike
from test_sizes import begun_run
from test_specialise import two_devices
from tiny_runs import PHASES, begin, remains, search, tiny_config, write_inputs
from torch import Tensor
from typer.testing import CliRunner

from proxyless_ext import ranks
from proxyless_ext.cli import app
from proxyless_ext.cli.planning import planned
from proxyless_ext.config import load_config
from proxyless_ext.data import Inventory, load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.runs import Run, load_checkpoint, read_metrics
from proxyless_ext.runs.checkpoint import Snapshot
from proxyless_ext.training import agreement
from proxyless_ext.training.agreement import check_ranks
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.running import run_phase

SETTINGS = {"train.dropout": 0.2, "train.weights": "inherit", "search.paths_per_step": 2}


def new_run(folder: Path, **settings: Any) -> Run:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return begin(folder / "run", tiny_config(folder, {**SETTINGS, **values}))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a search on two ranks leaves, and the names of its files."""
    run = new_run(tmp_path_factory.mktemp("undisturbed"), checkpoint_seconds=1e9)
    assert sit_on_ranks(run) == [(0, ""), (0, "")]
    return {**remains(run), "files": files(run)}


def files(run: Run) -> set[Path]:
    return {
        path.relative_to(run.folder)
        for path in run.folder.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }


def test_a_search_on_two_ranks_leaves_what_one_does(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run = new_run(tmp_path, checkpoint_seconds=1e9)
    search(run)
    report = {Path("report.html"), Path("network.onnx")}
    assert files(run) - report == undisturbed["files"] - report
    alone, together = remains(run)["records"], undisturbed["records"]
    coordinates = [(record["phase"], record["epoch"], record["step"]) for record in alone]
    assert coordinates == [
        (record["phase"], record["epoch"], record["step"]) for record in together
    ]
    sent = {record["phase"] for record in together if record["reduced_bytes"]}
    assert sent == {*PHASES} - {"shortlist"}
    assert all(record["reduced_bytes"] is None for record in alone)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_and_resumed_it_ends_with_the_same_bits(
    undisturbed: dict[str, Any], tmp_path: Path, phase: str, killed: int
) -> None:
    run = new_run(tmp_path)
    blows: list[Blow | None] = [None, None]
    blows[killed] = Blow(phase, 1, 0.01)
    sittings = sit_on_ranks(run, blows)
    assert sittings[killed][0] == -signal.SIGKILL
    code, errors = sittings[1 - killed]
    assert code == 1
    assert f"rank {1 - killed} has lost the others: one has ended" in errors
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    assert sit_on_ranks(run) == [(0, ""), (0, "")]
    assert {**remains(run), "files": files(run)} == undisturbed


@pytest.mark.slow
def test_several_networks_are_found_on_several_ranks(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = two_devices(tmp_path / "whole"), two_devices(tmp_path / "killed")
    assert sit_on_ranks(whole) == [(0, ""), (0, "")]
    assert sit_on_ranks(killed, [Blow("finalists", 1, 0.01), None])[0][0] == -signal.SIGKILL
    assert sit_on_ranks(killed) == [(0, ""), (0, "")]
    assert remains(killed) == remains(whole)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    sit_on_ranks(run, [Blow("search", 4, 0.0), None, None])
    search(run)
    assert run.outcome.comparison_path.exists()


# What the ranks of a phase do together.


class Trek(Walk):
    """A walk of all ranks, which have something happen to them before some steps."""

    def __init__(self, folder: Path, happens: Callable[[], None], step: int) -> None:
        super().__init__()
        self.happens, self.at = happens, step

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(epoch, start), 3 * epoch + start):
            if step == self.at and ranks.place()[0] == 1:
                self.happens()
            yield batch

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        torch.manual_seed(step)  # All ranks walk alike.
        super().step(step, pictures, labels, meter)


def fail() -> None:
    raise UserError("this picture cannot be read")


def unplugged(snapshot: Snapshot, path: Path) -> None:
    if dict(json.loads(snapshot.tree)["dict"])["batch"] == 2:
        raise UserError("the disk is gone")
    write(snapshot, path)


write = Snapshot.write


def treks(folder: Path) -> dict[str, tuple[list[int], str]]:
    """The steps that a rank took, and its sentence, by what happened."""
    found = {}
    for name, happens in (
        ("stop", lambda: strike(signal.SIGTERM)),
        ("failure", fail),
        ("no disk", lambda: None),
        ("drift", lambda: None),
    ):
        run = Run.create(folder / name, {}, 0, {})
        walk = Trek(folder, happens, step=4)
        Snapshot.write = unplugged if name == "no disk" else write  # type: ignore[method-assign]
        if name == "drift":
            walk.happens = lambda walk=walk: walk.position.add_(2**-20)
        with pytest.raises(UserError) as error:
            run_phase(walk, run, seed=3, checkpoint_seconds=0.0)
        found[name] = (walk.taken, str(error.value))
    return found


def test_what_happens_to_one_rank_happens_to_all(tmp_path: Path) -> None:
    first, second = on_ranks(treks, tmp_path)
    for steps, sentence in (first["stop"], second["stop"]):
        assert steps == [0, 1, 2, 3]
        progress = "1 of 2 epochs and 1 of 3 batches"
        assert sentence.startswith(f"stopped in walk after {progress}; go on with --resume")
    assert load_checkpoint(Run(tmp_path / "stop").checkpoint("walk"))["batch"] == 1
    assert len(read_metrics(Run(tmp_path / "stop").metrics_path)) == 1
    assert first["failure"][0] == second["failure"][0] == [0, 1, 2, 3]
    assert first["failure"][1].startswith("rank 0 has lost the others: one has ended or does not")
    going_on = f"--resume {tmp_path / 'failure'}"
    assert second["failure"][1] == f"this picture cannot be read; then go on with {going_on}"
    assert load_checkpoint(Run(tmp_path / "failure").checkpoint("walk"))["batch"] == 1
    # It is noticed when the next checkpoint is due.
    assert first["no disk"] == second["no disk"] == ([0, 1, 2], "the disk is gone")
    assert first["drift"] == second["drift"]
    steps, sentence = first["drift"]
    assert steps == [0, 1, 2, 3]
    assert sentence.startswith("rank 1 of torch.distributed has drifted: its weights or alphas in")


# Ranks that would do something else are refused before anything is written.

OTHERS: dict[str, dict[str, Any]] = {
    "the same": {"data.workers": 1},
    "rate": {"search.lr": 0.3},
    "seed": {"seed": 7},
    "resumed": {},
    "pictures": {},
    "unreadable": {},
    "code": {},
}


def disagreements(folder: Path) -> dict[str, str]:
    found = {}
    is_other = ranks.place()[0] == 1
    config = tiny_config(folder)
    data = load_pictures(config.data, 8, 0)
    for name, settings in OTHERS.items():
        theirs, run, pictures = config, None, data
        if is_other:
            theirs = load_config(folder / "config.yaml", settings)
            run = Run(folder) if name == "resumed" else None
            if name == "pictures":
                fewer = data.inventory.model_dump()
                fewer["parts"]["train"][2]["count"] = 5
                pictures = replace(data, inventory=Inventory.model_validate(fewer))
            if name == "unreadable":
                readable = data.train_gates.part.select(torch.arange(len(data.train_gates) - 1))
                pictures = replace(data, train_gates=replace(data.train_gates, part=readable))
            if name == "code":
                code = {**agreement.describe_code(), "torch": "1.0"}
                agreement.describe_code = lambda code=code: code
        try:
            check_ranks(run, theirs, pictures)
            found[name] = ""
        except UserError as error:
            found[name] = str(error)
    return found


def test_ranks_that_disagree_are_refused(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(tmp_path))
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "config.yaml")
    first, second = on_ranks(disagreements, tmp_path)
    assert first == second
    assert first.pop("the same") == ""
    for name, says in {
        "rate": "search.lr is 0.3 there and 0.025 here; start all with the same",
        "seed": "seed is 7 there and 0 here",
        "resumed": "--resume is True there and False here",
        "pictures": "class '2' of train has 5 pictures instead of 177; start all with the same",
        "unreadable": "not the same pictures can be read there and here; start all with the same",
        "code": "torch is '1.0' there and '",
    }.items():
        assert f"rank 1 of torch.distributed differs from rank 0: {says}" in first[name]


@pytest.mark.parametrize("arguments", [["status", "."], ["bench"], ["derive", "."]])
def test_other_commands_are_one_process(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.strip() == (
        "error on rank 1: this command is one process, and it was started as one of 2; start it "
        "without torchrun"
    )


def plans(path: Path) -> tuple[dict[str, Any], str]:
    """What a rank plans with much and with little time."""
    settings, task = planned(load_config(path, {}), "10min")
    assert {*task.tables} == {""}
    with pytest.raises(UserError) as error:
        planned(load_config(path, {}), "1s")
    return settings.model_dump(mode="json"), re.sub(r"give \d+ min", "", str(error.value))


def test_ranks_plan_alike(tmp_path: Path) -> None:
    """Each has a clock of its own."""
    write_inputs(tmp_path)
    tree = {
        "data": {"source": "digits", "limit": 200},
        "space": {"name": str(tmp_path / "space.yaml")},
        "latency": {"table": str(tmp_path / "table.yaml")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    (settings, error), other = on_ranks(plans, tmp_path / "config.yaml")
    assert other == (settings, error)
    assert settings["train"]["epochs"] > 3
    assert error.startswith("a budget of 1 s is too small for 200 pictures")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:at size", "ignore:(no|only one) network of 'tiny'")
def test_several_sizes_are_searched_on_several_ranks(tmp_path: Path) -> None:
    whole, killed = begun_run(tmp_path / "whole"), begun_run(tmp_path / "killed")
    assert [code for code, _ in sit_on_ranks(whole)] == [0, 0]
    assert sit_on_ranks(killed, [None, Blow("search", 1, 0.01)])[1][0] == -signal.SIGKILL
    assert [code for code, _ in sit_on_ranks(killed)] == [0, 0]
    assert whole.has_ended
    for name, part in whole.sizes.items():
        assert remains(part) == remains(killed.sizes[name])


@pytest.mark.slow
def test_torchrun_searches_and_trains(tmp_path: Path) -> None:
    """By the launcher itself; Ctrl-C at it stops all ranks, and the run goes on."""
    settings = {"runtime__sync_batch_norm": True, "search__paths_per_step": 1}
    run = new_run(tmp_path, **settings)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = [*launch, "-m", "proxyless_ext"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    search = [*program, "search", "--resume", str(run.folder)]
    done = subprocess.run(search, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy:") == done.stdout.count("report:") == 1
    assert run.outcome.onnx_path.exists()
    verify = [*program, "verify", str(run.folder), "--networks", "2"]
    done = subprocess.run(verify, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    assert len(run.outcome.comparison.random) == 2
    trained = tmp_path / "trained"
    options = ["--out", str(trained), "--set", "train.epochs=40", "--set", "data.limit=100"]
    train = [*program, "train", str(run.outcome.architecture_path), *options]
    process = subprocess.Popen(train, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = Run(trained).metrics_path
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert errors.count("stopped in train after ") == 2, errors
    going_on = [*program, "train", "--resume", str(trained)]
    done = subprocess.run(going_on, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    judged = subprocess.run(
        [*program, "evaluate", str(trained)], env=environment, capture_output=True, text=True
    )
    accuracy = f"accuracy: {Run(trained).outcome.result.accuracy:.2%}"
    assert accuracy in done.stdout
    assert judged.stdout.startswith(accuracy)
