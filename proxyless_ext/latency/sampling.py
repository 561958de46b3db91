"""Networks of a space whose latency lies in a band: drawn uniformly, or the most probable one.

Both are one dynamic programme over the edges. Latencies are rounded to bins; working backwards, it
finds for every edge and every number of bins what the completions that take just so many bins are
worth together: their number (in logarithms) to draw uniformly, or the best of their scores to find
the best. Networks are then built edge by edge from these values. The band is widened by what
rounding can amount to, so that no network of the band is missed, and what is built is held against
the band by its exact latency, so that no other is accepted.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import count as counter
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import UserError
from ..seeding import derive_seed, generator
from ..spaces import Space
from .table import LatencyTable

BINS = 20_000
"""From the cheapest to the dearest network."""

MAX_TRIES = 20_000
"""Networks of the widened band that are held against the band before it counts as empty."""


def draw_uniform(space: Space, rng: random.Random) -> list[int]:
    """A network of the space, as one candidate index per edge, all being equally probable."""
    return [rng.randrange(len(edge.candidates)) for edge in space.edges]


def sample_within(
    space: Space, table: LatencyTable, low_ms: float, high_ms: float, count: int, seed: int
) -> list[list[int]]:
    """Different networks whose predicted latency lies in [low_ms, high_ms], drawn uniformly.

    Returns:
        `count` networks, each as one candidate index per edge.

    Raises:
        UserError: the space has fewer there, or the table lacks a layer.
    """
    latencies = table.edge_matrix(space)
    valid = pad_sequence([torch.ones(len(e.candidates)) for e in space.edges], batch_first=True)
    fixed = table.fixed(space)
    band = _Band(latencies, valid.log(), low_ms - fixed, high_ms - fixed, torch.logsumexp)
    if band.values[0][band.first :].logsumexp(0).exp() <= MAX_TRIES:
        found = [choices for choices in band.best_first() if band.holds(choices)]
        random.Random(derive_seed(seed, "networks within")).shuffle(found)
    else:
        found = []
        for choices in islice(band.draw(generator(seed, "networks within")), MAX_TRIES * count):
            if choices not in found and band.holds(choices):
                found.append(choices)
                if len(found) == count:
                    break
    if len(found) < count:
        cheapest, dearest = table.bounds(space)
        raise UserError(
            f"'{space.name}' has {len(found)} networks of {low_ms:.4g} to {high_ms:.4g} ms and "
            f"{count} are asked for; ask for fewer, or for a wider band between "
            f"{cheapest:.4g} and {dearest:.4g} ms"
        )
    return found[:count]


def most_probable_within(
    log_probabilities: Tensor, latencies: Tensor, low_ms: float, high_ms: float
) -> list[int] | None:
    """The most probable network among those whose summed latency lies in [low_ms, high_ms].

    Args:
        log_probabilities: log p of every candidate of every edge [E, N], -inf where there is none.
        latencies: of the candidates in ms [E, N].
        low_ms, high_ms: the band, without what all networks have in common.

    Returns:
        One candidate index per edge; None when no network lies there, or only some that are
            not among the 20,000 most probable ones of a band a few bins wide.
    """
    band = _Band(latencies, log_probabilities, low_ms, high_ms, torch.amax)
    tried = islice(band.best_first(), MAX_TRIES)
    return next((choices for choices in tried if band.holds(choices)), None)


class _Reduce(Protocol):
    """How the values of several candidates become one: logsumexp, or the largest."""

    def __call__(self, input: Tensor, dim: int) -> Tensor: ...


class _Band:
    """The dynamic programme for one band of summed latencies.

    Attributes:
        values: for every edge and after the last, the value of the completions from there on that
            take so many bins [E + 1, B]; -inf where there is none. B ends where the band does.
        first: the first bin of the widened band.
    """

    def __init__(
        self,
        latencies: Tensor,
        scores: Tensor,
        low_ms: float,
        high_ms: float,
        reduce: _Reduce,
    ) -> None:
        """Latencies in ms and scores [E, N]; the score is -inf where an edge has no candidate."""
        self.latencies, self.scores = latencies.double(), scores.double()
        self.low_ms, self.high_ms = low_ms, high_ms
        absent = self.scores == -torch.inf
        cheapest = self.latencies.masked_fill(absent, torch.inf).amin(dim=1, keepdim=True)
        above = (self.latencies - cheapest).masked_fill(absent, 0)
        width = above.amax(dim=1).sum().item() / BINS or 1.0
        self.bins = (above / width).round().long()
        slack = len(latencies) / 2 + 1  # Half a bin an edge, and one for rounding the band's ends.
        most = self.bins.amax(dim=1).sum().item()
        low, high = ((ms - cheapest.sum().item()) / width for ms in (low_ms, high_ms))
        self.first = int(min(max(low - slack, 0), most + 1))
        self.values = self._complete(int(min(max(high + slack, -1), most)) + 1, reduce)

    def _complete(self, size: int, reduce: _Reduce) -> Tensor:
        values = torch.full((len(self.bins) + 1, size), -torch.inf, dtype=torch.float64)
        values[-1, :1] = 0
        for edge in reversed(range(len(self.bins))):
            left = torch.arange(size) - self.bins[edge, :, None]
            values[edge] = reduce(self._continued(values, edge, left, 1), dim=0)
        return values
