"""Networks that may be handed over: which those are, the likeliest, random ones, and offspring."""

from __future__ import annotations

import math
import random
import warnings
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import UserError
from ..latency import most_probable_limited, sample_limited
from ..latency.sampling import draw_uniform
from ..quantities import show, show_range
from .objective import Objective

Choices = tuple[int, ...]
"""One candidate index per edge."""

WIDER = 1.05
"""What a band without networks is widened by, again and again."""

STEPS = 1000
"""Of these, more than any band needs."""

TRIES = 200
"""Offspring drawn for each one wanted, before the band counts as exhausted."""


@dataclass(frozen=True)
class Band:
    """The networks within the tolerance of the target which keep all limits.

    Without a target these are all that keep the limits. Where no network lies within the tolerance,
    the band is as wide as the nearest one asks for.

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
        """The networks that may be handed over, at least one.

        Raises:
            UserError: none keeps all limits.
        """
        band = cls.near(objective)
        _check_each_limit(band)
        if not band.some(1):
            raise _conflict(objective)
        return band

    @classmethod
    def near(cls, objective: Objective) -> Band:
        """As wide as the target alone asks for, whether or not any network keeps the limits."""
        free = replace(objective, limits=())

        def has_some(steps: int) -> bool:
            return bool(cls.within(free, WIDER**steps).some(1))

        steps = 0 if has_some(0) else bisect_left(range(STEPS), True, lo=1, key=has_some)
        return cls.within(objective, WIDER**steps)

    def likeliest(self, log_probabilities: Tensor, count: int) -> list[Choices]:
        """The most probable networks by falling probability; fewer where there are no more.

        Args:
            log_probabilities: of the candidates, or any scores that add up [E, N], -inf where there
                is none.
            count: how many.
        """
        costs = self.objective.costs
        found = most_probable_limited(
            log_probabilities.double().cpu(),
            costs.edges.cpu(),
            self.low - costs.fixed,
            self.high - costs.fixed,
            self.objective.limits,
            count,
        )
        return [tuple(choices) for choices in found]

    def drawn(self, count: int, seed: int) -> list[Choices]:
        """Different networks drawn uniformly; fewer where there are no more."""
        objective = self.objective
        found = sample_limited(objective.costs, self.low, self.high, objective.limits, count, seed)
        return [tuple(choices) for choices in found]

    def some(self, count: int) -> list[Choices]:
        """Any different networks; fewer where there are no more."""
        limits = self.objective.limits
        if not limits:
            return self.drawn(count, seed=0)
        # Those that are easily found, however few keep the limits: the ones with the least.
        parts = [each.costs.edges / (each.costs.bounds[1] or 1.0) for each in limits]
        return self.likeliest(self.objective.costs.exists.double().log() - sum(parts), count)

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
        objective = self.objective
        return self.low <= objective.predicted(choices) <= self.high and all(
            limit.holds(choices) for limit in objective.limits
        )


def check_limits(objective: Objective) -> None:
    """Refuse limits that no network keeps, or none of those near the target.

    Raises:
        UserError: says what conflicts, and what could be kept.
    """
    for limit in objective.limits:
        cheapest, dearest = limit.costs.bounds
        if limit.most < cheapest:
            raise UserError(
                f"the {limit} is out of reach: networks of '{objective.name}' have "
                f"{show_range(cheapest, dearest, limit.costs.unit)}"
            )
    if objective.limits:
        Band.of(objective)


def _check_each_limit(band: Band) -> None:
    """Refuse a limit that no network near the target keeps, even alone: that is soon found out."""
    objective = band.objective
    if objective.target is None:
        return
    free = replace(band, objective=replace(objective, limits=()))
    for limit in objective.limits:
        (least,) = free.likeliest(limit.costs.exists.double().log() - limit.costs.edges, 1)
        if not limit.holds(least):
            raise UserError(
                f"the {limit} and the target conflict: networks of '{objective.name}' within "
                f"{_aim(objective)} have at least "
                f"{show(limit.costs.network(least), limit.costs.unit)}; move one of them"
            )


def _conflict(objective: Objective) -> UserError:
    """That no network near the target keeps the limits, each of which can be kept."""
    aim = f" within {_aim(objective)}" if objective.target is not None else ""
    names = " and the ".join(map(str, objective.limits))
    return UserError(
        f"no network of '{objective.name}'{aim} was found that keeps the {names} together, though "
        "each can be kept; raise one of them"
    )


def _aim(objective: Objective) -> str:
    assert objective.target is not None
    told = show(objective.target, objective.costs.unit)
    return f"{objective.config.tolerance:.0%} of the target of {told}"


def warn_of_narrow_band(objective: Objective) -> None:
    """Say so where target and limits leave nothing to choose."""
    found = Band.within(objective).some(2)
    if len(found) < 2 < objective.costs.num_networks:
        number = "only one network" if found else "no network"
        limits = " and ".join(f"the {limit}" for limit in objective.limits)
        aim = f"is within {_aim(objective)}" if objective.target is not None else ""
        held = " and ".join(filter(None, (aim, limits and f"keeps {limits}")))
        warnings.warn(
            f"{number} of '{objective.name}' {held}, so that there is nothing to choose; widen the "
            "tolerance or move the target or the limits",
            stacklevel=2,
        )
