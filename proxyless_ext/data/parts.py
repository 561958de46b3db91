"""Labelled pictures in a fixed order, and how to divide them evenly over the classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .decoding import decode, read


class Reader(Protocol):
    """Pictures by their numbers."""

    def __call__(self, number: int) -> Tensor:
        """A picture's pixels, uint8 [3, H, W]."""
        ...

    def keys_of(self, numbers: Tensor) -> Iterator[bytes]:
        """What tells each picture [N] from all others of its part, wherever the part lies."""
        ...


@runtime_checkable
class EncodedReader(Reader, Protocol):
    """Pictures that are read out of files, or out of parts of such."""

    def path(self, number: int) -> Path:
        """What messages call a picture."""
        ...

    def content(self, number: int) -> bytes:
        """The bytes of a picture's file.

        Raises:
            PictureError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class FileReader:
    """Reads files, each time anew.

    Attributes:
        paths: of the files.
        folder: that they lie in.
    """

    paths: Sequence[Path]
    folder: Path

    def __call__(self, number: int) -> Tensor:
        return decode(self.path(number))

    def path(self, number: int) -> Path:
        return self.paths[number]

    def content(self, number: int) -> bytes:
        return read(self.path(number))

    def keys_of(self, numbers: Tensor) -> Iterator[bytes]:
        for number in numbers.tolist():
            yield os.fsencode(self.paths[number].relative_to(self.folder))


@dataclass(frozen=True)
class MemoryReader:
    """Hands out pixels that are in memory, uint8 [N, 3 or 1, H, W].

    Attributes:
        images: the pixels.
        keys: of the pictures; by default their numbers and pixels.
    """

    images: Tensor
    keys: Sequence[bytes] | None = None

    def __call__(self, number: int) -> Tensor:
        return self.images[number].expand(3, -1, -1)

    def keys_of(self, numbers: Tensor) -> Iterator[bytes]:
        return map(self._key, numbers.tolist())

    def _key(self, number: int) -> bytes:
        if self.keys is not None:
            return self.keys[number]
        pixels = self.images[number].contiguous().numpy().tobytes()
        return b"%d " % number + hashlib.blake2b(pixels, digest_size=8).digest()


@dataclass(frozen=True)
class Part:
    """A part of the pictures.

    Attributes:
        reader: reads a picture by its number.
        numbers: the numbers of the part's pictures [N].
        labels: their classes [N].
    """

    reader: Reader
    numbers: Tensor
    labels: Tensor

    @classmethod
    def of(cls, reader: Reader, labels: Tensor) -> Part:
        """All pictures of `reader`, with their labels [N]."""
        return cls(reader, torch.arange(len(labels)), labels)

    def __len__(self) -> int:
        return len(self.numbers)

    def pixels(self, index: int) -> Tensor:
        """The picture at `index`, uint8 [3, H, W].

        Raises:
            PictureError: its file cannot be read.
        """
        return self.reader(int(self.numbers[index]))

    def keys(self) -> Iterator[bytes]:
        """What tells each picture from all others, wherever the part lies."""
        return self.reader.keys_of(self.numbers)

    def select(self, chosen: Tensor) -> Part:
        """The pictures that a mask or indices choose."""
        return Part(self.reader, self.numbers[chosen], self.labels[chosen])

    def split(
        self, fraction: float, classes: Sequence[str], into: str, seed: int, rest: int = 1
    ) -> tuple[Part, Part]:
        """The rest, and `fraction` of each class drawn by `seed`, but at least one picture.

        Args:
            fraction: to be drawn.
            classes: names.
            into: what the parts are for, for messages.
            seed: of the draw.
            rest: pictures of each class that are not drawn, at least.

        Raises:
            UserError: a class has too few pictures.
        """
        self.check_counts(1 + rest, classes, into)
        counts = self.labels.bincount(minlength=len(classes))
        held = (fraction * counts).round().long().clamp(min=1).minimum(counts - rest)
        chosen = self._ranks(seed) < held[self.labels]
        return self.select(~chosen), self.select(chosen)

    def check_counts(self, least: int, classes: Sequence[str], into: str) -> None:
        """See to it that every class has enough pictures to be split.

        Raises:
            UserError: one has fewer than `least`; `into` says what the parts are for.
        """
        counts = self.labels.bincount(minlength=len(classes))
        for name, count in zip(classes, counts.tolist(), strict=True):
            if count < least:
                raise UserError(
                    f"class '{name}' has too few readable training pictures ({count}) to split "
                    f"them into {into}; give it at least {least}"
                )

    def limit(self, size: int, seed: int) -> Part:
        """`size` pictures drawn by `seed`, as evenly over the classes as their numbers allow."""
        by_rank = self._ranks(seed).argsort(stable=True)
        return self.select(by_rank[:size].sort().values)

    def _ranks(self, seed: int) -> Tensor:
        """Each picture's place in a random order of its class [N].

        The order is that of hashes of the pictures' keys, so that a picture keeps its place but for
        those that come or go before it.
        """
        salt = seed.to_bytes(8, "little")
        reading = self.numbers.argsort()  # Keys that lie side by side are read faster.
        digests = b"".join(
            hashlib.blake2b(key, digest_size=8, key=salt).digest()
            for key in self.reader.keys_of(self.numbers[reading])
        )
        hashes = np.empty(len(self), np.uint64)
        hashes[reading.numpy()] = np.frombuffer(digests, "<u8") >> 1
        labels = self.labels.numpy()
        counts = np.bincount(labels)
        short = labels.astype(np.min_scalar_type(len(counts)))  # Sorted faster.
        by_class = np.lexsort((hashes, short))
        ranks = np.empty(len(self), np.int64)
        ranks[by_class] = np.arange(len(self)) - np.repeat(counts.cumsum() - counts, counts)
        return torch.from_numpy(ranks)
