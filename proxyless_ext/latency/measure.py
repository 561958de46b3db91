"""Measuring a latency table of this machine, so that its sums are the latencies of whole networks.

In two steps, because a layer alone is not what it is inside a network.

1. Layers are timed in frames (`frames`), which takes out what a network pays only once. They run in
   chains: one after the other as in a random network, again and again, so that weights and buffers
   are as far from the core as a network of that size leaves them. Layers that are simply repeated
   keep their weights in the nearest cache and come out up to a quarter too fast; all layers of a
   space in turn find none there and come out too slow.
2. Some whole networks are timed in between. How much a network evicts of its own weights depends on
   all of it, which no sum over layers knows: a layer makes the others slower, too. So the layers'
   latencies are taken as an estimate with an error of some percent, and corrected to what, of all
   corrections, is the most probable one given the whole networks (Gaussian errors; the posterior
   mean of a linear regression).

Chosen by trying, for PyTorch and ONNX Runtime, on `cifar_mbconv` and `imagenet`: layers timed
alone missed whole networks by 10 to 30 % (their calls cost ONNX Runtime as much again as small layers do),
and in frames and chains by 1 to 6 %; the whole networks take out most of the latter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import torch

from ..nn import Network
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from .conditions import Conditions
from .frames import chain, framed_layers, unframe
from .networks import pictures
from .sampling import draw_uniform
from .table import Entry, LatencyTable
from .timing import build_runs, count_rounds, time_chains

WHOLE_NETWORKS = 12
LAYER_ERROR = 0.2
"""Relative standard error of a layer's latency before whole networks correct it."""
NETWORK_ERROR = 0.01
"""Standard error of a whole network's latency, relative to their mean."""


def measure_table(
    networks: Space | Sequence[Architecture], conditions: Conditions, seed: int = 0
) -> LatencyTable:
    """Measure the distinct layers of a space, or of given networks, on this machine.

    Args:
        networks: the space or the networks.
        conditions: how to measure.
        seed: of the random networks.

    Returns:
        The table, under these conditions.

    Raises:
        UserError: the backend cannot run here.
    """
    rng = random.Random(derive_seed(seed, "measure latency"))
    turns = range(count_rounds(conditions))
    if isinstance(networks, Space):
        rounds = [_cover(networks, rng) for _ in turns]
        whole = [networks.architecture(draw_uniform(networks, rng)) for _ in range(WHOLE_NETWORKS)]
    else:
        rounds = [list(networks) for _ in turns]
        whole = list(networks)[:WHOLE_NETWORKS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.getrandbits(63))
        modules = framed_layers(rounds[0], conditions.batch_size)
        for index, architecture in enumerate(whole):
            example = pictures(
                conditions.batch_size, architecture.resolution, architecture.stem.in_channels
            )
            modules[index] = (Network(architecture), example)
    alone: list[list[Hashable]] = [[key] for key in range(len(whole))]
    chains = [[*(chain(architecture.layers()) for architecture in turn), *alone] for turn in rounds]
    measured = time_chains(build_runs(modules, conditions), chains, conditions, rng)
    entries = unframe((layer for member in rounds[0] for layer in member.layers()), measured)
    return LatencyTable(
        _correct(entries, whole, [measured[key].mean for key in range(len(whole))]), conditions
    )


def _cover(space: Space, rng: random.Random) -> list[Architecture]:
    """Random networks in which every candidate of every edge occurs, as few as there can be."""
    orders = [
        rng.sample(range(count), count) for count in map(len, (e.candidates for e in space.edges))
    ]
    return [
        space.architecture([order[turn % len(order)] for order in orders])
        for turn in range(max(map(len, orders)))
    ]


def _correct(
    entries: Mapping[str, Entry], networks: Sequence[Architecture], measured: Sequence[float]
) -> dict[str, Entry]:
    """Correct the layers' latencies by those of whole networks, in ms.

    With t ~ N(t0, diag(LAYER_ERROR t0)^2) and measured y ~ N(X t, s^2), X counting the layers of
    every network, the mean of t given y is t0 + V X' (X V X' + s^2)^-1 (y - X t0).
    """
    prior = torch.tensor([entry.mean for entry in entries.values()], dtype=torch.float64)
    counts = torch.tensor(
        [
            [Counter(layer.key for layer in network.layers())[key] for key in entries]
            for network in networks
        ],
        dtype=torch.float64,
    )
    totals = torch.tensor(measured, dtype=torch.float64)
    weighted = counts * (LAYER_ERROR * prior) ** 2  # X V
    noise = (NETWORK_ERROR * totals.mean()) ** 2 * torch.eye(len(networks), dtype=torch.float64)
    misfit = torch.linalg.solve(weighted @ counts.T + noise, totals - counts @ prior)
    corrected = (prior + weighted.T @ misfit).clamp(min=0).tolist()
    return {
        key: entry.model_copy(update={"mean": mean})
        for (key, entry), mean in zip(entries.items(), corrected, strict=True)
    }
