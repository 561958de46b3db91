"""Layers: an operation on given shapes, the unit whose latency is measured, summed and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .operations import Operation
from .registry import parse_operation

LayerKind = Literal[
    "stem", "trunk", "block", "feature_mix", "norm", "pool", "pooled_mix", "classifier"
]

_KEYS = {
    "stem": "Conv",
    "feature_mix": "Conv_1",
    "norm": "Norm",
    "pool": "AvgPool2D",
    "pooled_mix": "Conv_2",
    "classifier": "Logits",
}
"""What layers that are no blocks are called in latency tables."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        kind: which part of the network it is. A block with edges inside is several layers: the
            trunk, which is what it would be with identities there, and a block for every edge.
        operation: the name of a block's or trunk's operation; empty for the other kinds.
        in_channels, out_channels: channels; a classifier's out_channels are its classes.
        in_size: height and width of the square input, in pixels.
        stride: of the stem, trunk or block.
        shortcut: whether a block adds its input to its output.
    """

    kind: LayerKind
    operation: str
    in_channels: int
    out_channels: int
    in_size: int
    stride: int = 1
    shortcut: bool = False

    @property
    def out_size(self) -> int:
        """Height and width of the output, in pixels (padding keeps ceil(size / stride))."""
        return 1 if self.kind in ("pool", "classifier") else -(-self.in_size // self.stride)

    @property
    def spec(self) -> Operation:
        """The parsed operation of a block or trunk."""
        return parse_operation(self.operation)

    @property
    def is_skipped(self) -> bool:
        """A block that is left out: it costs nothing."""
        return self.kind == "block" and self.spec.skips

    @property
    def key(self) -> str:
        """The key of this layer in a latency table, in the format of the published tables."""
        size, channels = self.in_size, self.in_channels
        source = f"input:{size}x{size}x{channels}"
        target = f"output:{self.out_size}x{self.out_size}x{self.out_channels}"
        if self.kind == "classifier":
            target = f"output:{self.out_channels}"
        if not self.operation:
            return f"{_KEYS[self.kind]}-{source}-{target}"
        placement = f"stride:{self.stride}-idskip:{int(self.shortcut)}"
        return self.spec.key(channels, f"{source}-{target}", placement)
