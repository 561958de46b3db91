"""What networks cost, as the sum over what is chosen at their edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Costs:
    """What the networks of a search cost, as tensors on one device.

    E is the number of edges, N the largest number of candidates. Edges that share one choice count
    as one, which costs their sum.

    Attributes:
        edges: of every candidate of every edge, float64 [E, N], padded with 0.
        fixed: of what all networks have.
        counts: the number of candidates of every edge [E].
        unit: of all costs.
    """

    edges: Tensor
    fixed: float
    counts: tuple[int, ...]
    unit: str = "ms"

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], fixed: float, unit: str = "ms") -> Costs:
        """The costs of candidates that are given edge by edge."""
        tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
        return cls(pad_sequence(tensors, batch_first=True), fixed, tuple(map(len, rows)), unit)

    def to(self, device: torch.device) -> Costs:
        """The same on a device; itself where it is there."""
        if self.edges.device == device:
            return self
        return Costs(self.edges.to(device), self.fixed, self.counts, self.unit)

    @property
    def num_networks(self) -> int:
        """How many networks there are."""
        return math.prod(self.counts)

    @property
    def exists(self) -> Tensor:
        """Where there is a candidate, bool [E, N]."""
        number = torch.tensor(self.counts)[:, None]
        return torch.arange(self.edges.shape[1]) < number

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the cheapest and the dearest network."""
        rows = self._rows()
        return self.fixed + math.fsum(map(min, rows)), self.fixed + math.fsum(map(max, rows))

    @property
    def uniform(self) -> float:
        """The mean over all networks, all being equally probable."""
        return self.fixed + math.fsum(math.fsum(row) / len(row) for row in self._rows())

    def expected(self, probabilities: Tensor) -> Tensor:
        """Expected cost, differentiable in the probabilities: fixed + sum(p * edges).

        Args:
            probabilities: p of every candidate of every edge [E, N]; what stands in the columns
                past an edge's candidates does not count.

        Returns:
            A float64 scalar on the device of the costs, which is that of `probabilities`.
        """
        return self.fixed + (probabilities.double() * self.edges).sum()

    def network(self, choices: Sequence[int]) -> float:
        """Of the network with candidate `choices[e]` at every edge e."""
        rows = zip(self._numbers, choices, strict=True)
        return self.fixed + math.fsum(row[choice] for row, choice in rows)

    def _rows(self) -> list[list[float]]:
        return [row[:count] for row, count in zip(self._numbers, self.counts, strict=True)]

    @cached_property
    def _numbers(self) -> list[list[float]]:
        """`edges` as lists [E][N], in which single numbers are read far faster."""
        numbers: list[list[float]] = self.edges.tolist()
        return numbers
