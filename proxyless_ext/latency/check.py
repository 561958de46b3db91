"""Checking a latency table against whole networks."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from .sampling import draw_uniform, sample_within
from .table import Entry, LatencyTable
from .whole_networks import measure_each, with_pictures


@dataclass(frozen=True)
class Check:
    """Predicted against measured latencies of the same networks.

    Attributes:
        predicted: by the table, in ms, float64 [K].
        measured: in ms, float64 [K].
        again: the same, measured a second time; None where it was not.
        slowdown: how many times as long as when the table was measured its reference networks take
            now, on a machine that is busier, or warmer. It says nothing about the table's sums, so
            the figures below are those of `predicted` times this.
    """

    predicted: Tensor
    measured: Tensor
    slowdown: float
    again: Tensor | None = None

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
    def rank_correlation(self) -> float:
        """Kendall's tau of predicted and measured latencies; NaN where either are all equal."""
        return _kendall(self.predicted, self.measured)

    @property
    def repeatability(self) -> float | None:
        """Kendall's tau of two measurements, which no table beats by much."""
        return None if self.again is None else _kendall(self.measured, self.again)

    @property
    def _errors(self) -> Tensor:
        return (self.rescaled - self.measured).abs() / self.measured


def check_table(
    table: LatencyTable,
    space: Space,
    networks: int = 30,
    seed: int = 0,
    reaches_device: bool = False,
    within: tuple[float, float] | None = None,
) -> Check:
    """Measure random networks of a space, under the conditions of the table.

    Args:
        table: a table of this machine, or of a device that can be reached from it.
        space: the space.
        networks: how many, drawn uniformly.
        seed: of the draw.
        reaches_device: whether the command in the table may be run, which came with the file.
        within: what the networks are to take by the table, from and to in its unit. They are
            measured twice then: alike as they are, some come out in another order by chance.

    Raises:
        UserError: the table comes from elsewhere, lacks a layer of the space, or predicts that less
            than two networks lie there.
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
    choices = _draw(table, space, networks, seed, within)
    architectures = [space.architecture(each) for each in choices]
    predicted = [table.predict(architecture) for architecture in architectures]
    references = conditions.reference.architectures(space)
    modules = with_pictures([*architectures, *references], conditions.batch_size)
    latencies = measure_each(modules, conditions)
    measured = _means(latencies, architectures)
    again = None
    if within:
        modules = with_pictures(architectures, conditions.batch_size)
        again = _means(measure_each(modules, conditions), architectures)
    slowdown = _means(latencies, references).mean().item() / conditions.reference.mean
    return Check(torch.tensor(predicted, dtype=torch.float64), measured, slowdown, again)


def _draw(
    table: LatencyTable,
    space: Space,
    networks: int,
    seed: int,
    within: tuple[float, float] | None,
) -> list[list[int]]:
    if within is None:
        rng = random.Random(derive_seed(seed, "check latency"))
        return [draw_uniform(space.counts, rng) for _ in range(networks)]
    choices = sample_within(table.costs(space), *within, networks, seed)
    if len(choices) < min(networks, 2):
        low, high = within
        raise UserError(
            f"by {table.source} fewer than two networks of '{space.name}' take {low:.4g} to "
            f"{high:.4g} {table.unit}; move the target or widen the tolerance"
        )
    return choices


def _means(latencies: Mapping[Hashable, Entry], networks: Sequence[Architecture]) -> Tensor:
    return torch.tensor([latencies[each].mean for each in networks], dtype=torch.float64)


def _kendall(first: Tensor, second: Tensor) -> float:
    from scipy.stats import kendalltau  # Here, because it takes long to import.

    return float(kendalltau(first, second).statistic)
