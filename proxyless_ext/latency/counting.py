"""What layers cost that can be counted instead of measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..nn import Network, count_macs, count_parameters
from ..spaces import Architecture, Layer, Space
from .table import Entry, LatencyTable


class Counts(NamedTuple):
    """What one layer costs, for one picture.

    Attributes:
        macs: multiply-accumulates of its convolutions and linear layers.
        parameters: their number, those of BatchNorm among them.
        weight_bytes: of the parameters in float32.
        activation_bytes: that its convolutions and linear layers write in float32.
        operations: how many convolutions and linear layers it has.
    """

    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    operations: int


CountName = Literal["macs", "parameters", "weight_bytes", "activation_bytes"]
COUNTS: tuple[CountName, ...] = get_args(CountName)

UNITS: dict[CountName, str] = {
    "macs": "MACs",
    "parameters": "params",
    "weight_bytes": "B",
    "activation_bytes": "B",
}


def count_table(space: Space, cost: CountName) -> LatencyTable:
    """What all layers of a space cost, exactly, in a unit of its own."""
    entries = {
        key: Entry(count=1, mean=float(getattr(each, cost)), var=0.0)
        for key, each in _count_space(space).items()
    }
    return LatencyTable(entries, source=f"the table of {cost}", unit=UNITS[cost])


@lru_cache(maxsize=8)
def _count_space(space: Space) -> dict[str, Counts]:
    return count_layers(covering(space))


def covering(space: Space) -> list[Architecture]:
    """Networks of a space in which every candidate of every edge occurs."""
    return [
        space.architecture([min(turn, count - 1) for count in space.counts])
        for turn in range(max(space.counts))
    ]


def count_layers(architectures: Iterable[Architecture]) -> dict[str, Counts]:
    """The counts of all layers of networks by their keys, but for skipped ones."""
    found: dict[str, Counts] = {}
    for architecture in architectures:
        layers = architecture.layers()
        if all(layer.is_skipped or layer.key in found for layer in layers):
            continue
        with torch.device("meta"):
            network = Network(architecture)
        for layer, part in zip(layers, network.layers, strict=True):
            if not layer.is_skipped and layer.key not in found:
                found[layer.key] = _count(layer, part)
    return found


def _count(layer: Layer, module: nn.Module) -> Counts:
    written: list[int] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        written.append(output.numel())

    on_shapes = copy.deepcopy(module).eval()
    for part in on_shapes.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(note)
    with torch.no_grad():
        on_shapes(torch.empty(1, layer.in_channels, layer.in_size, layer.in_size, device="meta"))
    parameters = count_parameters(module)
    size = torch.float32.itemsize
    return Counts(
        count_macs(module, layer.in_size, layer.in_channels),
        parameters,
        size * parameters,
        size * sum(written),
        len(written),
    )
