"""Run folders: their files, their records, and what kills and rewinding leave of these."""

import json
import math
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proxyless_ext.errors import UserError
from proxyless_ext.runs import (
    Beginning,
    Epoch,
    Run,
    SearchEpoch,
    TrainEpoch,
    check_output,
    new_folder,
    read_metrics,
)

CONFIG = {"search": {"epochs": 3, "lr": 4e-05}, "data": {"name": "digits", "path": "Bücher/ä"}}
PICTURES = {"classes": ["cat", "dog"], "parts": {}}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "deep" / "run", CONFIG, 3, PICTURES)


def untimed(run) -> list[Epoch]:
    return [record.model_copy(update={"time": None}) for record in read_metrics(run.metrics_path)]


def curves(run) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: the points of every curve."""
    events = EventAccumulator(str(run.tensorboard_path), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_new_run_says_what_it_is(run):
    assert yaml.safe_load(run.config_path.read_text()) == {**CONFIG, "seed": 3}
    environment = json.loads(run.environment_path.read_text())
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert environment["cores"] == os.cpu_count()
    assert environment["threads"] == torch.get_num_threads()
    assert {
        "python",
        "torchvision",
        "onnxruntime",
        "proxyless_ext",
        "cpu",
        "platform",
        "commit",
    } <= environment.keys()
    assert run.beginning == Beginning(pictures=PICTURES, settings={**CONFIG, "seed": 3})
    assert read_metrics(run.metrics_path) == []
    assert run.checkpoint("search").parent == run.checkpoints_path
    assert run.checkpoints_path.is_dir()


def test_every_path_is_in_the_folder_and_none_is_used_twice(run):
    values = [*vars(run).items(), *vars(run.outcome).items()]
    paths = [value for name, value in values if name.endswith("_path")]
    assert len(paths) == len(set(paths)) > 0
    assert {path.parent for path in paths} == {run.folder}


def test_a_folder_that_holds_a_run_is_not_begun_again(run):
    run.log(Epoch(phase="warmup", step=1, epoch=0, loss=1.0))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run; go on with it by --resume"):
        Run.create(run.folder, {}, 4, PICTURES)
    assert before == {path: path.read_bytes() for path in before}


def test_what_goes_on_with_a_run_can_be_pasted_into_a_shell() -> None:
    assert Run("runs/a").going_on == "--resume runs/a"
    assert shlex.split(Run("my runs/it's").going_on) == ["--resume", "my runs/it's"]


def test_what_a_kill_left_of_a_beginning_is_no_run(run):
    run.config_path.unlink()
    with pytest.raises(UserError, match="there is no run in"):
        Run.open(run.folder)
    Run.create(run.folder, CONFIG, 5, PICTURES)
    assert yaml.safe_load(run.config_path.read_text())["seed"] == 5


@pytest.mark.parametrize("folder", ["missing", "file", "."])
def test_no_run_to_open(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there is no run in"):
        Run.open(tmp_path / folder)


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*; choose another place"):
        Run.create(tmp_path / "file", {}, 0, PICTURES)


def test_records_come_back_with_their_types_and_time(run):
    started = time.time()
    found = {"expected": 2.0, "derived": 3.0, "trade_off": -0.5, "entropy": 1.0}
    records = [
        Epoch(phase="warmup", step=10, epoch=0, loss=0.1 + 0.2, lr=1e-300),
        SearchEpoch(
            phase="search", step=5, epoch=0, loss=math.inf, probabilities=((0.25, 0.75), (1.0,)),
            **found,
        ),
        TrainEpoch(phase="random-\u2028 ä\n", step=6, epoch=1, val_accuracy=0.5),
    ]  # fmt: skip
    for record in records:
        run.log(record)
    assert untimed(run) == records
    assert [type(record) for record in untimed(run)] == [Epoch, SearchEpoch, TrainEpoch]
    assert run.num_records == 3
    times = [record.time for record in read_metrics(run.metrics_path)]
    assert started <= times[0] <= times[1] <= times[2] <= time.time()


def test_numbers_become_curves(run):
    run.log(Epoch(phase="warmup", step=10, epoch=1, loss=0.5))
    run.log(Epoch(phase="warmup", step=20, epoch=2, loss=0.25))
    run.log(TrainEpoch(phase="train", step=10, epoch=0, val_loss=0.125))
    assert curves(run) == {
        "warmup/loss": [(10, 0.5), (20, 0.25)],
        "warmup/epoch": [(10, 1.0), (20, 2.0)],
        "train/epoch": [(10, 0.0)],
        "train/val_loss": [(10, 0.125)],
    }


def record(index: int) -> Epoch:
    """Of 4 steps of warm-up, then of a training."""
    phase = "warmup" if index < 4 else "train"
    kind = Epoch if index < 4 else TrainEpoch
    return kind(phase=phase, step=index % 4, epoch=0, loss=0.5**index)


@settings(max_examples=40)
@given(data=st.data())
def test_killed_and_resumed_leaves_what_an_uninterrupted_run_leaves(tmp_path_factory, data):
    run = Run(tmp_path_factory.mktemp("run"))
    run.metrics_path.touch()
    known = 0
    for _ in range(data.draw(st.integers(0, 2), label="kills")):
        reached = data.draw(st.integers(known, 7), label="records at the kill")
        for index in range(known, reached):
            run.log(record(index))
        line = record(reached).model_dump_json().encode() + b"\n"
        with run.metrics_path.open("ab") as file:
            file.write(line[: data.draw(st.integers(0, len(line) - 1), label="bytes of the next")])
        assert run.num_records == len(read_metrics(run.metrics_path)) == reached
        known = data.draw(st.integers(known, reached), label="records the checkpoint knows")
        run = Run(run.folder)
        run.rewind(known)
        assert run.num_records == known
    for index in range(known, 8):
        run.log(record(index))
    assert untimed(run) == [record(index) for index in range(8)]
    assert curves(run) == {
        "warmup/loss": [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125)],
        "warmup/epoch": [(step, 0.0) for step in range(4)],
        "train/loss": [(0, 2**-4), (1, 2**-5), (2, 2**-6), (3, 2**-7)],
        "train/epoch": [(step, 0.0) for step in range(4)],
    }


def test_half_a_line_does_not_spoil_the_next_without_rewinding(run):
    run.log(record(0))
    with run.metrics_path.open("ab") as file:
        file.write(b'{"phase": "sea')
    resumed = Run.open(run.folder)
    resumed.log(record(1))
    assert untimed(resumed) == [record(0), record(1)]
    assert curves(resumed)["warmup/loss"] == [(0, 1.0), (1, 0.5)]


def test_rewinding_in_the_same_process(run):
    for index in range(3):
        run.log(record(index))
    run.rewind(1)
    run.log(record(1))
    assert untimed(run) == [record(0), record(1)]
    assert curves(run)["warmup/loss"] == [(0, 1.0), (1, 0.5)]


def test_records_that_a_checkpoint_knew_but_are_gone(run):
    run.log(record(0))
    with pytest.raises(UserError, match=r"metrics\.jsonl holds 1 records, but .* after 2; restore"):
        run.rewind(2)
    run.metrics_path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl: No such file"):
        run.rewind(1)


@pytest.mark.parametrize("line", [b"{'phase': 1}\n", b"[1]\n", b"\n", b"\xff\xfe\n"])
def test_a_broken_line_is_named(run, line):
    run.log(record(0))
    with run.metrics_path.open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is no record"):
        read_metrics(run.metrics_path)


def test_full_disk_is_one_sentence_and_loses_no_record(run):
    for index in range(3):
        run.log(record(index))
    size = run.metrics_path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: .*free some disk"):
            run.log(record(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.metrics_path.stat().st_size == size + 20
    resumed = Run.open(run.folder)
    resumed.rewind(3)
    resumed.log(record(3))
    assert untimed(resumed) == [record(index) for index in range(4)]


# Forks loggers, kills each at a random moment, and looks at the records.
KILLS = """
import os, random, signal, sys, time
from proxyless_ext.runs import Run, TrainEpoch, read_metrics

