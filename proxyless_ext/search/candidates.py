"""Networks that may be handed over: which those are, the likeliest, random ones, and offspring."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..latency.sampling import draw_uniform, most_probable_within, sample_within
from .objective import Objective

Choices = tuple[int, ...]
"""One candidate index per edge."""

TRIES = 200
"""Offspring drawn for each one wanted, before the band counts as exhausted."""


@dataclass(frozen=True)
class Band:
    """The networks within the tolerance of the latency target; all of them where there is none.

    Where no network lies within the tolerance, the band is as wide as the nearest one asks for.

    Attributes:
        objective: of the search.
        low, high: what a network may take.
    """

    objective: Objective
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def within(cls, objective: Objective, widened: float = 1.0) -> Band:
        """The networks within the tolerance, times `widened`, which may be none."""
        if (target := objective.target) is None:
            return cls(objective)
        slack = widened * objective.config.tolerance * target
        return cls(objective, target - slack, target + slack)

    @classmethod
    def of(cls, objective: Objective) -> Band:
        """The networks that may be handed over, at least one."""
        widened = 1.0
        while not (band := cls.within(objective, widened)).drawn(1, seed=0):
            widened *= 1.05
        return band

    def likeliest(self, log_probabilities: Tensor, count: int) -> list[Choices]:
        """The most probable networks by falling probability; fewer where there are no more.

        Args:
            log_probabilities: of the candidates, or any scores that add up [E, N], -inf where there
                is none.
            count: how many.
        """
        costs = self.objective.costs
        found = most_probable_within(
            log_probabilities.double().cpu(),
            costs.edges.cpu(),
            self.low - costs.fixed,
            self.high - costs.fixed,
            count,
        )
        return [tuple(choices) for choices in found]

    def drawn(self, count: int, seed: int) -> list[Choices]:
        """Different networks drawn uniformly; fewer where there are no more."""
        found = sample_within(self.objective.costs, self.low, self.high, count, seed)
        return [tuple(choices) for choices in found]

    def offspring(
        self, parents: Sequence[Choices], known: Collection[Choices], count: int, rng: random.Random
    ) -> list[Choices]:
        """New networks, each like one parent or two, with some edges changed.

        Args:
            parents: networks of the band, at least one.
            known: networks that are not new.
            count: how many are wanted; fewer where they are hard to find.
            rng: draws them.
        """
        edges = len(parents[0])
        children: dict[Choices, None] = {}
        for _ in range(TRIES * count):
            if len(children) == count:
                break
            mother, father = rng.choice(parents), rng.choice(parents)
            mutant = draw_uniform(self.objective.costs.counts, rng)
            child = tuple(
                new if rng.random() < 1 / edges else rng.choice(pair)
                for new, *pair in zip(mutant, mother, father, strict=True)
            )
            if child not in known and self.holds(child):
                children[child] = None
        return list(children)

    def holds(self, choices: Choices) -> bool:
        """Whether a network lies in it."""
        return self.low <= self.objective.costs.network(choices) <= self.high


def warn_of_narrow_band(objective: Objective) -> None:
    """Say so where the latency target leaves nothing to choose."""
    found = Band.within(objective).drawn(2, seed=0)
    if len(found) < 2 < objective.costs.num_networks:
        number = "only one network" if found else "no network"
        warnings.warn(
            f"{number} of '{objective.name}' is within {objective.config.tolerance:.0%} of the "
            f"target of {objective.target:.4g} {objective.costs.unit}, so that there is nothing "
            "to choose; widen the tolerance or move the target",
            stacklevel=2,
        )
