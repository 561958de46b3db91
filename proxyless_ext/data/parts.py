"""Labelled pictures in a fixed order, and how to divide them evenly over the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .decoding import decode


class Reader(Protocol):
    """Gives a picture's pixels, uint8 [3, H, W], by its number."""

    def __call__(self, number: int) -> Tensor: ...


@dataclass(frozen=True)
class FileReader:
    """Reads files, each time anew."""

    paths: Sequence[Path]

    def __call__(self, number: int) -> Tensor:
        return decode(self.paths[number])


@dataclass(frozen=True)
class MemoryReader:
    """Hands out pixels that are in memory, uint8 [N, 3 or 1, H, W]."""

    images: Tensor

    def __call__(self, number: int) -> Tensor:
        return self.images[number].expand(3, -1, -1)


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

    def select(self, chosen: Tensor) -> Part:
        """The pictures that a mask or indices choose."""
        return Part(self.reader, self.numbers[chosen], self.labels[chosen])

    def split(
        self, fraction: float, classes: Sequence[str], into: str, generator: torch.Generator
    ) -> tuple[Part, Part]:
        """The rest, and `fraction` of each class drawn at random; at least one of it on each side.

        Raises:
            UserError: a class has fewer than two pictures; `into` says what the parts are for.
        """
        counts = self.labels.bincount(minlength=len(classes))
        for name, count in zip(classes, counts.tolist(), strict=True):
            if count < 2:
                raise UserError(
                    f"class '{name}' has too few readable training pictures ({count}) to split "
                    f"them into {into}; give it at least 2"
                )
        held = (fraction * counts).round().long().clamp(min=1).minimum(counts - 1)
        chosen = self._ranks(generator) < held[self.labels]
        return self.select(~chosen), self.select(chosen)

    def limit(self, size: int, generator: torch.Generator) -> Part:
        """`size` pictures drawn at random, as evenly over the classes as their numbers allow."""
        by_rank = self._ranks(generator).argsort(stable=True)
        return self.select(by_rank[:size].sort().values)

    def _ranks(self, generator: torch.Generator) -> Tensor:
        """Each picture's place in a random order of its class [N]."""
        shuffled = torch.randperm(len(self), generator=generator)
        by_class = shuffled[self.labels[shuffled].argsort(stable=True)]
        counts = self.labels.bincount()
        first = counts.cumsum(0) - counts
        ranks = torch.empty_like(by_class)
        ranks[by_class] = torch.arange(len(self)) - first[self.labels[by_class]]
        return ranks
