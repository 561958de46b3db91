"""Phases: training loops that can be killed at any moment and resumed bit by bit.

A phase is a fixed number of epochs over batches. `run_phase` drives it, writes its checkpoints and
records, stops cleanly on Ctrl-C and refuses to go on after a loss that is not finite. All
randomness of a step is a function of (seed, phase, epoch, batch), so a checkpoint holds state but
no random generators.
"""

from __future__ import annotations

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..progress import progress_bar
from ..runs import Run, load_checkpoint, save_checkpoint
from ..seeding import derive_seed


class Meter:
    """Running means over samples, as plain numbers so that no graph is kept."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums = state or {}

    def add(self, count: int, **values: float) -> None:
        """Add the means `values` of `count` samples."""
        for name, value in values.items():
            entry = self._sums.setdefault(name, [0.0, 0])
            entry[0] += value * count
            entry[1] += count

    def means(self) -> dict[str, float]:
        """Name to mean over everything added."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    @property
    def state(self) -> dict[str, list[float]]:
        return self._sums


class Phase(ABC):
    """One phase of a run: what a step does, and what must survive a kill.

    Attributes:
        name: of its checkpoint and its records.
        epochs: how many there are.
        num_batches: in every epoch.
    """

    name: str
    epochs: int
    num_batches: int

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures [B, 3, R, R] and labels [B] of an epoch, from batch `start` on."""

    @abstractmethod
    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        """Train on one batch, the `step`-th of the phase; add ``loss`` to `meter`."""

    @abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """After an epoch: what its record holds beside the meter's means."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a kill."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`."""


def run_phase(phase: Phase, run: Run, seed: int, checkpoint_seconds: float) -> float:
    """Run what is left of a phase.

    Args:
        phase: freshly built; it is brought to its last checkpoint if there is one.
        run: receives records and checkpoints.
        seed: of the run.
        checkpoint_seconds: between checkpoints, beside those after every epoch.

    Returns:
        Seconds spent in this phase, over all sittings.

    Raises:
        UserError: the loss or the weights are no longer finite, or Ctrl-C (the last checkpoint
            stays); or the checkpoint does not fit the phase.
    """
    sitting = _Sitting(phase, run)
    total, done = phase.epochs * phase.num_batches, sitting.epoch * phase.num_batches
    if sitting.epoch >= phase.epochs:
        return sitting.seconds
    with _stop_requests() as stop, progress_bar(phase.name, total, done + sitting.batch) as bar:
        while sitting.epoch < phase.epochs:
            epoch, meter = sitting.epoch, sitting.meter
            for pictures, labels in phase.batches(epoch, sitting.batch):
                torch.manual_seed(derive_seed(seed, phase.name, epoch, sitting.batch))
                step = epoch * phase.num_batches + sitting.batch
                phase.step(step, pictures, labels, meter)
                sitting.batch += 1
                bar.advance()
                bar.note(f"loss {meter.means()['loss']:.3f}")
                if not _is_finite(meter.state):
                    raise sitting.diverged("loss")
                if stop.requested or sitting.unsaved_seconds > checkpoint_seconds:
                    sitting.save()
                if stop.requested:
                    raise sitting.stopped()
            record = {"phase": phase.name, "step": (epoch + 1) * phase.num_batches, "epoch": epoch}
            run.log({**record, **meter.means(), **phase.end_epoch(epoch)})
            sitting.next_epoch()
            if stop.requested:
                raise sitting.stopped()
    return sitting.seconds


class _Sitting:
    """Where a phase stands, and its checkpoint.

    Attributes:
        epoch: the current one.
        batch: the next one of it.
        meter: of the epoch so far.
    """

    def __init__(self, phase: Phase, run: Run) -> None:
        self.phase = phase
        self.run = run
        self.epoch, self.batch, self.meter = 0, 0, Meter()
        self._path = run.checkpoint(phase.name)
        self._started = self._saved = time.monotonic()
        if self._path.exists():
            self._load()
        else:
            self.save()

    @property
    def seconds(self) -> float:
        """Spent in the phase, over all sittings."""
        return time.monotonic() - self._started

    @property
    def unsaved_seconds(self) -> float:
        """Since the last checkpoint."""
        return time.monotonic() - self._saved

    def next_epoch(self) -> None:
        """End an epoch."""
        self.epoch, self.batch, self.meter = self.epoch + 1, 0, Meter()
        self.save()

    def save(self) -> None:
        """Write the checkpoint, unless a step whose loss was finite led to weights that are not."""
        state = self.phase.state_dict()
        if not _is_finite(state):
            raise self.diverged("weights")
        checkpoint = {
            "phase": state,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "meter": self.meter.state,
            "records": self.run.num_records,
        }
        save_checkpoint(self._path, checkpoint)
        self._saved = time.monotonic()

    def _load(self) -> None:
        saved = load_checkpoint(self._path)
        try:
            self.phase.load_state_dict(saved["phase"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the checkpoint of {self.phase.name} in {self.run.folder} was made with another "
                "network or configuration; restore what was changed, or start a new run"
            ) from error
        self.epoch, self.batch, self.meter = saved["epoch"], saved["batch"], Meter(saved["meter"])
        self._started -= saved["seconds"]
        if self.epoch < self.phase.epochs:
            self.run.rewind(saved["records"])

    def diverged(self, what: str) -> UserError:
        return UserError(
            f"the {what} of {self.phase.name} became infinite or NaN in epoch {self.epoch}, batch "
            f"{self.batch}; lower its lr in {self.run.config_path} and go on with --resume "
            f"{self.run.folder}"
        )

    def stopped(self) -> UserError:
        return UserError(
            f"stopped in {self.phase.name}, epoch {self.epoch}; go on with --resume "
            f"{self.run.folder}"
        )


def _is_finite(state: Any) -> bool:
    """Whether all tensors and numbers in nested dicts and lists are finite."""
    if isinstance(state, dict):
        return all(map(_is_finite, state.values()))
    if isinstance(state, list | tuple):
        return all(map(_is_finite, state))
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    return not isinstance(state, float) or math.isfinite(state)


class _Stop:
    requested = False


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop honours after its step."""
    stop = _Stop()

    def request(signum: int, frame: FrameType | None) -> None:
        stop.requested = True
        for number, handler in previous.items():
            signal.signal(number, handler)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, request) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
