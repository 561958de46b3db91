"""Layers by block, for what is drawn of a network."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ..spaces import Layer, TreeSpec


class Part(NamedTuple):
    """A layer, and those of the edges inside it: a block with several, or a layer alone."""

    layer: Layer
    inside: tuple[Layer, ...] = ()

    @property
    def levels(self) -> list[tuple[Layer, ...]]:
        """The edges inside by their level in a tree."""
        if not self.inside:
            return []
        spec = self.layer.spec
        assert isinstance(spec, TreeSpec)
        layers = iter(self.inside)
        return [tuple(islice(layers, size)) for size in spec.level_sizes]


def parts(layers: Iterable[Layer]) -> list[Part]:
    """The layers of a network by block."""
    rest = iter(layers)
    return [Part(layer, tuple(islice(rest, _num_edges(layer)))) for layer in rest]


def _num_edges(layer: Layer) -> int:
    return len(layer.spec.edges(layer.out_channels)) if layer.kind == "trunk" else 0
