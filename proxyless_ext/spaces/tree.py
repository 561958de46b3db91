"""Trees: blocks with edges inside, as in the paper's networks for CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from .operations import Look, Operation

BOTTLENECK = 4
"""Output channels of a block for each channel of the tree inside it."""
GROUPS = 2
"""Of the convolution at the root."""


@dataclass(frozen=True)
class TreeSpec(Operation):
    """A residual block around a tree (Cai et al., Path-Level Network Transformation, 2018).

    Convolutions have BatchNorm and ReLU before them (He et al., Identity Mappings, 2016). A 1x1
    convolution, without the ReLU, leads to a quarter of the output channels; another, with one more
    BatchNorm behind it, leads back. Between them, at the root of the tree, a 3x3 convolution of two
    groups, whose channels are then shuffled, has the block's stride; if channels are split among
    branches it makes as many as give each its whole width. Every branch is an edge and, but for the
    last level, a node with branches of its own; branches are added. On the first level the output
    of that node gets a BatchNorm, and the edge's own is added. The block's shortcut is padded with
    channels of zeros, and average-pooled where the stride is 2 (Han et al., Deep Pyramidal Residual
    Networks, 2017).

    Attributes:
        branches: of a node of every level, the root's first.
        splits: whether the root's branches are given a part of the channels each, not all of them.
    """

    branches: tuple[int, ...]
    splits: bool

    advice = (
        f"its width must be a multiple of {BOTTLENECK * GROUPS}, and no smaller than the one before"
    )

    @property
    def name(self) -> str:
        kinds = ("split" if self.splits else "copy", *["copy"] * (len(self.branches) - 1))
        levels = zip(kinds, self.branches, strict=True)
        return "_".join(["tree", *(f"{kind}{number}" for kind, number in levels)])

    @property
    def look(self) -> Look:
        levels = self.name.removeprefix("tree_").replace("_", ", ")
        return Look(f"block around a tree ({levels})", ("tree",))

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return out_channels % (BOTTLENECK * GROUPS) == 0 and out_channels >= in_channels

    def edges(self, out_channels: int) -> tuple[int, ...]:
        """One for every branch of the tree: level by level, siblings beside each other."""
        return (out_channels // BOTTLENECK,) * sum(self.level_sizes)

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Numbers of edges of every level."""
        return tuple(accumulate(self.branches, mul))
