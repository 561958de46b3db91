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
        UserError: the training diverged, or Ctrl-C (the last checkpoint stays); or the checkpoint
            does not fit the phase.
    """
    path = run.checkpoint(phase.name)
    epoch, batch, seconds, meter = 0, 0, 0.0, Meter()
    if path.exists():
        saved = load_checkpoint(path)
        _restore(phase, saved["phase"], run)
        epoch, batch, seconds = saved["epoch"], saved["batch"], saved["seconds"]
        meter = Meter(saved["meter"])
        if epoch >= phase.epochs:
            return seconds
        run.rewind(saved["records"])

    started = time.monotonic() - seconds
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal saved_at
        state = phase.state_dict()
        # A step whose loss was finite may have led to weights that are not.
        if not _is_finite(state):
            raise diverged("weights")
        state = {
            "phase": state,
            "epoch": epoch,
            "batch": batch,
            "seconds": time.monotonic() - started,
            "meter": meter.state,
            "records": run.num_records,
        }
        save_checkpoint(path, state)
        saved_at = time.monotonic()

    def diverged(what: str) -> UserError:
        return UserError(
            f"the {what} of {phase.name} became infinite or NaN in epoch {epoch}, batch {batch}; "
            f"lower its lr in {run.config_path} and go on with --resume {run.folder}"
        )

    def stopped() -> UserError:
        return UserError(
            f"stopped in {phase.name}, epoch {epoch}; go on with --resume {run.folder}"
        )

    total = phase.epochs * phase.num_batches
    with (
        _stop_requests() as stop,
        progress_bar(phase.name, total, epoch * phase.num_batches + batch) as bar,
    ):
        if not path.exists():
            save()
        while epoch < phase.epochs:
            for pictures, labels in phase.batches(epoch, batch):
                torch.manual_seed(derive_seed(seed, phase.name, epoch, batch))
                phase.step(epoch * phase.num_batches + batch, pictures, labels, meter)
                batch += 1
                means = meter.means()
                bar.advance()
                bar.note(f"loss {means['loss']:.3f}")
                if not _is_finite(means):
                    raise diverged("loss")
                if stop.requested or time.monotonic() - saved_at > checkpoint_seconds:
                    save()
                if stop.requested:
                    raise stopped()
            step = (epoch + 1) * phase.num_batches
            record = {"phase": phase.name, "step": step, "epoch": epoch}
            run.log({**record, **meter.means(), **phase.end_epoch(epoch)})
            epoch, batch, meter = epoch + 1, 0, Meter()
            save()
            if stop.requested:
                raise stopped()
    return time.monotonic() - started


def _restore(phase: Phase, state: dict[str, Any], run: Run) -> None:
    try:
        phase.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the checkpoint of {phase.name} in {run.folder} was made with another network or "
            f"another configuration; restore what was changed, or start a new run"
        ) from error


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
