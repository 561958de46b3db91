"""Latencies of whole networks: one, or several beside each other."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..nn import Network, count_macs, count_parameters
from ..seeding import generator
from ..spaces import Architecture
from .bystanders import Bystanders
from .conditions import Conditions
from .journal import Journal
from .table import Entry
from .timing import build_runs, count_rounds, time_chains
from .trials import measure_in_turn


@dataclass(frozen=True)
class NetworkRow:
    """A network in a comparison; `macs` are those of one picture, the latency that of a batch."""

    name: str
    parameters: int
    macs: int
    latency: Entry


def measure_network(
    network: nn.Module, resolution: int, conditions: Conditions, in_channels: int = 3
) -> Entry:
    """Latency of a network for pictures of `resolution` pixels squared.

    Raises:
        UserError: the backend cannot run here, or cannot run this network.
    """
    example = random_input(conditions.batch_size, in_channels, resolution)
    return measure_each({0: (network, example)}, conditions)[0]


def compare(
    networks: Mapping[str, nn.Module], resolution: int, conditions: Conditions, in_channels: int = 3
) -> list[NetworkRow]:
    """Size, cost and latency of networks, in the order given.

    Raises:
        UserError: the backend cannot run here, or cannot run one of the networks.
    """
    example = random_input(conditions.batch_size, in_channels, resolution)
    latencies = measure_each({name: (networks[name], example) for name in networks}, conditions)
    return [
        NetworkRow(
            name,
            count_parameters(network),
            count_macs(network, resolution, in_channels),
            latencies[name],
        )
        for name, network in networks.items()
    ]


def measure_each(
    networks: Mapping[Hashable, tuple[nn.Module, Tensor]],
    conditions: Conditions,
    journal: Journal | None = None,
) -> dict[Hashable, Entry]:
    """Latencies of networks, each for its input, timed in turn: what disturbs one disturbs all.

    Args:
        networks: by key, each with its input.
        conditions: how to measure.
        journal: of a remote device: has what was measured before, and gets what is measured now.

    Raises:
        UserError: the backend cannot run here, or cannot run one of the networks.
    """
    if conditions.is_remote:
        return measure_in_turn(networks, conditions, journal)
    rounds = [[[key] for key in networks]] * count_rounds(conditions)
    runs = build_runs(networks, conditions)
    others = Bystanders()
    latencies = time_chains(runs, rounds, conditions, random.Random(0))
    others.warn(conditions.threads)
    return latencies


def with_pictures(
    architectures: Iterable[Architecture], batch_size: int
) -> Mapping[Hashable, tuple[nn.Module, Tensor]]:
    """Networks by architecture, with fresh weights, each with pictures of its resolution.

    They are made whenever they are asked for, since many large ones would fill the memory.
    """
    return _WithPictures(architectures, batch_size)


class _WithPictures(Mapping[Hashable, tuple[nn.Module, Tensor]]):
    def __init__(self, architectures: Iterable[Architecture], batch_size: int) -> None:
        self._architectures = {each: each for each in architectures}
        self._batch_size = batch_size

    def __getitem__(self, key: Hashable) -> tuple[nn.Module, Tensor]:
        architecture = self._architectures[cast(Architecture, key)]
        channels, size = architecture.stem.in_channels, architecture.resolution
        return fresh_network(architecture), random_input(self._batch_size, channels, size)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._architectures)

    def __len__(self) -> int:
        return len(self._architectures)


def fresh_network(architecture: Architecture) -> Network:
    """A network with fresh weights; the generator that they come from is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return Network(architecture)


def random_input(batch_size: int, channels: int, size: int) -> Tensor:
    """Standard normal numbers [batch_size, channels, size, size], always the same."""
    return torch.randn(batch_size, channels, size, size, generator=generator(0, "random input"))
