"""What is seen of a run that goes on: lines, the status, and stops that do not wait."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_phase import Walk, strike
from tiny_runs import begin, tiny_config
from torch import Tensor

from proxyless_ext import progress
from proxyless_ext.errors import UserError
from proxyless_ext.progress import Bar, clock, progress_bar
from proxyless_ext.report.status import BARS, describe_status, sparkline
from proxyless_ext.runs import Position, Result, Run, SearchEpoch, TrainEpoch
from proxyless_ext.training.continuity import keep_end
from proxyless_ext.training.running import run_phase


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a file instead of a terminal."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=300))
    return file


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, of one entry."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_at_least_every_thirty_seconds(
    written: io.StringIO, seconds: list[float]
) -> None:
    with progress_bar("search", total=1200, done=200) as bar:
        last = 0
        for step in range(1000):
            seconds[0] += 0.5
            bar.advance(pictures=64)
            bar.note(f"loss {2 - step / 1000:.3f}")
            if len(written.getvalue()) > last:
                last = len(written.getvalue())
                shown = seconds[0]
            assert seconds[0] - (shown if last else 0) < 30
    lines = written.getvalue().splitlines()
    assert len(lines) == 25
    assert lines[0] == "search: 240 of 1200, loss 1.962, 128 pictures/s, 8:00 left"
    assert lines[-1] == "search: 1200 of 1200, loss 1.001, 128 pictures/s"


def test_what_is_soon_done_needs_no_line(written: io.StringIO) -> None:
    with progress_bar("reading", total=3) as bar:
        for _ in range(3):
            bar.advance()
    assert written.getvalue() == ""


def test_times_are_read_at_a_glance() -> None:
    assert [clock(value) for value in (0.4, 59, 60, 3599.6, 7325)] == [
        "0:00", "0:59", "1:00", "1:00:00", "2:02:05",
    ]  # fmt: skip


def test_sparklines_go_from_low_to_high() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BARS
    assert sparkline([7, math.nan, 0]) == "█ ▁"
    assert sparkline([3.0]) == sparkline([0.0]) == "▁"
    assert sparkline([]) == ""
    long = sparkline([*range(1000)])
    assert len(long) == 60
    assert long[-1] == "█"
    assert sorted(long, key=BARS.index) == list(long)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(tmp_path / "run", tiny_config(tmp_path))


def test_the_status_says_where_a_run_stands(run: Run) -> None:
    assert list(describe_status(run)) == [
        f"{run.folder}: stopped; go on with --resume {run.folder}"
    ]
    found = {"expected": 2.0, "derived": 3.0, "trade_off": 0.0, "probabilities": ()}
    for epoch, accuracy in enumerate([0.1, 0.4, 0.8]):
        run.log(SearchEpoch(phase="search", step=epoch, epoch=epoch, loss=2 - epoch / 2,
                            accuracy=accuracy, entropy=1.5, **found))  # fmt: skip
    run.log(TrainEpoch(phase="train", step=1, epoch=0, val_accuracy=0.75))
    lines = list(describe_status(run))
    assert lines[1] == "search, 3 epochs:"
    assert lines[2].split() == ["loss", f"█{BARS[round(3.5)]}▁", "1"]
    assert lines[3].split() == ["accuracy", "▁▄█", "0.8"]
    assert lines[-2:] == ["train, 1 epoch:", "  val_accuracy  ▁  0.75"]
    for index, accuracy in enumerate([0.5, 0.7, 0.6]):
        for kind in ("random", "shortlist"):
            run.log(
                TrainEpoch(phase=f"{kind}-{index}@a-40%", step=1, epoch=0, val_accuracy=accuracy)
            )
    assert list(describe_status(run)) == [
        *lines,
        "random@a-40%: 3 networks trained to compare with, val_accuracy 0.5 to 0.7",
        "shortlist@a-40%: 3 networks trained to compare with, val_accuracy 0.5 to 0.7",
    ]
    run.outcome.result_path.write_text("{}")
    assert next(describe_status(run)) == f"{run.folder}: finished"
    run.space_path.write_text("of a search")
    told = f"{run.folder}: networks found, but not yet compared; go on with --resume {run.folder}"
    assert next(describe_status(run)) == told
    keep_end(run)
    told = f"{run.folder}: finished, but for its report; write it with report {run.folder}"
    assert next(describe_status(run)) == told
    run.report_path.write_text("")
    run.outcome.write_result(
        Result(accuracy=0.75, top5=1.0, parameters=1200, macs=34000, predicted=2.0, measured=2.5)
    )
    assert list(describe_status(run))[:6] == [
        f"{run.folder}: finished, with {run.report_path}",
        "accuracy:          75.00% (top-5 100.00%)",
        "parameters:        1,200",
        "MACs:              34,000",
        "predicted latency: 2.00 ms",
        "measured latency:  2.50 ms (25.0 % above the prediction)",
    ]


def test_the_status_of_sizes_says_which_are_compared(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {"space": {"width_mults": [0.5, 1, 2], "resolutions": [8]}}, 0, {})
    devices = {"devices": {"cpu": {"target": "40%"}}}
    beyond = {**devices, "left_out": ["cpu-40%"]}
    for part, config in zip(run.sizes.values(), (devices, devices, beyond), strict=True):
        Run.create(part.folder, config, 0, {}).space_path.write_text("of a search")
    first, second, _ = run.sizes.values()
    for part in (first, second):
        outcome = part.outcome_of("cpu-40%")
        outcome.folder.mkdir(parents=True)
        outcome.write_result(Result(accuracy=0.5, predicted=2.0, target=2.0))
    keep_end(first)
    found = "cpu-40%  accuracy 50.00%, predicted 2.00 ms (target 2.00 ms), measured not here"
    uncompared = "networks found, but not yet compared"
    assert list(describe_status(Run(tmp_path))) == [
        f"{tmp_path}: {uncompared}; go on with --resume {tmp_path}",
        *("w0.5-r8: finished", found, f"w1-r8: {uncompared}", found),
        "w2-r8: no target within reach",
    ]
    keep_end(second)
    assert next(describe_status(Run(tmp_path))).startswith(f"{tmp_path}: finished, but for its")


def test_what_goes_on_by_another_command_says_so(run: Run) -> None:
    run.goes_on_by("verify", "a folder", "--networks", "2")
    walk = Walk()
    walk.on_step[1] = lambda: strike(signal.SIGINT)
    with pytest.raises(UserError, match=r"; go on with verify 'a folder' --networks 2$"):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)


def test_a_phase_notes_its_position(run: Run) -> None:
    run_phase(Walk(), run, seed=3, checkpoint_seconds=1e9)
    position = Position.model_validate_json(run.position_path.read_text())
    assert (position.label, position.done, position.total) == ("walk", 1, 6)
    assert position.text.startswith("loss ")
    assert time.time() - position.time < 60


class SlowPictures(Walk):
    """Waits so long for every batch, and takes a second for a step."""

    def __init__(self, clock: list[float], wait: float) -> None:
        super().__init__()
        self.clock, self.wait = clock, wait

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(epoch, start):
            self.clock[0] += self.wait
            yield batch

    def step(self, *arguments: Any) -> None:
        self.clock[0] += 1
        super().step(*arguments)


@pytest.mark.parametrize(
    # A step of a second trains on one picture.
    ("wait", "said"),
    [(3.0, r", 75% of the time for pictures \(steps alone 1/s\)"), (0.01, "")],
)
def test_the_bar_says_which_waits(
    run: Run, seconds: list[float], monkeypatch: pytest.MonkeyPatch, wait: float, said: str
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Bar, "note", lambda bar, text: notes.append(text))
    run_phase(SlowPictures(seconds, wait), run, seed=3, checkpoint_seconds=1e9)
    assert len(notes) == 6
    assert all(re.fullmatch(rf"loss -?[\d.]+{said}", note) for note in notes), notes


class Crowd(Walk):
    """Trains three networks in its first epoch, and one in the second."""

    def networks(self, epoch: int) -> int:
        return 3 if epoch == 0 else 1


def test_the_time_left_counts_the_networks_that_a_step_trains(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(Bar, "note", lambda bar, text: seen.append((bar.pace.done, bar.total)))
    monkeypatch.setattr("proxyless_ext.training.sitting.LOOK_SECONDS", 0.0)
    run_phase(Crowd(), run, seed=3, checkpoint_seconds=1e9)
    assert seen == [(done, 12) for done in (3, 6, 9, 10, 11, 12)]


class Waiting(Walk):
    """Waits for ever for a batch of its second epoch."""

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(epoch, start):
            if epoch == 1:
                threading.Event().wait()
            yield batch


def test_a_stop_does_not_wait_for_pictures(run: Run) -> None:
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    said = "stopped in walk after 1 of 2 epochs and 0 of 3 batches; go on with --resume"
    with pytest.raises(UserError, match=said):
        run_phase(Waiting(), run, seed=3, checkpoint_seconds=1e9)
    resumed = Walk()
    run_phase(resumed, run, seed=3, checkpoint_seconds=1e9)
    assert resumed.taken == [3, 4, 5]


def test_a_stop_while_a_batch_is_read_leaves_it_for_later(run: Run) -> None:
    class Gated(Walk):
        def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step, batch in enumerate(super().batches(epoch, start), 3 * epoch + start):
                if step == 4 and not released:
                    strike(signal.SIGINT)
                yield batch

    released: list[bool] = []
    stopped = Gated()
    with pytest.raises(UserError, match="stopped in walk"):
        run_phase(stopped, run, seed=3, checkpoint_seconds=1e9)
    released.append(True)
    resumed = Gated()
    run_phase(resumed, run, seed=3, checkpoint_seconds=1e9)
    assert stopped.taken + resumed.taken == [0, 1, 2, 3, 4, 5]
