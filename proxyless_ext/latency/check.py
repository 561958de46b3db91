"""Checking a latency table against whole networks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..nn import Network
from ..seeding import derive_seed
from ..spaces import Space
from .conditions import processor_name
from .networks import measure_networks
from .sampling import draw_uniform
from .table import LatencyTable


@dataclass(frozen=True)
class Check:
    """Predicted against measured latencies of the same networks, in ms, float64 [K]."""

    predicted: Tensor
    measured: Tensor

    @property
    def r2(self) -> float:
        """1 - SSE / SST of the measured latencies about the predicted ones.

        About the predictions as they are, not about a line fitted to them; NaN where all networks
        take equally long.
        """
        squares = (self.measured - self.predicted).square().sum()
        return (1 - squares / (self.measured - self.measured.mean()).square().sum()).item()

    @property
    def median_error(self) -> float:
        """Median of |predicted - measured| / measured."""
        return self._errors.quantile(0.5).item()

    @property
    def max_error(self) -> float:
        """Largest |predicted - measured| / measured."""
        return self._errors.max().item()

    @property
    def _errors(self) -> Tensor:
        return (self.predicted - self.measured).abs() / self.measured


def check_table(table: LatencyTable, space: Space, networks: int = 30, seed: int = 0) -> Check:
    """Measure random networks of a space, under the conditions of the table.

    Args:
        table: a table of this machine.
        space: the space.
        networks: how many, drawn uniformly.
        seed: of the draw.

    Raises:
        UserError: the table comes from elsewhere, or lacks a layer of the space.
    """
    conditions = table.conditions
    if conditions is None:
        raise UserError(
            f"{table.source} does not say how it was measured, so it cannot be checked; check one "
            f"that `proxyless latency measure` made"
        )
    here = processor_name(conditions.device)
    if conditions.processor != here:
        raise UserError(
            f"{table.source} holds latencies of {conditions.processor} and this is {here}; check "
            "it there"
        )
    rng = random.Random(derive_seed(seed, "check latency"))
    architectures = [space.architecture(draw_uniform(space, rng)) for _ in range(networks)]
    predicted = [table.predict(architecture) for architecture in architectures]
    with torch.random.fork_rng(devices=[]):
        models = [Network(architecture) for architecture in architectures]
    measured = measure_networks(models, space.resolution, conditions, space.stem.in_channels)
    return Check(
        torch.tensor(predicted, dtype=torch.float64),
        torch.tensor([entry.mean for entry in measured], dtype=torch.float64),
    )
