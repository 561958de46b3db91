"""Phases: training loops that can be killed at any moment and resumed bit by bit.

A phase is a fixed number of epochs over batches. `run_phase` drives it, writes its checkpoints and
records, stops cleanly on Ctrl-C and refuses to go on after a loss that is not finite. All
randomness of a step is a function of (seed, phase, epoch, batch), so a checkpoint holds state but
no random generators.

Several ranks take the same steps, each on its slice of the batch. All have the same state but for
BatchNorms' running statistics, of which those of the first rank count. It alone writes.
"""

from __future__ import annotations

import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ranks
from ..data import worker_failures
from ..errors import DiskFullError, UserError
from ..progress import Bar, progress_bar
from ..runs import Checkpoints, Epoch, Position, Run, phase_kind
from ..seeding import derive_seed
from .agreement import check_drift
from .meter import Meter
from .stopping import Interrupted, Stop, stop_requests

Batch = tuple[Tensor, Tensor]
"""Pictures [B, 3, R, R] and labels [B]."""

LOOK_SECONDS = 1.0
"""Between two looks at a loss that a device has to be waited for."""

POSITION_SECONDS = 5.0
"""Between two notes of the position, for those who look at the run from outside."""

NOTED_WAIT = 0.05
"""The part of the time from which on waiting for pictures is worth a word."""


class Phase(ABC):
    """One phase of a run: what a step does, and what must survive a kill.

    Attributes:
        name: of its checkpoint and its records.
        section: of the configuration that holds its learning rate.
        epochs: how many there are.
        num_batches: in every epoch.
    """

    name: str
    section: str
    epochs: int
    num_batches: int

    @property
    def kind(self) -> str:
        """What its random decisions are named after: equal for phases that do the same for
        different networks.
        """
        return phase_kind(self.name)

    def networks(self, epoch: int) -> int:
        """How many networks a step of an epoch trains, and so how long it takes."""
        return 1

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on; with several ranks, slices of them.

        Whatever else a step has to wait for is taken here, too, before it changes anything.
        """

    @abstractmethod
    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        """Train on one batch, the `step`-th of the phase; add ``loss`` of all of it to `meter`."""

    @abstractmethod
    def end_epoch(self, epoch: int, meter: Meter) -> Sequence[Epoch]:
        """After an epoch: its records, one for each network that it is about."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a kill."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`."""


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
        sitting = _Sitting(phase, run, checkpoints)
        if sitting.epoch < phase.epochs:
            _take_steps(sitting, seed, checkpoint_seconds)
        ranks.of_first(checkpoints.end)
    return sitting.seconds


def _take_steps(sitting: _Sitting, seed: int, checkpoint_seconds: float) -> None:
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
                batch = _take(batches, stop) if sitting.batch < phase.num_batches else None
                waited = time.monotonic() - asked
                stops, saves = _agree(stop.requested, sitting.unsaved_seconds > checkpoint_seconds)
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
                with _memory_suffices(phase, step, batch):
                    phase.step(step, pictures, labels, meter)
                sitting.batch += 1
                seen = sizes[epoch] * len(labels) * ranks.place()[1]
                bar.advance(sizes[epoch], seen, waited)
                sitting.look(bar)
            sitting.log(phase.end_epoch(epoch, meter))
            sitting.next_epoch()
            if _agree(stop.requested).stops:
                raise sitting.stopped()


class _Agreement(NamedTuple):
    """What all ranks do next: whatever one of them wants."""

    stops: bool
    saves: bool


def _agree(stops: bool = False, saves: bool = False, fails: bool = False) -> _Agreement:
    """Agree with all ranks before a step, which either all of them take or none.

    Args:
        stops: this rank was asked to stop.
        saves: a checkpoint is due here.
        fails: this rank cannot go on.

    Raises:
        InterruptionError: another rank cannot.
    """
    any_stops, any_saves, any_fails = ranks.any_of(stops, saves, fails)
    if any_fails and not fails:
        raise ranks.lost()
    return _Agreement(any_stops, any_saves)


def _take(batches: Iterator[Batch], stop: Stop) -> Batch | None:
    """The next batch; None where a stop was requested, which ends the wait for it.

    Raises:
        UserError: it cannot be read, of which the other ranks know then.
    """
    try:
        with suppress(Interrupted):
            return None if stop.requested else stop.take(batches)
    except UserError:
        _agree(fails=True)
        raise
    return None


@contextmanager
def _memory_suffices(phase: Phase, step: int, batch: Batch) -> Iterator[None]:
    """Around a step.

    Raises:
        UserError: it found too little memory; says what would fit, where one process can try.
    """
    try:
        yield
    except RuntimeError as error:
        if not _tells_of_memory(error):
            raise
    else:
        return
    # Not above, where the error keeps alive what the step has made.
    pictures = len(batch[1])
    fitting = None if ranks.are_several() else _largest_half(phase, step, batch)
    advice = f"{fitting} would fit" if fitting else "fewer may fit"
    raise UserError(
        f"there is not enough memory for a step of {phase.name} with {pictures} pictures on a "
        f"device; {advice}, so lower {phase.section}.batch_size or take more devices"
    )


def _largest_half(phase: Phase, step: int, batch: Batch) -> int | None:
    """The largest of a half, a quarter and so on of a batch that a step has room for, if any.

    The phase is of no use afterwards.
    """
    pictures, labels = batch
    size = len(labels)
    while size := size // 2:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        try:
            phase.step(step, pictures[:size], labels[:size], Meter())
            return size
        except RuntimeError as error:
            if not _tells_of_memory(error):
                return None
    return None


def _tells_of_memory(error: RuntimeError) -> bool:
    """Whether it is that of a GPU's or of the CPU's allocator, which has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


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
            _Sitting(phase, run, checkpoints, begun.steps, begun.seconds)


class _Sitting:
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
            self.run.write_position(
                Position(
                    label=bar.label,
                    done=bar.pace.done,
                    total=bar.total,
                    text=bar.text,
                    pictures_per_second=bar.pace.pictures_per_second,
                    seconds_left=bar.pace.seconds_left(bar.total),
                    time=time.time(),
                )
            )

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
            f"the {what} of {self.phase.name} became infinite or NaN in epoch {self.epoch}, before "
            f"batch {self.batch}; lower {self.phase.section}.lr in {self.run.config_path} and go "
            f"on with {self.run.going_on}"
        )

    def stopped(self) -> UserError:
        """What is said when the phase was asked to stop."""
        return UserError(
            f"stopped in {self.phase.name}, epoch {self.epoch}; go on with {self.run.going_on}"
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
