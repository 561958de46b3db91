"""Latencies of a model's candidates, measured alone and corrected by those of whole models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import torch

from .correction import Errors, correct
from .costs import Costs

ERRORS = Errors(part=0.3, shared=1.0, common=0.5)
"""Of candidates alone: within a model they find other caches, and take up to twice as long."""

WholeModel = tuple[tuple[int, ...], float]
"""A model by its candidate indices [E], and what it takes in ms."""


@dataclass(frozen=True)
class MeasuredCosts:
    """What was measured of a model.

    Attributes:
        alone: latency of every candidate of every edge in ms.
        whole: random models that were measured as they are, at least one.
        near: models that were measured because they should meet a target. They resemble each other,
            so what they take beyond the sum of their parts, others near the target take, too.
    """

    alone: Sequence[Sequence[float]]
    whole: Sequence[WholeModel]
    near: Sequence[WholeModel] = ()

    @property
    def costs(self) -> Costs:
        """The most probable costs in ms, given all of them."""
        costs = self._additive
        if not self.near:
            return costs
        beyond = fmean(ms - costs.network(choices) for choices, ms in self.near)
        return replace(costs, fixed=max(0.0, costs.fixed + beyond))

    @property
    def _additive(self) -> Costs:
        """Those whose sums come nearest to all models that were measured."""
        seen = [*self.whole, *self.near]
        plain = Costs.of(self.alone, 0.0)
        rest = median(ms - plain.network(choices) for choices, ms in seen)
        total = fmean(ms for _, ms in seen)
        places = [
            (edge, choice) for edge, row in enumerate(self.alone) for choice in range(len(row))
        ]
        prior = [*(self.alone[edge][choice] for edge, choice in places), max(rest, 0.01 * total)]
        parts = [
            [*(float(choices[edge] == choice) for edge, choice in places), 1.0]
            for choices, _ in seen
        ]
        *corrected, fixed = correct(
            torch.tensor(prior, dtype=torch.float64),
            torch.tensor(parts, dtype=torch.float64),
            torch.tensor([ms for _, ms in seen], dtype=torch.float64),
            ERRORS,
        ).tolist()
        values = iter(corrected)
        return Costs.of([[next(values) for _ in row] for row in self.alone], fixed)

    def beside(self, choices: Sequence[int], ms: float) -> MeasuredCosts:
        """The same with one more model near the target."""
        return replace(self, near=[*self.near, (tuple(choices), ms)])

    def error_of(self, others: Sequence[WholeModel]) -> float:
        """Mean deviation of the costs from other whole models, as a part of what models take."""
        costs = self.costs
        missed = fmean(abs(costs.network(choices) - ms) for choices, ms in others)
        return missed / fmean(ms for _, ms in [*self.whole, *others])
