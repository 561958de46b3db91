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

Chosen by trying, for PyTorch and ONNX Runtime, on `cifar_mbconv` and `imagenet`: layers timed alone
missed whole networks by 10 to 30 % (their calls cost ONNX Runtime as much again as small layers do),
and in frames and chains by 1 to 6 %; the whole networks take out most of the latter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import Network
from ..seeding import derive_seed
from ..spaces import Architecture, Layer, Space
from .conditions import Conditions
from .frames import chain, framed_layers, unframe
from .sampling import draw_uniform
from .table import Entry, LatencyTable
from .timing import build_runs, count_rounds, time_chains

WHOLE_NETWORKS = 12
LAYER_ERROR = 0.2
"""Relative standard error of a layer's latency before whole networks correct it."""
NETWORK_ERROR = 0.01
"""Of a whole network's, to the latency of an average one."""


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
        whole = [
            networks.architecture(draw_uniform(networks, rng)) for _ in range(WHOLE_NETWORKS)
        ]
    else:
        rounds = [networks for _ in turns]
        whole = list(networks[:WHOLE_NETWORKS])
    modules: dict[Hashable, tuple[nn.Module, Tensor]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.getrandbits(63))
        modules.update(framed_layers(rounds[0], conditions.batch_size))
        for index, architecture in enumerate(whole):
            modules[index] = (Network(architecture), pictures(architecture, conditions))
    chains = [
        [*(chain(network.layers()) for network in turn), *([index] for index in range(len(whole)))]
        for turn in rounds
    ]
    measured = time_chains(build_runs(modules, conditions), chains, conditions, rng)
    layers = [layer for architecture in rounds[0] for layer in architecture.layers()]
    return LatencyTable(_correct(unframe(layers, measured), whole, measured), conditions)
