"""Networks of a space whose cost lies in a band: drawn uniformly, or the most probable one.

Both are one dynamic programme over the edges. Costs are rounded to bins; working backwards, it
finds for every edge and every number of bins what the completions that take just so many bins are
worth together: their number (in logarithms) to draw uniformly, or the best of their scores to find
the best. Networks are then built edge by edge from these values. The band is widened by what
rounding can amount to, so that no network of the band is missed, and what is built is held against
the band by its exact cost, so that no other is accepted. Of hundreds of edges that amounts to so
much that hardly any network of the widened band is in the band; then it is widened by less, at the
price of missing networks whose roundings nearly all point one way, or narrowed, where those of all
good ones do.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count as counter
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from ..seeding import derive_seed, generator
from .costs import Costs

BINS = 20_000
"""From the cheapest to the dearest network."""

MAX_TRIES = 20_000
"""Networks of the widened band that are held against the band before it counts as empty."""

PATIENCE = 200
"""Networks tried for every one found before the band is widened by less."""

DRAWS = 256
"""Networks drawn at a time."""


def draw_uniform(counts: Sequence[int], rng: random.Random) -> list[int]:
    """A network, as one candidate index per edge, all being equally probable.

    Args:
        counts: the number of candidates of every edge [E].
        rng: draws it.
    """
    return [rng.randrange(count) for count in counts]


def sample_within(costs: Costs, low: float, high: float, count: int, seed: int) -> list[list[int]]:
    """Different networks whose cost lies in [low, high], drawn uniformly.

    Returns:
        `count` networks, each as one candidate index per edge; all there are if there are fewer.
    """
    scores = costs.exists.double().log()
    low, high = low - costs.fixed, high - costs.fixed
    band = BandProgramme(costs.edges, scores, low, high, torch.logsumexp)
    if band.size <= MAX_TRIES:
        networks = [tuple(choices) for choices in band.best_first() if band.holds(choices)]
        random.Random(derive_seed(seed, "networks within")).shuffle(networks)
        found = dict.fromkeys(networks[:count])
    else:
        found, draws = {}, generator(seed, "networks within")
        for slack, patience in band.widenings():
            for tries, choices in enumerate(band.draw(draws, slack)):
                if len(found) == count or tries > patience * (1 + len(found)):
                    break
                if band.holds(choices):
                    found[tuple(choices)] = None
    return [list(choices) for choices in found]


def most_probable_within(
    log_probabilities: Tensor, costs: Tensor, low: float, high: float, count: int = 1
) -> list[list[int]]:
    """The most probable networks among those whose summed cost lies in [low, high].

    Args:
        log_probabilities: log p of every candidate of every edge [E, N], -inf where there is none.
        costs: of the candidates [E, N].
        low, high: the band, without what all networks have in common.
        count: how many.

    Returns:
        Networks by falling probability, each as one candidate index per edge. Fewer than `count`
            when no more lie there; or, in a band hardly wider than rounding, when no more do of the
            20,000 most probable of the widened one.
    """
    band = BandProgramme(costs, log_probabilities, low, high, torch.amax)
    found: list[list[int]] = []
    for slack, patience in band.widenings():
        best = band.best_first(slack)
        found = list(islice(filter(band.holds, islice(best, patience + count)), count))
        if len(found) == count or next(best, None) is None:
            break
    return found


_Chosen = tuple[int, Any] | None
"""The last choice, and those before it."""


def _in_order(chosen: _Chosen) -> list[int]:
    choices: list[int] = []
    while chosen:
        choice, chosen = chosen
        choices.append(choice)
    return choices[::-1]


class _Reduce(Protocol):
    """How the values of several candidates become one: their sum in logarithms, or the best."""

    def __call__(self, input: Tensor, dim: int) -> Tensor: ...


class BandProgramme:
    """The dynamic programme for one band of summed costs.

    Args:
        costs: [E, N].
        scores: what a network's value is the sum of [E, N]; -inf where an edge has no candidate.
        low, high: the band.
        reduce: what values of completions are worth together.

    Attributes:
        values: of the completions from an edge on that take just so many bins [E + 1, B], -inf
            where there is none; B ends with the widened band.
    """

    def __init__(
        self, costs: Tensor, scores: Tensor, low: float, high: float, reduce: _Reduce
    ) -> None:
        self.costs, self.scores = costs.double(), scores.double()
        self.low, self.high = low, high
        absent = self.scores == -torch.inf
        cheapest = self.costs.masked_fill(absent, torch.inf).amin(dim=1, keepdim=True)
        above = (self.costs - cheapest).masked_fill(absent, 0)
        width = above.amax(dim=1).sum().item() / BINS or 1.0
        self.bins = (above / width).round().long()
        self._low, self._high = ((cost - cheapest.sum().item()) / width for cost in (low, high))
        self._slack = len(self.bins) / 2 + 1  # Half a bin an edge, and arithmetic's own rounding.
        self._most = int(self.bins.amax(dim=1).sum().item())
        self.values = self._complete(self._totals(self._slack).stop, reduce)

    @property
    def size(self) -> float:
        """How many networks the widened band has, where values are logarithms of their number."""
        totals = self._totals(self._slack)
        return self.values[0, totals.start :].exp().sum().item()

    def widenings(self) -> Iterator[tuple[float, int]]:
        """Bins to widen the band by, or to narrow it where they are negative, in turn, and how many
        networks to try for every one found.
        """
        slack = self._slack
        while slack >= 1:
            yield slack, PATIENCE
            slack /= 2
        yield 0.0, PATIENCE
        slack, innermost = 1.0, min(self._slack, (self._high - self._low) / 2)
        while slack < innermost:
            yield -slack, PATIENCE
            slack *= 2
        yield -innermost, PATIENCE
        yield self._slack, MAX_TRIES

    def holds(self, choices: Sequence[int]) -> bool:
        """Whether a network lies in the band itself."""
        rows = zip(self._numbers, choices, strict=True)
        return self.low <= math.fsum(row[choice] for row, choice in rows) <= self.high

    @cached_property
    def _numbers(self) -> list[list[float]]:
        """`costs` as lists [E][N]."""
        numbers: list[list[float]] = self.costs.tolist()
        return numbers

    def draw(self, generator: torch.Generator, slack: float | None = None) -> Iterator[list[int]]:
        """Networks of the widened band, each drawn with a probability of exp(score), for ever.

        Args:
            generator: draws them.
            slack: bins that the band is widened by, if not by all that no network be missed.
        """
        within = self._totals(slack)
        totals = self.values[0, within].softmax(0)
        while True:
            left = within.start + totals.multinomial(DRAWS, replacement=True, generator=generator)
            chosen = []
            for edge, bins in enumerate(self.bins):
                after = left[:, None] - bins
                value = self._continued(edge, after)
                chosen.append(value.softmax(1).multinomial(1, generator=generator))
                left = after.gather(1, chosen[-1])[:, 0]
            yield from torch.cat(chosen, dim=1).tolist()

    def best_first(self, slack: float | None = None) -> Iterator[list[int]]:
        """All networks of the widened band, by falling score where values are the best scores.

        Args:
            slack: as of `draw`.
        """
        within = self._totals(slack)
        newest = counter(step=-1)  # Of equals the newest goes first, so that one is completed soon.
        totals = enumerate(self.values[0, within].tolist(), within.start)
        heap: list[tuple[float, int, float, int, int, _Chosen]] = [
            (-value, next(newest), 0.0, total, 0, None)
            for total, value in totals
            if value > -torch.inf
        ]
        heapq.heapify(heap)
        # Not as tensors, which are slow where single numbers are asked for.
        bins, scores, values = self.bins.tolist(), self.scores.tolist(), self.values.numpy().data
        while heap:
            _, _, score, left, edge, chosen = heapq.heappop(heap)
            if edge == len(bins):
                yield _in_order(chosen)
                continue
            for choice, (taken, step) in enumerate(zip(bins[edge], scores[edge], strict=True)):
                rest = left - taken
                if rest >= 0 and (value := step + values[edge + 1, rest]) > -math.inf:
                    further = (score + step, rest, edge + 1, (choice, chosen))
                    heapq.heappush(heap, (-score - value, next(newest), *further))

    def _totals(self, slack: float | None) -> slice:
        """The bins of whole networks in the widened band; at least one, if it reaches any."""
        slack = self._slack if slack is None else slack
        last = int(min(max(self._high + slack, -1), self._most)) + 1
        first = int(min(max(self._low - slack, 0), self._most + 1))
        return slice(max(min(first, last - 1), 0), last)

    def _complete(self, size: int, reduce: _Reduce) -> Tensor:
        self.values = torch.full((len(self.bins) + 1, size), -torch.inf, dtype=torch.float64)
        self.values[-1, :1] = 0
        # Shifted rows, which take a fraction of the time of `_continued` for all bins.
        for edge in reversed(range(len(self.bins))):
            continued = torch.full((self.bins.shape[1], size), -torch.inf, dtype=torch.float64)
            for row, taken, score in zip(
                continued, self.bins[edge].tolist(), self.scores[edge].tolist(), strict=True
            ):
                left = max(size - taken, 0)
                torch.add(self.values[edge + 1, :left], score, out=row[size - left :])
            self.values[edge] = reduce(continued, dim=0)
        return self.values

    def _continued(self, edge: int, after: Tensor) -> Tensor:
        """Value of each candidate of an edge, with bins `after` [..., N] left for the others."""
        value = self.scores[edge] + self.values[edge + 1][after.clamp(min=0)]
        return value.masked_fill(after < 0, -torch.inf)