random.seed(0)
run = Run.create(sys.argv[1], {}, 0, {})
assert run.num_records == 0 and "tensorboard" not in sys.modules  # Nothing but `log` waits for it.
import proxyless_ext.runs.curves  # So that the children need not.
last = 0
for _ in range(15):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        run = Run.open(run.folder)
        count = last
        while True:
            run.log(TrainEpoch(phase="x" * 5000, step=count, epoch=0))
            count += 1
            os.write(writer, b".")
    os.close(writer)
    os.read(reader, 1)
    time.sleep(random.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    promised = last + 1
    while data := os.read(reader, 4096):
        promised += len(data)
    steps = [record.step for record in read_metrics(run.metrics_path)]
    assert steps == list(range(len(steps)))
    assert promised <= len(steps) <= promised + 1, (promised, len(steps))
    last = len(steps)
    run.rewind(last)
print(last)
"""


def test_a_kill_at_any_moment_loses_at_most_the_current_record(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 20


OTHER = """
import sys
from proxyless_ext.errors import UserError
from proxyless_ext.runs import Run

try:
    Run.resume(sys.argv[1])
except UserError as error:
    print(error)
"""


def resume_elsewhere(folder) -> str:
    """What another process says that goes on with a run."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_one_process_works_on_a_run_at_a_time(run):
    said = resume_elsewhere(run.folder)
    assert re.fullmatch(
        rf".*run is in the hands of process {os.getpid()} on .*; wait until .*", said
    )
    Run.open(run.folder)  # Reading is free.
    run.let_go()
    assert resume_elsewhere(run.folder) == ""


def test_a_process_that_was_killed_holds_no_run(run):
    run.let_go()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        Run.resume(run.folder)
        grandchild = os.fork()  # As a reader of pictures is.
        os.write(writer, b"%d\n" % grandchild if grandchild else b"")
        time.sleep(60)
    grandchild = int(os.read(reader, 100))
    assert f"process {child}" in resume_elsewhere(run.folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert resume_elsewhere(run.folder) == ""
    os.kill(grandchild, signal.SIGKILL)


def test_resuming_clears_what_a_killed_writer_left(run):
    leftover = run.checkpoints_path / f".search.safetensors.{16 * '0'}.part"
    leftover.touch()
    Run.resume(run.folder)
    assert not leftover.exists()


NEW = """
import sys
from pathlib import Path
from proxyless_ext.runs import new_folder

print(*(new_folder(Path(sys.argv[1])) for _ in range(20)))
"""


def test_no_two_runs_get_one_folder(tmp_path):
    command = [sys.executable, "-c", NEW, str(tmp_path / "runs")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [folder for each in processes for folder in each.communicate()[0].split()]
    assert len(folders) == len(set(folders)) == 40
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        new_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["architecture.json", "latency.yaml", "network.onnx", ".lock"])
def test_no_command_writes_over_a_file_of_a_run(run, name, monkeypatch):
    monkeypatch.chdir(run.folder)
    with pytest.raises(UserError, match=rf"{name} is a file of the run in .*; choose another"):
        check_output(Path(name))
    check_output(Path("mine.json"))
