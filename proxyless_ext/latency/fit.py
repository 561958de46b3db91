"""A latency table from whole networks alone: few suffice, and layers need not run by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..spaces import Architecture, Space
from .additive import Array, Layers
from .bystanders import Bystanders
from .check import Check
from .conditions import Conditions
from .design import plan_networks
from .gpu import read_gpu
from .journal import Journal
from .measure import REFERENCES
from .reference import Reference
from .table import Entry, LatencyTable
from .whole_networks import measure_each, with_pictures

FEWEST = 10
"""Networks that a fit needs."""

FOLDS = 10
"""Of the cross-validation; each is predicted by a fit to the others."""

STEPS = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240)
"""Numbers of networks for which the error is told."""

SAME = 1e-9
"""Relative difference of numbers that are the same but for rounding."""

NORMAL_95 = 1.96
"""Standard deviations on either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Fit:
    """Costs of layers from those of whole networks.

    Attributes:
        entries: of a table, by key. Their `count` is the number of networks that have the layer,
            their `var` that of what is believed of it.
        held_out: networks as predicted by fits that did not know them, against measured.
        by_number: median error of such predictions by fits to so many networks.
        network_error: relative standard deviation of whole networks about the sum over their
            layers, by the fit: noise, and what no sum can follow.
    """

    entries: dict[str, Entry]
    held_out: Check
    by_number: dict[int, float]
    network_error: float

    @property
    def relative_width(self) -> float:
        """The 95 % interval of the middle layer, as a fraction of its cost on either side."""
        return median(
            NORMAL_95 * sqrt(entry.var) / entry.mean
            for entry in self.entries.values()
            if entry.mean
        )


def interval(entry: Entry) -> tuple[float, float]:
    """Between what a layer of a `Fit` costs with a probability of 95 %."""
    width = NORMAL_95 * sqrt(entry.var)
    return max(0.0, entry.mean - width), entry.mean + width


def fit_networks(space: Space, measured: Mapping[Architecture, float]) -> Fit:
    """Fit the costs of a space's layers to those of whole networks.

    Args:
        space: the space.
        measured: cost of each network, in one unit, such as ms.

    Raises:
        UserError: a network is not one of the space, there are too few, or all cost the same.
    """
    layers = Layers.of(space)
    for network in measured:
        _check_network(space, layers, network)
    check_number(len(measured))
    counts = layers.count(measured)
    values = np.array(list(measured.values()), dtype=np.float64)
    if np.ptp(values) <= SAME * values.max():
        raise UserError(
            f"all {len(values)} networks were measured to be {values[0]:g}, which tells nothing of "
            "their layers; see that the number is what a network takes"
        )
    posterior = layers.posterior(counts, values)
    seen = np.maximum((counts > 0).sum(axis=0), 1)
    entries = {
        key: Entry(count=int(number), mean=float(mean), var=float(max(var, 0)))
        for key, number, mean, var in zip(
            layers.keys, seen, posterior.mean, posterior.covariance.diagonal(), strict=True
        )
    }
    by_number, predicted = {}, values
    for number in _steps(len(values)):
        predicted = _predict_held_out(layers, counts, values, number)
        by_number[number] = _check(predicted, values).median_error
    return Fit(entries, _check(predicted, values), by_number, posterior.errors.network)


def measure_and_fit(
    space: Space,
    conditions: Conditions,
    networks: int = 60,
    seed: int = 0,
    journal: Journal | None = None,
) -> tuple[Fit, LatencyTable]:
    """Measure whole networks of a space, and fit the costs of its layers to them.

    Args:
        space: the space.
        conditions: how to measure.
        networks: how many.
        seed: of the networks.
        journal: of a remote device: has what was measured before, and gets what is measured now.

    Returns:
        The fit, and the table under these conditions, with a reference.

    Raises:
        UserError: the networks are too few or more than there are, or the backend cannot run here.
    """
    check_number(networks)
    choices = plan_networks(space, networks, seed)
    architectures = [space.architecture(each) for each in choices]
    others = Bystanders()
    modules = with_pictures(architectures, conditions.batch_size)
    entries = measure_each(modules, conditions, journal)
    means = [entries[architecture].mean for architecture in architectures]
    found: dict[str, Any] = {
        "reference": Reference.of(space, choices[:REFERENCES], fmean(means[:REFERENCES])),
        "busy_cores": None if conditions.is_remote else others.cores(),
        "gpu": read_gpu(conditions.device),
    }
    recorded = conditions.model_copy(update=found)
    fit = fit_networks(space, dict(zip(architectures, means, strict=True)))
    return fit, LatencyTable(fit.entries, recorded, unit=conditions.unit)


def check_number(networks: int) -> None:
    """Refuse too few networks.

    Raises:
        UserError: says how many there should be.
    """
    if networks < FEWEST:
        raise UserError(
            f"{networks} measured networks are too few for a fit; measure at least {FEWEST}, "
            "better 60"
        )


def _steps(total: int) -> list[int]:
    """Numbers of networks to fit to, the last of which is all that a fold leaves."""
    most = total - -(-total // FOLDS)
    return [*(step for step in STEPS if step < most), most]


def _predict_held_out(layers: Layers, counts: Array, values: Array, number: int) -> Array:
    """Every network as predicted by a fit to the first `number` of those of other folds [M]."""
    predicted = np.empty(len(values))
    folds = np.arange(len(values)) % FOLDS
    for fold in range(FOLDS):
        others = np.flatnonzero(folds != fold)[:number]
        posterior = layers.posterior(counts[others], values[others])
        predicted[folds == fold] = counts[folds == fold] @ posterior.mean
    return predicted


def _check(predicted: Array, measured: Array) -> Check:
    return Check(torch.from_numpy(predicted), torch.from_numpy(measured), 1.0)


def _check_network(space: Space, layers: Layers, network: Architecture) -> None:
    known = {*layers.keys, *(layer.key for layer in network.layers() if layer.is_skipped)}
    others = [layer.key for layer in network.layers() if layer.key not in known]
    if others or len(network.blocks) != len(space.fixed_blocks) + len(space.searched_blocks):
        found = f"has {', '.join(others)}" if others else f"has {len(network.blocks)} blocks"
        raise UserError(
            f"network '{network.name}' is none of space '{space.name}': it {found}; give the space "
            "that it was drawn from, with the same resolution and classes"
        )
