"""Measuring a latency table of this machine, so that its sums are the latencies of whole networks.

In two steps, because a layer alone is not what it is inside a network.

1. Layers are timed in frames (`frames`), which takes out what a network pays only once. They run in
   chains: one after the other as in a random network, again and again, so that weights and buffers
   are as far from the core as a network of that size leaves them. A layer that is simply repeated
   keeps its weights in the nearest cache and comes out up to a quarter too fast; where all layers
   of a space take turns, none finds its weights there and all come out too slow.
2. Some whole networks are timed in between. How much a network evicts of its own weights depends on
   all of it, which no sum over layers knows: a layer makes the others slower, too. So the layers'
   latencies are taken as an estimate with an error of some percent, and get the correction that is
   the most probable one given the whole networks: the posterior mean of a linear regression. Where
   large networks suffer more, it makes all layers dearer, and those that all networks have cheaper.

Chosen by trying, for PyTorch and ONNX Runtime, on `cifar_mbconv` and `imagenet`. Sums of layers
that were timed alone missed whole networks by 10 to 30 % (where layers are small, a call of ONNX
Runtime costs as much as they do), those from frames and chains by 1 to 9 %; the correction takes
out most of that.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from ..seeding import derive_seed
from ..spaces import Architecture, Space
from .bystanders import Bystanders
from .conditions import Conditions
from .correction import Errors, correct
from .frames import chain, framed_layers, unframe
from .gpu import read_gpu
from .journal import Journal
from .reference import Reference
from .sampling import draw_uniform
from .table import Entry, LatencyTable
from .timing import build_runs, count_rounds, time_chains
from .trials import measure_in_turn
from .whole_networks import with_pictures

WHOLE_NETWORKS = 12
REFERENCES = 6
"""So many of the whole networks are named in the table, to be measured again by a check."""

ERRORS = Errors(part=0.05, shared=0.1, common=0.1)
"""Of layers in frames and chains."""
REMOTE_ERRORS = Errors(part=0.15, shared=0.3, common=0.3)
"""Of layers in frames, each repeated on its own by the program that a remote device has."""


def measure_table(
    space: Space, conditions: Conditions, seed: int = 0, journal: Journal | None = None
) -> LatencyTable:
    """Measure all layers of a space.

    Args:
        space: the space.
        conditions: how to measure.
        seed: of the random networks.
        journal: of a remote device: has what was measured before, and gets what is measured now.

    Returns:
        The table, under these conditions, with a reference.

    Raises:
        UserError: the backend cannot run here.
    """
    rng = random.Random(derive_seed(seed, "measure latency"))
    covers = [_cover(space, rng) for _ in range(_num_covers(conditions))]
    choices = [draw_uniform(space.counts, rng) for _ in range(WHOLE_NETWORKS)]
    whole = [space.architecture(network) for network in choices]
    others = Bystanders()
    entries, totals = _measure(covers, whole, conditions, rng, journal)
    reference = Reference.of(space, choices[:REFERENCES], fmean(totals[:REFERENCES]))
    return LatencyTable(entries, _ended(conditions, others, reference), unit=conditions.unit)


def measure_layers(
    networks: Sequence[Architecture],
    conditions: Conditions,
    seed: int = 0,
    journal: Journal | None = None,
) -> LatencyTable:
    """Measure the layers of some networks.

    Args:
        networks: at least one.
        conditions: how to measure.
        seed: of the order.
        journal: as of `measure_table`.

    Returns:
        The table, under these conditions.

    Raises:
        UserError: the backend cannot run here.
    """
    rng = random.Random(derive_seed(seed, "measure latency"))
    covers = [networks] * _num_covers(conditions)
    others = Bystanders()
    entries, _ = _measure(covers, networks[:WHOLE_NETWORKS], conditions, rng, journal)
    return LatencyTable(entries, _ended(conditions, others, None), unit=conditions.unit)


def _num_covers(conditions: Conditions) -> int:
    """How often layers are timed anew in other chains; a remote device has none."""
    return 1 if conditions.is_remote else count_rounds(conditions)


def _ended(conditions: Conditions, others: Bystanders, reference: Reference | None) -> Conditions:
    """The conditions of what was measured beside other programs."""
    found: dict[str, Any] = {"reference": reference, "gpu": read_gpu(conditions.device)}
    if not conditions.is_remote:
        found["busy_cores"] = others.cores()
        others.warn(conditions.threads)
    return conditions.model_copy(update=found)


def _measure(
    covers: Sequence[Sequence[Architecture]],
    whole: Sequence[Architecture],
    conditions: Conditions,
    rng: random.Random,
    journal: Journal | None,
) -> tuple[dict[str, Entry], list[float]]:
    """Latencies of layers and, in ms, of the networks `whole`.

    Each of the `covers` are the networks whose layers are timed in one round, the same ones in all.
    """
    modules = framed_layers(covers[0], conditions.batch_size)
    modules.update(with_pictures(whole, conditions.batch_size))
    if conditions.is_remote:
        errors = REMOTE_ERRORS
        measured = measure_in_turn(modules, conditions, journal)
    else:
        errors = ERRORS
        alone: list[list[Hashable]] = [[network] for network in whole]
        rounds = [[*(chain(network.layers()) for network in cover), *alone] for cover in covers]
        measured = time_chains(build_runs(modules, conditions), rounds, conditions, rng)
    layers = unframe((layer for network in covers[0] for layer in network.layers()), measured)
    totals = [measured[network].mean for network in whole]
    return _correct(layers, whole, totals, errors), totals


def _cover(space: Space, rng: random.Random) -> list[Architecture]:
    """Random networks in which every candidate of every edge occurs, as few as there can be."""
    orders = [rng.sample(range(count), count) for count in space.counts]
    return [
        space.architecture([order[turn % len(order)] for order in orders])
        for turn in range(max(map(len, orders)))
    ]


def _correct(
    entries: Mapping[str, Entry],
    networks: Sequence[Architecture],
    measured: Sequence[float],
    errors: Errors,
) -> dict[str, Entry]:
    """Correct the layers' latencies by those of whole networks, in ms."""
    occurrences = [Counter(layer.key for layer in network.layers()) for network in networks]
    counts = torch.tensor([[each[key] for key in entries] for each in occurrences]).double()
    prior = torch.tensor([entry.mean for entry in entries.values()], dtype=torch.float64)
    totals = torch.tensor(measured, dtype=torch.float64)
    corrected = correct(prior, counts, totals, errors).tolist()
    return {
        key: entry.model_copy(update={"mean": mean})
        for (key, entry), mean in zip(entries.items(), corrected, strict=True)
    }
