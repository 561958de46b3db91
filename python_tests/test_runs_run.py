"""Run folders: their files, their records, and what kills and rewinding leave of these."""

import json
import math
import os
import resource
import subprocess
import sys
import time

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proxyless_ext.errors import UserError
from proxyless_ext.runs import Run, read_metrics

CONFIG = {"search": {"epochs": 3, "lr": 4e-05}, "data": {"name": "digits", "path": "Bücher/ä"}}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "deep" / "run", CONFIG, seed=3)


def untimed(run) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k != "time"}
        for record in read_metrics(run.metrics_path)
    ]


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
    assert read_metrics(run.metrics_path) == []
    assert run.checkpoint("search").parent == run.checkpoints_path
    assert run.checkpoints_path.is_dir()


def test_every_path_is_in_the_folder_and_none_is_used_twice(run):
    paths = [value for name, value in vars(run).items() if name.endswith("_path")]
    assert len(paths) == len(set(paths)) > 0
    assert {path.parent for path in paths} == {run.folder}


def test_a_folder_that_holds_a_run_is_not_begun_again(run):
    run.log({"phase": "search", "step": 1, "loss": 1.0})
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run; go on with it by --resume"):
        Run.create(run.folder, {}, seed=4)
    assert before == {path: path.read_bytes() for path in before}


def test_what_a_kill_left_of_a_beginning_is_no_run(run):
    run.config_path.unlink()
    with pytest.raises(UserError, match="there is no run in"):
        Run.open(run.folder)
    Run.create(run.folder, CONFIG, seed=5)
    assert yaml.safe_load(run.config_path.read_text())["seed"] == 5


@pytest.mark.parametrize("folder", ["missing", "file", "."])
def test_no_run_to_open(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there is no run in"):
        Run.open(tmp_path / folder)


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*; choose another place"):
        Run.create(tmp_path / "file", {}, seed=0)


def test_records_come_back_with_their_time(run):
    started = time.time()
    records = [
        {"phase": "warmup", "step": 10, "loss": 0.1 + 0.2, "lr": 1e-300},
        {"phase": "search", "step": 5, "loss": math.inf, "probabilities": [[0.25, 0.75], [1.0]]},
        {"phase": "search", "step": 6, "note": "line\nbreak \u2028 ä", "nothing": None, "epoch": 1},
    ]
    for record in records:
        run.log(record)
    assert untimed(run) == records
    assert run.num_records == 3
    times = [record["time"] for record in read_metrics(run.metrics_path)]
    assert started <= times[0] <= times[1] <= times[2] <= time.time()


def test_numbers_become_curves(run):
    run.log({"phase": "warmup", "step": 10, "loss": 0.5, "epoch": 1, "name": "x", "list": [1.0]})
    run.log({"phase": "warmup", "step": 20, "loss": 0.25})
    run.log({"phase": "search", "step": 10, "loss": 0.125})
    assert curves(run) == {
        "warmup/loss": [(10, 0.5), (20, 0.25)],
        "warmup/epoch": [(10, 1.0)],
        "search/loss": [(10, 0.125)],
    }


def record(index: int) -> dict:
    """Of 4 steps of warm-up, then of the search."""
    return {"phase": "warmup" if index < 4 else "search", "step": index % 4, "loss": 0.5**index}


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
        line = json.dumps(record(reached)).encode() + b"\n"
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
        "search/loss": [(0, 2**-4), (1, 2**-5), (2, 2**-6), (3, 2**-7)],
    }


def test_half_a_line_does_not_spoil_the_next_without_rewinding(run):
    run.log(record(0))
    with run.metrics_path.open("ab") as file:
        file.write(b'{"phase": "sea')
    resumed = Run.open(run.folder)
    resumed.log(record(1))
    assert untimed(resumed) == [record(0), record(1)]
    assert curves(resumed) == {"warmup/loss": [(0, 1.0), (1, 0.5)]}


def test_rewinding_in_the_same_process(run):
    for index in range(3):
        run.log(record(index))
    run.rewind(1)
    run.log(record(1))
    assert untimed(run) == [record(0), record(1)]
    assert curves(run) == {"warmup/loss": [(0, 1.0), (1, 0.5)]}


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
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: .*--resume"):
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
from proxyless_ext.runs import Run, read_metrics

random.seed(0)
run = Run.create(sys.argv[1], {}, seed=0)
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
            run.log({"phase": "search", "step": count, "text": "x" * 5000})
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
    steps = [record["step"] for record in read_metrics(run.metrics_path)]
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
