"""Pictures in WebDataset shards: tar files, with an index that says where in them each picture is.

`INDEX` lists the shards of a folder. Beside every shard lies its list of pictures, of the same name
with the suffix `LIST`. A picture is read from its place in its shard alone, so pictures in shards
can be read in any order, as those in files can.
"""

from __future__ import annotations

import itertools
import operator
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..errors import UserError
from ..spaces import StrictModel, read_model
from .bad_pictures import PictureError
from .decoding import decode
from .parts import Part

INDEX = "index.json"
LIST = ".json"

PartName = Literal["train", "val", "test"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)
Count = Annotated[int, Field(ge=0)]
Counts = tuple[Count, ...]

AGAIN = "restore it, or make the shards and their index anew"


class Shard(StrictModel):
    """A shard, as the index has it.

    Attributes:
        name: of its file.
        pictures: how many it has.
        size: in bytes.
        sha256: of its bytes, in hexadecimal digits.
    """

    name: str
    pictures: Count
    size: Count
    sha256: str

    @property
    def list_name(self) -> str:
        """The name of the file that lists its pictures."""
        return self.name.removesuffix(".tar") + LIST


class ShardIndex(StrictModel):
    """The shards in a folder.

    Attributes:
        classes: names of the classes, in the order of the labels.
        parts: for each part of the pictures, its shards.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    parts: dict[PartName, Annotated[tuple[Shard, ...], Field(min_length=1)]]

    @classmethod
    def read(cls, folder: Path) -> ShardIndex:
        """That of a folder.

        Raises:
            UserError: it cannot be read, or has nothing to train on.
        """
        index = read_model(cls, folder / INDEX)
        if "train" not in index.parts:
            raise UserError(f"{folder / INDEX} has no part train; make the index anew")
        return index


class PictureList(StrictModel):
    """The pictures of a shard, in the order in which they lie there.

    Attributes:
        shard: whose they are.
        keys: what tells each from all others of its part; of pictures that came from files, their
            paths below the folder of the part.
        numbers: their places in the order of the part.
        labels: their classes.
        offsets, sizes: where the bytes of their files are in the shard.
        checksums: CRC-32 of these bytes.
    """

    shard: Shard
    keys: tuple[str, ...]
    numbers: Counts
    labels: Counts
    offsets: Counts
    sizes: Counts
    checksums: Counts


@dataclass(frozen=True)
class ShardReader:
    """Reads pictures out of shards, by their numbers in the order in which they lie there.

    A shard is opened for every picture, as a file would be, so that no number of shards takes more
    than one file descriptor. All arrays are NumPy's: processes that read share their memory.

    Attributes:
        paths: of the shards.
        shards: the shard of each picture [N].
        offsets, sizes: where its bytes are there [N].
        checksums: CRC-32 of these bytes [N].
        keys: all keys in UTF-8, one after the other.
        ends: where each key ends, after a 0 [N + 1]; an array of Python's, whose items are read
            faster one by one.
    """

    paths: Sequence[Path]
    shards: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    keys: bytes
    ends: array[int]

    def __call__(self, number: int) -> Tensor:
        return decode(self.path(number), self.content(number))

    def keys_of(self, numbers: Tensor) -> Iterator[bytes]:
        keys, ends = self.keys, self.ends
        return (keys[ends[number] : ends[number + 1]] for number in numbers.tolist())

    def path(self, number: int) -> Path:
        """What messages call the picture: its key below its shard."""
        key = self.keys[self.ends[number] : self.ends[number + 1]]
        return self.paths[self.shards[number]] / os.fsdecode(key)

    def content(self, number: int) -> bytes:
        """The bytes of the picture's file.

        Raises:
            PictureError: the shard cannot be read, or has other bytes there.
        """
        size = int(self.sizes[number])
        try:
            descriptor = os.open(self.paths[self.shards[number]], os.O_RDONLY)
            try:
                content = os.pread(descriptor, size, int(self.offsets[number]))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PictureError(self.path(number), str(error.strerror)) from error
        if zlib.crc32(content) != self.checksums[number]:
            reason = "its shard is damaged there, or has changed since its index was made"
            raise PictureError(self.path(number), reason)
        return content


def has_shards(folder: Path) -> bool:
    """Whether a folder holds shards with an index."""
    return os.path.isfile(folder / INDEX)  # Not so of one that may not be read.


def shard_parts(folder: Path, index: ShardIndex) -> dict[str, Part]:
    """The parts of the pictures in shards.

    Raises:
        UserError: a shard or its list is gone or not the one that the index was made of.
    """
    return {
        name: _part([_read_list(folder, shard, index) for shard in shards], folder)
        for name, shards in index.parts.items()
    }


def _part(lists: Sequence[_Columns], folder: Path) -> Part:
    counts = [len(each.numbers) for each in lists]
    sizes = np.concatenate([each.key_sizes for each in lists])
    reader = ShardReader(
        paths=[folder / each.name for each in lists],
        shards=np.repeat(np.arange(len(lists), dtype=np.int32), counts),
        offsets=np.concatenate([each.offsets for each in lists]),
        sizes=np.concatenate([each.sizes for each in lists]),
        checksums=np.concatenate([each.checksums for each in lists]),
        keys=b"".join(each.keys for each in lists),
        ends=array("q", np.concatenate([[0], sizes.cumsum()]).tobytes()),
    )
    order = torch.from_numpy(np.concatenate([each.numbers for each in lists])).argsort(stable=True)
    labels = torch.from_numpy(np.concatenate([each.labels for each in lists]))
    return Part(reader, order, labels[order])


@dataclass(frozen=True)
class _Columns:
    """A `PictureList` in little memory."""

    name: str
    keys: bytes
    key_sizes: NDArray[np.int64]
    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32]


def _read_list(folder: Path, shard: Shard, index: ShardIndex) -> _Columns:
    if difference := shard_difference(folder, shard):
        raise UserError(f"the shard {folder / shard.name} {difference}; {AGAIN}")
    pictures = read_list(folder, shard, len(index.classes))
    keys = [key.encode() for key in pictures.keys]
    return _Columns(
        name=shard.name,
        keys=b"".join(keys),
        key_sizes=np.fromiter(map(len, keys), np.int64),
        numbers=np.fromiter(pictures.numbers, np.int64),
        labels=np.fromiter(pictures.labels, np.int64),
        offsets=np.fromiter(pictures.offsets, np.int64),
        sizes=np.fromiter(pictures.sizes, np.int64),
        checksums=np.fromiter(pictures.checksums, np.uint32),
    )


def read_list(folder: Path, shard: Shard, classes: int) -> PictureList:
    """The list of a shard's pictures.

    Raises:
        UserError: it cannot be read, or is not that of the shard.
    """
    path = folder / shard.list_name
    pictures = read_model(PictureList, path)
    columns = (
        pictures.keys,
        pictures.numbers,
        pictures.labels,
        pictures.offsets,
        pictures.sizes,
        pictures.checksums,
    )
    ends = map(operator.add, pictures.offsets, pictures.sizes)
    if (
        pictures.shard != shard
        or any(len(column) != shard.pictures for column in columns)
        or max(pictures.labels, default=0) >= classes
        or max(pictures.checksums, default=0) >= 2**32
        or max(ends, default=0) > shard.size
    ):
        raise UserError(f"{path} is not the list of the shard in the index; {AGAIN}")
    return pictures


def shard_difference(folder: Path, shard: Shard) -> str:
    """How a shard's file differs from what the index says, by its size; empty if it does not."""
    try:
        size = (folder / shard.name).stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != shard.size:
        return f"has {size} bytes instead of the {shard.size} that the index was made of"
    return ""


def all_shards(index: ShardIndex) -> Iterator[Shard]:
    """The shards of all parts."""
    return itertools.chain.from_iterable(index.parts.values())
