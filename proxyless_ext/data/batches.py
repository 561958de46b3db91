"""Batches as a pure function of what they are for.

The order of an epoch depends on (seed, phase, epoch) alone, and the augmentation of a picture on
these and its index: not on the number of workers, on what was read before, or on the batch it lands
in. So a resumed run sees what an uninterrupted one would have, several ranks see together what one
would alone, and torch's global generator is left as it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..seeding import derive_seed, generator
from .bad_pictures import PictureError
from .device_decoding import Files
from .parts import EncodedReader
from .pictures import PictureSet
from .workers import (
    WorkerError,
    handover_failures,
    leave_stops_to_main_process,
    share,
    worker_failures,
)

_Item = TypeVar("_Item")

Batches = Iterator[tuple[Tensor, Tensor]]
"""Pictures float32 [B, 3, R, R] and labels int64 [B]."""


def batches(
    dataset: PictureSet,
    batch_size: int,
    seed: int,
    phase: str,
    epoch: int,
    start: int = 0,
    workers: int = 0,
    shuffle: bool = True,
    pin: bool = False,
    decoding: torch.device | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """The batches of one epoch, from number `start` on; those before it cost nothing.

    Args:
        dataset: the pictures.
        batch_size: pictures a batch; one left out as unreadable makes its batch smaller.
        seed, phase, epoch: what order and augmentation depend on.
        start: number of the first batch to yield.
        workers: processes that read ahead, started anew for each call; 0 reads in this one.
        shuffle: for training: random order and full batches only, but always one batch. Otherwise,
            for evaluation, all pictures in their own order.
        pin: put the batches into pinned memory, from which copies to a GPU need no host.
        decoding: where JPEG files are decoded and all pictures augmented, which then are there; in
            the processes that read them if absent. Pictures in memory are decoded already.
        rank, world: the number of this process, and how many there are: each has its slice of every
            batch, and together they have it all. A training batch has no fewer pictures than ranks.

    Raises:
        UserError: a picture cannot be read and `bad_pictures` is "fatal", none of a whole
            training batch can be read, or the workers fail.
    """
    plan = _plan(len(dataset), batch_size, seed, phase, epoch, shuffle)
    slices = _slices(itertools.islice(plan, start, None), rank, world)
    return _read(dataset, slices, seed, phase, workers, pin, decoding, shuffle)


def endless(
    dataset: PictureSet,
    batch_size: int,
    seed: int,
    phase: str,
    start: int = 0,
    workers: int = 0,
    pin: bool = False,
    decoding: torch.device | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """The training batches of epochs 0, 1, 2, ... without end, from number `start` of them all on.

    Arguments and errors are those of `batches`; the workers live as long as the iterator.
    """
    first_epoch, skipped = divmod(start, batches_per_epoch(len(dataset), batch_size))
    plan = itertools.chain.from_iterable(
        _plan(len(dataset), batch_size, seed, phase, epoch)
        for epoch in itertools.count(first_epoch)
    )
    slices = _slices(itertools.islice(plan, skipped, None), rank, world)
    return _read(dataset, slices, seed, phase, workers, pin, decoding)


def batches_per_epoch(pictures: int, batch_size: int, shuffle: bool = True) -> int:
    """How many batches `batches` makes of so many pictures."""
    return max(1, pictures // batch_size) if shuffle else -(-pictures // batch_size)


@dataclass(frozen=True)
class _BatchPlan:
    """Which pictures a batch holds, and the epoch that their augmentation depends on."""

    epoch: int
    indices: list[int]


def _plan(
    pictures: int, batch_size: int, seed: int, phase: str, epoch: int, shuffle: bool = True
) -> Iterator[_BatchPlan]:
    if shuffle:
        order = torch.randperm(pictures, generator=generator(seed, "order", phase, epoch))
    else:
        order = torch.arange(pictures)
    for batch in order.split(batch_size)[: batches_per_epoch(pictures, batch_size, shuffle)]:
        yield _BatchPlan(epoch, batch.tolist())


def _slices(plan: Iterable[_BatchPlan], rank: int, world: int) -> Iterator[_BatchPlan]:
    """What one of several ranks has of every batch; sizes differ by at most one picture."""
    for batch in plan:
        first, end = (len(batch.indices) * each // world for each in (rank, rank + 1))
        yield _BatchPlan(batch.epoch, batch.indices[first:end])


_Made = tuple[Tensor, Tensor, list[PictureError]]
"""Pictures and labels of a batch, and errors about those of its pictures that cannot be read."""


@dataclass(frozen=True)
class _PlannedBatches(Dataset[_Made | WorkerError]):
    """Turns a plan into pictures, labels and errors."""

    dataset: PictureSet
    seed: int
    phase: str

    def __getitem__(self, plan: _BatchPlan) -> _Made | WorkerError:
        try:
            pictures, labels, errors = self.make(plan, self.dataset.part.pixels)
            return share(pictures), share(labels), errors
        except WorkerError as error:  # Raised here, it would arrive as a traceback.
            return error

    def make(self, plan: _BatchPlan, pixels: Callable[[int], Tensor]) -> _Made:
        """The batch of what `pixels` says that the pictures are, uint8 [3, H, W]."""
        pictures: list[Tensor] = []
        readable: list[int] = []
        errors: list[PictureError] = []
        with torch.random.fork_rng(devices=[]):
            for index in plan.indices:
                seed = derive_seed(self.seed, "augment", self.phase, plan.epoch, index)
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs.
                try:
                    pictures.append(self.dataset.transform(pixels(index)))
                    readable.append(index)
                except PictureError as error:
                    errors.append(error)
        made = self.dataset.normalise(torch.stack(pictures)) if pictures else torch.empty(0)
        return made, self.dataset.labels[readable], errors


@dataclass(frozen=True)
class _PlannedFiles(Dataset[tuple[_BatchPlan, Files] | WorkerError]):
    """Reads the files of a plan, for a device to decode."""

    reader: EncodedReader
    numbers: Tensor

    def __getitem__(self, plan: _BatchPlan) -> tuple[_BatchPlan, Files] | WorkerError:
        numbers = self.numbers[plan.indices].tolist()
        files = Files.read(self.reader, dict(zip(plan.indices, numbers, strict=True)))
        try:
            share(files.content)
        except WorkerError as error:
            return error
        return plan, files


def _read(
    dataset: PictureSet,
    plan: Iterable[_BatchPlan],
    seed: int,
    phase: str,
    workers: int,
    pin: bool,
    decoding: torch.device | None,
    training: bool = True,
) -> Batches:
    planned = _PlannedBatches(dataset, seed, phase)
    reader = dataset.part.reader
    with worker_failures(), handover_failures():
        if decoding is None or not isinstance(reader, EncodedReader):
            made = _load(planned, plan, workers, pin)
        else:
            files = _load(_PlannedFiles(reader, dataset.part.numbers), plan, workers, pin=False)
            made = (planned.make(batch, read.decode(decoding)) for batch, read in files)
        for pictures, labels, errors in made:
            for error in errors:
                dataset.bad_pictures.meet(error)
            if len(labels) > 0:
                yield pictures, labels
            elif training:
                raise UserError(
                    "no picture of a batch, or of a rank's part of one, can be read, "
                    f"{errors[0].path} among them; mend them"
                )


def _load(
    dataset: Dataset[_Item | WorkerError], plan: Iterable[_BatchPlan], workers: int, pin: bool
) -> Iterator[_Item]:
    """What `dataset` makes of each of the plan's batches, in order."""
    loader = DataLoader(
        dataset,
        batch_size=None,  # An item is a whole batch.
        sampler=plan,
        num_workers=workers,
        worker_init_fn=leave_stops_to_main_process,
        generator=torch.Generator(),  # Otherwise it draws from the global one.
        pin_memory=pin,
    )
    for item in loader:
        if isinstance(item, WorkerError):
            raise item
        yield item
