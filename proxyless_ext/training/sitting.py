"""Where a phase stands, as its checkpoint has it, and what is said and looked at meanwhile."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from .. import ranks
from ..errors import DiskFullError, InterruptionError, UserError
from ..progress import Bar
from ..runs import Checkpoints, Epoch, Position, Run
from .agreement import check_drift
from .meter import Meter
from .phase import Phase

LOOK_SECONDS = 1.0
"""Between two looks at a loss that a device has to be waited for."""

POSITION_SECONDS = 5.0
"""Between two notes of the position, for those who look at the run from outside."""

NOTED_WAIT = 0.05
"""The part of the time from which on waiting for pictures is worth a word."""


class Sitting:
    """Where a phase stands, and its checkpoint, which is made if there is none.

    Args:
        phase: of the run.
        run: that has its checkpoint.
        checkpoints: of the phase.
        steps, seconds: that were taken, if there is no checkpoint.

    Attributes:
        epoch: the current one.
        batch: the next one of it.
        meter: of the epoch so far.
    """

    def __init__(
        self,
        phase: Phase,
        run: Run,
        checkpoints: Checkpoints,
        steps: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.phase = phase
        self.run = run
        self.checkpoints = checkpoints
        self.epoch, self.batch = divmod(steps, phase.num_batches)
        self.meter = Meter()
        self._saved = time.monotonic()
        self._started = self._saved - seconds
        self._looked = self._noted = -math.inf
        if saved := ranks.of_first(checkpoints.read):
            self._load(saved)
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

    def look(self, bar: Bar) -> None:
        """See to it that the loss is finite, and now and then say where the phase stands."""
        now = time.monotonic()
        is_due = now - self._looked >= LOOK_SECONDS
        if is_due or not self.meter.waits:
            self._check_loss()
        if not is_due:
            return
        self._looked = now
        if "loss" in (means := self.meter.means()):
            note, pace = f"loss {means['loss']:.3f}", bar.pace
            if pace.waiting > NOTED_WAIT:
                note += f", {pace.waiting:.0%} of the time for pictures"
                note += f" (steps alone {pace.steps_alone:.0f}/s)"
            bar.note(note)
        if now - self._noted >= POSITION_SECONDS and ranks.is_first():
            self._noted = now
            position = Position(
                label=bar.label,
                done=bar.pace.done,
                total=bar.total,
                text=bar.text,
                pictures_per_second=bar.pace.pictures_per_second,
                seconds_left=bar.pace.seconds_left(bar.total),
                time=time.time(),
            )
            with suppress(DiskFullError):  # The next checkpoint speaks of it.
                self.run.write_position(position)

    def log(self, records: Sequence[Epoch]) -> None:
        """Write the records of an epoch."""

        def write() -> None:
            for record in records:
                self.run.log(record)

        ranks.of_first(write)

    def next_epoch(self) -> None:
        """End an epoch."""
        self.epoch, self.batch, self.meter = self.epoch + 1, 0, Meter()
        if self.epoch < self.phase.epochs:
            self.begin_to_save()
        else:
            self.save()

    def save(self) -> None:
        """`begin_to_save`, and wait until the checkpoint is on the disk."""
        self.begin_to_save()
        ranks.of_first(self.checkpoints.finish)

    def begin_to_save(self) -> None:
        """Begin to write a checkpoint, unless a step whose loss was finite led to weights that are
        not; where the disk was too full for the one before, warn.
        """
        state = self.phase.state_dict()
        check_drift(self.phase.name, state)
        try:
            ranks.of_first(self._begin_to_save, state)
        except DiskFullError as error:
            if ranks.is_first():
                warnings.warn(f"{error}; until then a kill costs more", stacklevel=2)
        self._saved = time.monotonic()

    def _begin_to_save(self, state: dict[str, Any]) -> None:
        self._check_loss()
        if not _is_finite(state):
            raise self._diverged("weights")
        checkpoint = {
            "phase": state,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "meter": self.meter.state,
            "records": self.run.num_records,
        }
        self.checkpoints.begin(checkpoint)

    def _load(self, saved: dict[str, Any]) -> None:
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
            ranks.of_first(self.run.rewind, saved["records"])

    def _check_loss(self) -> None:
        if not _is_finite(self.meter.state):
            raise self._diverged("loss")

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"the {what} of {self.phase.name} became infinite or NaN after {self._progress}; lower "
            f"{self.phase.section}.lr in {self.run.config_path} and go on with {self.run.going_on}"
        )

    def stopped(self) -> UserError:
        """What is said when the phase was asked to stop."""
        return UserError(
            f"stopped in {self.phase.name} after {self._progress}; go on with {self.run.going_on}"
        )

    def failed(self, error: UserError) -> UserError:
        """What is said when no batch could be had."""
        if isinstance(error, InterruptionError):  # To which the command adds what to do then.
            return error
        return UserError(f"{error}; then go on with {self.run.going_on}")

    @property
    def _progress(self) -> str:
        epochs = f"{self.epoch} of {self.phase.epochs} epochs"
        return f"{epochs} and {self.batch} of {self.phase.num_batches} batches"


def _is_finite(state: Any) -> bool:
    """Whether all tensors and numbers in nested dicts and lists are finite."""
    if isinstance(state, dict):
        return all(map(_is_finite, state.values()))
    if isinstance(state, list | tuple):
        return all(map(_is_finite, state))
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    return not isinstance(state, float) or math.isfinite(state)
