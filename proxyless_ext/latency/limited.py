"""Networks of a band that also keep limits: drawn uniformly, or the most probable ones.

The dynamic programme of `sampling` knows one cost, that of the band. Limits on others are relaxed:
networks pay prices for what is limited. With prices p, room r and costs c of a network, its score
less p c + p r is at least its score if it keeps the limits. So networks in the order of these
values have the best that keep the limits among the first, and when no later one can be better, all
of the best are found, whatever the prices; good ones find them soon. Prices also draw networks near
the limits, of which few are rejected.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Sequence
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from ..seeding import derive_seed, generator
from .costs import Costs
from .limits import DEAREST, Limit, solve_prices
from .sampling import MAX_TRIES, BandProgramme, most_probable_within, sample_within

SHARPNESS = 200.0
"""Scores times this are the logits of a distribution that is nearly all at the best network."""

ROUNDING = 1e-9


def sample_limited(
    costs: Costs, low: float, high: float, limits: Sequence[Limit], count: int, seed: int
) -> list[list[int]]:
    """`sample_within`, of networks that keep all limits.

    A network is drawn with a probability of exp(-p c) and accepted, if it keeps the limits, with
    one of exp(p c - p r): the product is the same for all of them.

    Returns:
        `count` networks, each as one candidate index per edge; all there are if there are fewer.
        Where hardly one of 20,000 drawn is accepted, those among the 20,000 that are nearest to
        keeping the limits, which are all unless there are more of these.
    """
    if not limits:
        return sample_within(costs, low, high, count, seed)
    uniform = costs.exists.double().log()
    low, high = low - costs.fixed, high - costs.fixed
    band = BandProgramme(costs.edges, uniform, low, high, torch.logsumexp)
    rng = random.Random(derive_seed(seed, "networks within"))
    if band.size <= MAX_TRIES:
        networks = [each for each in band.best_first() if band.holds(each) and _keeps(limits, each)]
    else:
        relaxed = _Relaxed(uniform, costs.edges, low, high, limits)
        band = BandProgramme(costs.edges, relaxed.scores, low, high, torch.logsumexp)
        found: dict[tuple[int, ...], None] = {}
        drawn = band.draw(generator(seed, "networks within"))
        for tries, choices in enumerate(drawn):
            if len(found) == count or tries > MAX_TRIES * (1 + len(found)):
                break
            is_limited = band.holds(choices) and _keeps(limits, choices)
            if is_limited and rng.random() < math.exp(-relaxed.value(choices)):
                found[tuple(choices)] = None
        if len(found) == count:
            return [list(choices) for choices in found]
        networks = relaxed.nearest()
    rng.shuffle(networks)
    return networks[:count]


def most_probable_limited(
    log_probabilities: Tensor,
    costs: Tensor,
    low: float,
    high: float,
    limits: Sequence[Limit],
    count: int = 1,
) -> list[list[int]]:
    """`most_probable_within`, of networks that keep all limits.

    Returns:
        Networks by falling probability, each as one candidate index per edge. They are the most
            probable ones, unless 20,000 were tried, most of which broke a limit, and later ones
            could still be better. Fewer than `count` when no more were found.
    """
    if not limits:
        return most_probable_within(log_probabilities, costs, low, high, count)
    relaxed = _Relaxed(log_probabilities, costs, low, high, limits, SHARPNESS)
    found: list[tuple[float, list[int]]] = []
    for choices in islice(relaxed.band.best_first(), MAX_TRIES):
        if len(found) >= count and -found[count - 1][0] >= relaxed.value(choices) - ROUNDING:
            break
        if relaxed.holds(choices):
            insort(found, (-_total(log_probabilities, choices), choices))
    return [choices for _, choices in found[:count]]


class _Relaxed:
    """The networks of a band that pay for what is limited.

    Args:
        scores: what networks are worth, as a sum [E, N]; -inf where an edge has no candidate.
        costs: of the band [E, N].
        low, high: of the band.
        limits: that are relaxed.
        sharpness: how near prices come to those at which the best network pays.

    Attributes:
        scores: less what is paid [E, N].
    """

    def __init__(
        self,
        scores: Tensor,
        costs: Tensor,
        low: float,
        high: float,
        limits: Sequence[Limit],
        sharpness: float = 1.0,
    ) -> None:
        scores, costs = scores.double(), costs.double()
        ends = [
            Limit("", Costs(sign * costs, 0.0, ()), sign * end)
            for sign, end in ((1, high), (-1, low))
            if math.isfinite(end)
        ]
        sharp = solve_prices(sharpness * scores, [*limits, *ends], dearest=sharpness * DEAREST)
        prices = [price / sharpness for price in sharp[: len(limits)]]
        paid = torch.stack(
            [price * each.costs.edges for price, each in zip(prices, limits, strict=True)]
        )
        self.limits = limits
        self.scores = scores - paid.sum(0)
        self._band = costs, low, high
        self._room = sum(price * each.room for price, each in zip(prices, limits, strict=True))

    @cached_property
    def band(self) -> BandProgramme:
        """The dynamic programme with these scores, for the best network first."""
        costs, low, high = self._band
        return BandProgramme(costs, self.scores, low, high, torch.amax)

    def value(self, choices: Sequence[int]) -> float:
        """At least the score of a network, if it keeps the limits."""
        return _total(self.scores, choices) + self._room

    def holds(self, choices: Sequence[int]) -> bool:
        """Whether a network is in the band and keeps all limits."""
        return self.band.holds(choices) and _keeps(self.limits, choices)

    def nearest(self) -> list[list[int]]:
        """Those that keep the limits, among the first 20,000; scores were 0."""
        found = []
        for choices in islice(self.band.best_first(), MAX_TRIES):
            if self.value(choices) < -ROUNDING:
                break
            if self.holds(choices):
                found.append(choices)
        return found


def _keeps(limits: Sequence[Limit], choices: Sequence[int]) -> bool:
    return all(limit.holds(choices) for limit in limits)


def _total(scores: Tensor, choices: Sequence[int]) -> float:
    return math.fsum(scores[range(len(choices)), choices].tolist())
