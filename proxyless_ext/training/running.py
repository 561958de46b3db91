"""Runs phases, which can be killed at any moment and resumed bit by bit.

`run_phase` drives a phase, writes its checkpoints and records, stops cleanly on Ctrl-C and refuses
to go on after a loss that is not finite. All randomness of a step is a function of (seed, phase,
epoch, batch), so a checkpoint holds state but no random generators.

Several ranks take the same steps, each on its slice of the batch. All have the same state but for
BatchNorms' running statistics, of which those of the first rank count. It alone writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from .. import ranks
from ..data import worker_failures
from ..errors import DiskFullError, UserError
from ..progress import progress_bar
from ..runs import Epoch, Run
from ..seeding import derive_seed
from .memory import memory_suffices
from .phase import Batch, Phase
from .sitting import Sitting
from .stopping import Interrupted, Stop, stop_requests


def run_phase(
    phase: Phase, run: Run, seed: int, checkpoint_seconds: float, checkpoints_kept: int = 2
) -> float:
    """Run what is left of a phase.

    Args:
        phase: freshly built; it is brought to its last checkpoint if there is one.
        run: receives records and checkpoints.
        seed: of the run.
        checkpoint_seconds: between checkpoints, beside those after every epoch.
        checkpoints_kept: until the phase ends, which leaves its last one.

    Returns:
        Seconds spent in this phase, over all sittings.

    Raises:
        UserError: the loss or the weights are no longer finite, or Ctrl-C (the last checkpoint
            stays); or the checkpoint does not fit the phase.
    """
    with run.checkpoints(phase.name, checkpoints_kept) as checkpoints:
        sitting = Sitting(phase, run, checkpoints)
        if sitting.epoch < phase.epochs:
            _take_steps(sitting, seed, checkpoint_seconds)
        ranks.of_first(checkpoints.end)
    return sitting.seconds


def _take_steps(sitting: Sitting, seed: int, checkpoint_seconds: float) -> None:
    phase = sitting.phase
    sizes = [phase.networks(epoch) for epoch in range(phase.epochs)]
    total = phase.num_batches * sum(sizes)
    done = phase.num_batches * sum(sizes[: sitting.epoch]) + sitting.batch * sizes[sitting.epoch]
    with (
        worker_failures(),
        stop_requests() as stop,
        progress_bar(phase.name, total, done) as bar,
    ):
        while sitting.epoch < phase.epochs:
            epoch, meter = sitting.epoch, sitting.meter
            batches = phase.batches(epoch, sitting.batch)
            while True:
                asked = time.monotonic()
                is_over = sitting.batch == phase.num_batches
                batch, failure = (None, None) if is_over else _take(batches, stop)
                waited = time.monotonic() - asked
                is_due = sitting.unsaved_seconds > checkpoint_seconds
                stops, saves, fails = _agree(stop.requested, is_due, failure is not None)
                if fails:
                    with suppress(DiskFullError):  # What failed first is said.
                        sitting.save()
                    raise sitting.failed(failure) if failure else ranks.lost()
                if stops:
                    sitting.save()
                    raise sitting.stopped()
                if saves:
                    sitting.begin_to_save()
                if batch is None:
                    break
                pictures, labels = batch
                seed_step(seed, phase.kind, epoch, sitting.batch)
                step = epoch * phase.num_batches + sitting.batch
                with memory_suffices(phase, step, batch):
                    phase.step(step, pictures, labels, meter)
                sitting.batch += 1
                seen = sizes[epoch] * len(labels) * ranks.place()[1]
                bar.advance(sizes[epoch], seen, waited)
                sitting.look(bar)
            sitting.log(_end_epoch(sitting))
            sitting.next_epoch()
            if _agree(stop.requested).stops:
                ranks.of_first(sitting.checkpoints.finish)
                raise sitting.stopped()


class _Agreement(NamedTuple):
    """What all ranks do next: whatever one of them wants."""

    stops: bool
    saves: bool
    fails: bool


def _agree(stops: bool = False, saves: bool = False, fails: bool = False) -> _Agreement:
    """Agree with all ranks before a step, which either all of them take or none.

    Args:
        stops: this rank was asked to stop.
        saves: a checkpoint is due here.
        fails: this rank cannot go on.
    """
    return _Agreement(*ranks.any_of(stops, saves, fails))


def _take(batches: Iterator[Batch], stop: Stop) -> tuple[Batch | None, UserError | None]:
    """The next batch, and why it could not be read; neither where a stop was requested, which ends
    the wait for it.
    """
    try:
        with suppress(Interrupted):
            if not stop.requested:
                return stop.take(batches), None
    except UserError as error:
        return None, error
    return None, None


def _end_epoch(sitting: Sitting) -> Sequence[Epoch]:
    """The records of an epoch.

    Raises:
        UserError: pictures could not be read; a process that is alone saves before.
    """
    try:
        return sitting.phase.end_epoch(sitting.epoch, sitting.meter)
    except UserError as error:
        if not ranks.are_several():  # Of which others would wait in the middle of it.
            with suppress(DiskFullError):
                sitting.save()
        raise sitting.failed(error) from error


def seed_step(seed: int, kind: str, epoch: int, batch: int) -> None:
    """Seed what a step draws from torch's own generator, such as dropout: on each rank another.

    Args:
        seed: of the run.
        kind: of the phase.
        epoch, batch: of the step.
    """
    rank, _ = ranks.place()
    torch.manual_seed(derive_seed(seed, kind, epoch, batch, *([rank] if rank else [])))


class Begun(NamedTuple):
    """The first steps of a phase, taken elsewhere.

    Attributes:
        steps: how many they were.
        seconds: that they took.
        state: in which they left the phase.
    """

    steps: int
    seconds: float
    state: dict[str, Any]


def begin_phase(phase: Phase, run: Run, begun: Begun) -> None:
    """Let `run_phase` go on after these steps, unless the phase has got somewhere itself."""
    if not ranks.of_first(run.checkpoint(phase.name).exists):
        phase.load_state_dict(begun.state)
        with run.checkpoints(phase.name) as checkpoints:
            Sitting(phase, run, checkpoints, begun.steps, begun.seconds)
