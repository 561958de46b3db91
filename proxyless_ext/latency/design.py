"""Which networks to measure, so that few of them say most about all others.

Whole networks are drawn at random, and of these one after the other is taken: the one whose
measurement leaves the least mean variance of the predictions for random networks of the space. This
is a Bayesian I-optimal (or V-optimal) design, found greedily (Chaloner and Verdinelli, Bayesian
Experimental Design: A Review, Statistical Science 10(3), 1995; Fedorov, Theory of Optimal
Experiments, 1972). It needs no measurement, since the variance of a linear regression does not
depend on what is measured. Whatever number of networks is measured from its beginning on is such a
design, too.
"""

from __future__ import annotations

import random
from itertools import product

import numpy as np

from ..errors import UserError
from ..seeding import derive_seed
from ..spaces import Space
from .additive import Array, LayerErrors, Layers
from .sampling import draw_uniform

POOL = 1000
"""Networks to choose from: half are drawn uniformly, half have favourites among the candidates."""

FAVOUR = 0.4
"""Shape of the gamma distribution of the candidates' weights: the smaller, the fewer favourites."""

ERRORS = LayerErrors(part=0.2, network=0.02)
"""That are assumed before anything is measured."""


def plan_networks(space: Space, count: int, seed: int = 0) -> list[list[int]]:
    """Networks to measure, the most telling first.

    Args:
        space: the space.
        count: how many.
        seed: of the networks to choose from.

    Returns:
        `count` different networks, each as one candidate index per edge.

    Raises:
        UserError: the space does not have as many.
    """
    if count > space.num_networks:
        raise UserError(
            f"{count} networks cannot be measured: '{space.name}' has {space.num_networks}"
        )
    rng = random.Random(derive_seed(seed, "plan networks"))
    pool = _pool(space, max(POOL, 2 * count), rng)
    aim = [draw_uniform(space.counts, rng) for _ in range(POOL)]
    layers = Layers.of(space)
    counts = layers.count_choices([*pool, *aim])
    sizes = layers.typical(counts)
    rows = counts * sizes / (counts @ sizes)[:, None]
    covariance = layers.variance(counts, sizes, 1.0, ERRORS.part)
    chosen = _choose(rows[: len(pool)], rows[len(pool) :], covariance, count)
    return [list(pool[index]) for index in chosen]


def _choose(rows: Array, aim: Array, covariance: Array, count: int) -> list[int]:
    """Rows that leave the least variance of what is predicted for others, the best first.

    Args:
        rows: to choose from [P, K].
        aim: those that are to be predicted [Q, K].
        covariance: of what they are multiplied by, before anything is measured [K, K].
        count: how many.
    """
    noise = ERRORS.network**2
    moments = aim.T @ aim / len(aim)
    left = np.ones(len(rows), dtype=bool)
    chosen = []
    for _ in range(count):
        seen = rows @ covariance
        known_less = noise + (seen * rows).sum(axis=1)
        gains = np.where(left, ((seen @ moments) * seen).sum(axis=1) / known_less, -np.inf)
        best = int(gains.argmax())
        covariance = covariance - np.outer(seen[best], seen[best]) / known_less[best]
        left[best] = False
        chosen.append(best)
    return chosen


def _pool(space: Space, size: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Different networks: all there are, if these are not more than `size`."""
    if space.num_networks <= size:
        return list(product(*map(range, space.counts)))
    names = sorted({name for group in space.groups for name in group.candidates})
    pool: dict[tuple[int, ...], None] = {}
    while len(pool) < size:
        if len(pool) % 2:
            network = draw_uniform(space.counts, rng)
        else:
            liked = {name: rng.gammavariate(FAVOUR, 1.0) + 1e-6 for name in names}
            network = [
                rng.choices(range(len(group.candidates)), [liked[n] for n in group.candidates])[0]
                for group in space.groups
            ]
        pool[tuple(network)] = None
    return list(pool)
