"""Sources of pictures: folders, shards, and data sets by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..spaces import Normalisation
from .config import DataConfig
from .folder import Listing, find_parts, list_classes, list_folder, names
from .inventory import Inventory
from .parts import FileReader, MemoryReader, Part
from .shards import ShardIndex, has_shards, shard_parts

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10 = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
FASHION_MNIST = Normalisation(mean=(0.2860,) * 3, std=(0.3530,) * 3)
DIGITS = Normalisation(mean=(0.3055,) * 3, std=(0.3235,) * 3)  # Enlarged to 32x32.


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Attributes:
        classes: names of the classes, in the order of the labels.
        train: the pictures to train on, and where the source makes no difference, all.
        val, test: pictures that are held out, where the source has such.
        normalisation: the constants usual for these pictures; for folders and shards, those of
            ImageNet.
        mirrors: whether a picture keeps its meaning when mirrored.
        left_out: how many files and folders are none of these pictures, by kind.
    """

    classes: tuple[str, ...]
    train: Part
    val: Part | None
    normalisation: Normalisation
    mirrors: bool = True
    test: Part | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def inventory(self) -> Inventory:
        """Which pictures these are."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        present = {name: part for name, part in parts.items() if part is not None}
        return Inventory.of(self.classes, present)


def is_named_source(source: str) -> bool:
    """Whether it is the name of a data set and not a folder."""
    return source in NAMED


def open_source(config: DataConfig) -> Source:
    """The source that `config.source` names.

    Raises:
        UserError: it is no known name and no folder, or cannot be used as it is.
    """
    if config.source in NAMED:
        return NAMED[config.source](config)
    _check_folder(config)
    folder = Path(config.source)
    if has_shards(folder):
        return _sharded(folder)
    found = list_folder(folder)
    parts = {
        name: _file_part(listing, list(found.parts["train"]), found.paths[name])
        for name, listing in found.parts.items()
    }
    return Source(
        classes=tuple(found.parts["train"]),
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        normalisation=IMAGENET,
        left_out=found.left_out,
    )


def take_inventory(config: DataConfig) -> Inventory | None:
    """The inventory of the source that `config` names; None if no run could be begun with it."""
    try:
        return open_source(config).inventory
    except UserError:  # It may still be one to test on, such as one of a single class.
        return None


def open_test_pictures(config: DataConfig, classes: Sequence[str]) -> Part:
    """Pictures to test a network on: the source's part ``test``, else ``val``, else all of them.

    Where a folder holds classes without parts, it may hold only some of the network's.

    Args:
        config: names the source.
        classes: of the network, in the order of its outputs.

    Raises:
        UserError: the source cannot be used as it is, or has classes that the network has not.
    """
    if config.source not in NAMED:
        _check_folder(config)
        folder = Path(config.source)
        if not has_shards(folder) and not find_parts(folder):
            listing = list_classes(folder, Counter())
            _check_known(listing, classes, config.source)
            return _file_part(listing, classes, folder)
    source = open_source(config)
    _check_known(source.classes, classes, config.source)
    part = source.test or source.val or source.train
    places = torch.tensor([classes.index(name) for name in source.classes])
    return Part(part.reader, part.numbers, places[part.labels])


def _check_folder(config: DataConfig) -> None:
    if not os.path.isdir(config.source):
        raise UserError(
            f"data.source '{config.source}' is neither an existing folder nor one of "
            f"{', '.join(NAMED)}; correct it"
        )


def _check_known(found: Iterable[str], classes: Sequence[str], source: str) -> None:
    if unknown := set(found) - set(classes):
        raise UserError(
            f"{source} has classes that the network was not trained for ({names(unknown)}; it "
            f"knows {names(classes)}); give pictures of those it knows"
        )


def _file_part(listing: Listing, classes: Sequence[str], folder: Path) -> Part:
    """The pictures of a listing, labelled by the places of their classes among `classes`."""
    paths = [path for pictures in listing.values() for path in pictures]
    counts = torch.tensor([len(pictures) for pictures in listing.values()])
    labels = torch.tensor([classes.index(name) for name in listing])
    return Part.of(FileReader(paths, folder), labels.repeat_interleave(counts))


def _sharded(folder: Path) -> Source:
    index = ShardIndex.read(folder)
    parts = shard_parts(folder, index)
    return Source(
        classes=index.classes,
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        normalisation=IMAGENET,
    )


def _digits(config: DataConfig) -> Source:
    from sklearn.datasets import load_digits  # Here, because it takes long to import.

    data = load_digits()
    images = torch.from_numpy(data.images * (255 / 16)).round().to(torch.uint8)[:, None]
    classes = tuple(str(name) for name in data.target_names)
    return Source(classes, _memory_part(images, data.target), None, DIGITS, mirrors=False)


def _cifar10(config: DataConfig) -> Source:
    train, val = _torchvision_parts("CIFAR10", config)
    return Source(
        tuple(train.classes),
        _memory_part(torch.from_numpy(train.data).permute(0, 3, 1, 2), train.targets),
        _memory_part(torch.from_numpy(val.data).permute(0, 3, 1, 2), val.targets),
        CIFAR10,
    )


def _fashion_mnist(config: DataConfig) -> Source:
    train, val = _torchvision_parts("FashionMNIST", config)
    return Source(
        tuple(train.classes),
        _memory_part(train.data[:, None], train.targets),
        _memory_part(val.data[:, None], val.targets),
        FASHION_MNIST,
    )


NAMED: dict[str, Callable[[DataConfig], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
}


def _torchvision_parts(name: str, config: DataConfig) -> tuple[Any, Any]:
    """The training and the validation part of a torchvision data set in `config.root`."""
    from torchvision import datasets  # Here, because it takes long to import.

    dataset = getattr(datasets, name)
    try:
        return (
            dataset(config.root, train=True, download=config.download),
            dataset(config.root, train=False, download=config.download),
        )
    except Exception as error:  # Missing or damaged files and failed downloads raise many kinds.
        if config.download:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot load or download {config.source} into '{config.root}' ({reason}); put its "
                "files there by other means, or correct data.root"
            ) from error
        raise UserError(
            f"{config.source} is missing or damaged in '{config.root}'; set data.root to the "
            "folder that holds it, or data.download to true"
        ) from error


def _memory_part(images: Tensor, labels: Any) -> Part:
    """Images uint8 [N, 3 or 1, H, W] with their labels [N]."""
    return Part.of(MemoryReader(images), torch.as_tensor(labels, dtype=torch.int64))
