"""The pictures of a run: training, its split for the search, and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from ..progress import progress_bar
from ..seeding import derive_seed
from ..spaces import SMALL, Normalisation
from .bad_pictures import BadPictures, PictureError
from .config import DataConfig, Distortions
from .inventory import Inventory
from .parts import MemoryReader, Part
from .sources import open_source, open_test_pictures
from .transforms import augment, distort, fit, normalise

MEMORY_LIMIT = 512 * 2**20
"""Bytes of pixels, per part, up to which small pictures are kept in memory."""

NO_DISTORTIONS = Distortions()

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PictureSet(Dataset[tuple[Tensor, int]]):
    """A map-style data set of (picture float32 [3, R, R], label).

    Augmentation draws from torch's global generator; `batches` makes it a function of the seed.
    """

    part: Part
    transform: Transform
    normalise: Transform
    bad_pictures: BadPictures

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.normalise(self.pixels(index)), int(self.labels[index])

    @property
    def labels(self) -> Tensor:
        """Classes of the pictures, int64 [N]."""
        return self.part.labels

    def pixels(self, index: int) -> Tensor:
        """The transformed picture before normalisation, uint8 [3, R, R].

        Raises:
            PictureError: its file cannot be read.
        """
        return self.transform(self.part.pixels(index))


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run.

    Attributes:
        classes: names of the classes, in the order of the labels.
        train: all training pictures, augmented and distorted.
        train_weights, train_gates: their two parts in a search, augmented only.
        val: validation pictures, never augmented and never trained on.
        normalisation: what their pixels are normalised by.
        inventory: which pictures the source has, for a run to remember.
        left_out: how many files and folders of the source are no such pictures, by kind.
    """

    classes: tuple[str, ...]
    train: PictureSet
    train_weights: PictureSet
    train_gates: PictureSet
    val: PictureSet
    normalisation: Normalisation
    inventory: Inventory
    left_out: Mapping[str, int]

    def describe(self) -> Iterator[str]:
        """Lines about classes, counts and what was left out."""
        yield from self.inventory.describe()
        yield f"used: {len(self.train)} pictures to train on, {len(self.val)} to validate"
        if self.left_out:
            kinds = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds)
            yield f"left out: {listed}"


def load_pictures(
    config: DataConfig,
    resolution: int,
    seed: int,
    normalisation: Normalisation | None = None,
    distortions: Distortions = NO_DISTORTIONS,
) -> Pictures:
    """Open the source, split it by the seed, and read small pictures into memory.

    Args:
        config: which pictures, and how to split and augment them.
        resolution: height and width of the pictures, in pixels.
        seed: of the splits.
        normalisation: of a network trained before; the constants usual for the source if absent.
        distortions: of `Pictures.train`.

    Raises:
        UserError: the source cannot be used as it is, has too few pictures to split, or (unless
            `config.bad_pictures` is "skip") has an unreadable one among those read into memory; or
            the distortions do not fit the resolution.
    """
    source = open_source(config)
    classes = source.classes
    train, val = source.train, source.val
    if val is None:
        draw = derive_seed(seed, "split", "val")
        into = "weights, gates and validation"
        train, val = train.split(config.val_fraction, classes, into, draw, rest=2)
    if config.limit is not None:
        if config.limit < 2 * len(classes):
            raise UserError(
                f"data.limit is {config.limit}, but {len(classes)} classes need at least "
                f"{2 * len(classes)} training pictures; raise it"
            )
        train = train.limit(config.limit, derive_seed(seed, "limit"))

    bad_pictures = BadPictures(config.bad_pictures, config.bad_limit)
    if resolution <= SMALL:
        train = _in_memory(train, resolution, bad_pictures)
        val = _in_memory(val, resolution, bad_pictures)
        if len(val) == 0:
            raise UserError("no validation picture can be read; mend or replace them")
    draw = derive_seed(seed, "split", "gates")
    weights, gates = train.split(config.gate_fraction, classes, "weights and gates", draw)

    normalisation = normalisation or source.normalisation
    normalising = normalise(normalisation)

    def picture_set(part: Part, transform: Transform) -> PictureSet:
        return PictureSet(part, transform, normalising, bad_pictures)

    augmenting = augment(config.augment, resolution, source.mirrors)
    distorting = distort(augmenting, distortions, resolution, normalisation)
    return Pictures(
        classes=classes,
        train=picture_set(train, distorting),
        train_weights=picture_set(weights, augmenting),
        train_gates=picture_set(gates, augmenting),
        val=picture_set(val, fit(resolution)),
        normalisation=normalisation,
        inventory=source.inventory,
        left_out=source.left_out,
    )


def load_test_pictures(
    config: DataConfig, resolution: int, classes: Sequence[str], normalisation: Normalisation
) -> PictureSet:
    """Pictures that a network was not trained on, to test it.

    Args:
        config: names the source, whose part ``test`` is taken, else ``val``, else all of it.
        resolution: height and width of the pictures, in pixels.
        classes: of the network, in the order of its outputs.
        normalisation: of the network.

    Raises:
        UserError: the source cannot be used as it is, or has classes that the network has not.
    """
    part = open_test_pictures(config, classes)
    bad_pictures = BadPictures(config.bad_pictures, config.bad_limit)
    return PictureSet(part, fit(resolution), normalise(normalisation), bad_pictures)


def _in_memory(part: Part, resolution: int, bad_pictures: BadPictures) -> Part:
    """The part without its bad pictures, fitted and in memory; as it is if it is too large."""
    if len(part) * 3 * resolution**2 > MEMORY_LIMIT:
        return part
    fitting = fit(resolution)
    images = torch.empty(len(part), 3, resolution, resolution, dtype=torch.uint8)
    readable = torch.ones(len(part), dtype=torch.bool)
    with progress_bar("reading", len(part)) as bar:
        for index in range(len(part)):
            try:
                images[index] = fitting(part.pixels(index))
            except PictureError as error:
                bad_pictures.meet(error)
                readable[index] = False
            bar.advance()
    keys = list(part.keys())
    return Part.of(MemoryReader(images, keys), part.labels).select(readable)
