"""Layers in frames: what a layer costs inside a network, from runs of it outside.

A layer run alone pays what a network pays once: the call, and the reordering of its input and
output where a runtime keeps activations in a layout of its own. So a layer is run in a frame, the
graph

    head -> layer -> tail

in which the head makes the layer's input (a 1x1 convolution of one channel) and the tail takes
its output (global average pooling); a stem has no head and a classifier no tail. For every shape
an empty frame, head -> tail, is timed too. A layer costs what its framed run takes, less half of
the empty frame of its input's shape and half of that of its output's. Over the layers of a network
the frames then cancel, up to the one call that the network pays for as well, wherever times add
up. Alone, a layer that changes the shape is off by a difference of heads and tails, some percent.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..spaces import Architecture, Layer
from .table import Entry
from .whole_networks import fresh_network, random_input


class Frame(NamedTuple):
    """The empty frame of a shape."""

    channels: int
    size: int

    def __str__(self) -> str:
        return f"empty frame {self.size}x{self.size}x{self.channels}"


class Framed(nn.Module):
    """head -> layer -> tail, either end of which a layer may lack."""

    def __init__(self, layer: nn.Module, head: Frame | None, tail: Frame | None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Conv2d(1, head.channels, 1) if head else nn.Identity()
        self.layer = layer
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if tail else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.tail(self.layer(self.head(x)))
        return output


def framed_layers(
    architectures: Iterable[Architecture], batch_size: int
) -> dict[Hashable, tuple[nn.Module, Tensor]]:
    """The distinct layers of networks in their frames, by key, and the empty frames, by shape.

    Each comes with an input.
    """
    modules: dict[Hashable, tuple[nn.Module, Tensor]] = {}
    for architecture in architectures:
        network = fresh_network(architecture)
        for layer, part in zip(architecture.layers(), network.layers, strict=True):
            head, tail = _frames(layer)
            channels = 1 if head else layer.in_channels
            example = random_input(batch_size, channels, layer.in_size)
            if not layer.is_skipped and layer.key not in modules:
                modules[layer.key] = (Framed(part, head, tail), example)
            if head and head not in modules:
                modules[head] = (Framed(nn.Identity(), head, head), example)
    return modules


def chain(layers: Iterable[Layer]) -> list[Hashable]:
    """The runs of one pass over a network: its layers in order, each frame before the first use.

    Each comes once, even where the network repeats it: in the network the copies have weights of
    their own, so that none of them finds its weights in the cache as a second run would.
    """
    runs: dict[Hashable, None] = {}
    for layer in layers:
        if not layer.is_skipped:
            head, _ = _frames(layer)
            runs.update(dict.fromkeys((head, layer.key) if head else (layer.key,)))
    return list(runs)


def unframe(layers: Iterable[Layer], measured: Mapping[Hashable, Entry]) -> dict[str, Entry]:
    """What layers cost, by their keys, from the times of framed layers and empty frames."""
    entries = {}
    for layer in layers:
        if not layer.is_skipped:
            framed = measured[layer.key]
            empty = [measured[frame] for frame in _frames(layer) if frame]
            mean = framed.mean - sum(entry.mean for entry in empty) / 2
            var = framed.var + sum(entry.var for entry in empty) / 4
            entries[layer.key] = Entry(count=framed.count, mean=max(0.0, mean), var=var)
    return entries


def _frames(layer: Layer) -> tuple[Frame | None, Frame | None]:
    """The empty frames of the shapes of a layer's input and output, where it has these ends."""
    head = Frame(layer.in_channels, layer.in_size) if layer.kind != "stem" else None
    tail = Frame(layer.out_channels, layer.out_size) if layer.kind != "classifier" else None
    return head, tail
