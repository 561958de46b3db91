"""Checking a latency table against whole networks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from ..errors import UserError
from ..seeding import derive_seed
from ..spaces import Space
from .sampling import draw_uniform
from .table import LatencyTable
from .whole_networks import measure_each, with_pictures


@dataclass(frozen=True)
class Check:
    """Predicted against measured latencies of the same networks.

    Attributes:
        predicted: by the table, in ms, float64 [K].
        measured: in ms, float64 [K].
        slowdown: how many times as long as when the table was measured its reference networks take
            now, on a machine that is busier, or warmer. It says nothing about the table's sums, so
            the figures below are those of `predicted` times this.
    """

    predicted: Tensor
    measured: Tensor
    slowdown: float

    @property
    def rescaled(self) -> Tensor:
        """Predicted latencies at the machine's present speed, in ms."""
        return self.slowdown * self.predicted

    @property
    def r2(self) -> float:
        """1 - SSE / SST of the measured latencies about the rescaled ones.

        Not about a line fitted to them; NaN where all networks take equally long.
        """
        squares = (self.measured - self.rescaled).square().sum()
        return (1 - squares / (self.measured - self.measured.mean()).square().sum()).item()

    @property
    def median_error(self) -> float:
        """Median of |rescaled - measured| / measured."""
        return self._errors.quantile(0.5).item()

    @property
    def max_error(self) -> float:
        """Largest |rescaled - measured| / measured."""
        return self._errors.max().item()

    @property
    def _errors(self) -> Tensor:
        return (self.rescaled - self.measured).abs() / self.measured


def check_table(
    table: LatencyTable,
    space: Space,
    networks: int = 30,
    seed: int = 0,
    reaches_device: bool = False,
) -> Check:
    """Measure random networks of a space, under the conditions of the table.

    Args:
        table: a table of this machine, or of a device that can be reached from it.
        space: the space.
        networks: how many, drawn uniformly.
        seed: of the draw.
        reaches_device: whether the command in the table may be run, which came with the file.

    Raises:
        UserError: the table comes from elsewhere, or lacks a layer of the space.
    """
    conditions = table.conditions
    if conditions is None or conditions.reference is None:
        raise UserError(
            f"{table.source} was not measured for a space on a machine like this, so it cannot be "
            f"checked; check one that `proxyless latency measure {space.name}` made"
        )
    if conditions.remote:
        if not reaches_device:
            raise UserError(
                f"{table.source} was measured by {conditions.remote.what}; read that, and let it "
                "run with --reach-device"
            )
    elif not conditions.are_of_this_machine:
        raise UserError(
            f"{table.source} holds latencies of {conditions.processor}, which is not this "
            f"machine's {conditions.device}; check it there"
        )
    rng = random.Random(derive_seed(seed, "check latency"))
    choices = [draw_uniform(space.counts, rng) for _ in range(networks)]
    architectures = [space.architecture(each) for each in choices]
    predicted = [table.predict(architecture) for architecture in architectures]
    references = conditions.reference.architectures(space)
    modules = with_pictures([*architectures, *references], conditions.batch_size)
    latencies = measure_each(modules, conditions)
    measured = [latencies[architecture].mean for architecture in architectures]
    now = fmean(latencies[architecture].mean for architecture in references)
    return Check(
        torch.tensor(predicted, dtype=torch.float64),
        torch.tensor(measured, dtype=torch.float64),
        now / conditions.reference.mean,
    )
