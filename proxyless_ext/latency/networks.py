"""Latencies of whole networks: one, or several beside each other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn import count_macs, count_parameters
from ..seeding import generator
from .conditions import Conditions
from .table import Entry
from .timing import build_runs, count_rounds, time_chains


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
    return measure_networks([network], resolution, conditions, in_channels)[0]


def measure_networks(
    networks: Sequence[nn.Module], resolution: int, conditions: Conditions, in_channels: int = 3
) -> list[Entry]:
    """Latencies of networks, timed in turn, so that what disturbs one disturbs all.

    Raises:
        UserError: the backend cannot run here, or cannot run one of the networks.
    """
    example = pictures(conditions.batch_size, resolution, in_channels)
    runs = build_runs({i: (network, example) for i, network in enumerate(networks)}, conditions)
    rounds = [[[i] for i in runs]] * count_rounds(conditions)
    entries = time_chains(runs, rounds, conditions, random.Random(0))
    return [entries[i] for i in runs]


def compare(
    networks: Mapping[str, nn.Module], resolution: int, conditions: Conditions, in_channels: int = 3
) -> list[NetworkRow]:
    """Size, cost and latency of networks, in the order given.

    Raises:
        UserError: the backend cannot run here, or cannot run one of the networks.
    """
    entries = measure_networks(list(networks.values()), resolution, conditions, in_channels)
    return [
        NetworkRow(
            name, count_parameters(network), count_macs(network, resolution, in_channels), entry
        )
        for (name, network), entry in zip(networks.items(), entries, strict=True)
    ]


def pictures(batch_size: int, resolution: int, channels: int) -> Tensor:
    """Random pictures [batch_size, channels, resolution, resolution]."""
    shape = (batch_size, channels, resolution, resolution)
    return torch.randn(shape, generator=generator(0, "pictures"))
