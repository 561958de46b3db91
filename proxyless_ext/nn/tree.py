"""Residual blocks around a tree of edges, as `spaces.tree` describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from itertools import islice
from operator import add

from torch import Tensor, nn
from torch.nn import functional

from ..spaces import BatchNorm, BlockConfig, TreeSpec
from ..spaces.tree import BOTTLENECK, GROUPS
from .drop_path import Branch
from .pre_activated import BNActConv

Edge = Callable[[Tensor], Tensor]


class Trunk(Branch):
    """The block but for its edges.

    Alone it is the block with identities at all of them. All beside the shortcut is the branch that
    can be dropped.

    Args:
        spec: the tree.
        block: its shapes, the `edges` not being of interest.
        batch_norm: of all BatchNorms.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, spec: TreeSpec, block: BlockConfig, batch_norm: BatchNorm) -> None:
        super().__init__()
        layer = partial(BNActConv, bn_momentum=batch_norm.momentum, bn_eps=batch_norm.eps)
        norm = partial(nn.BatchNorm2d, eps=batch_norm.eps, momentum=batch_norm.momentum)
        width = block.out_channels // BOTTLENECK
        root_width = width * spec.branches[0] if spec.splits else width
        self.enter = layer(block.in_channels, width, 1, activation=None)
        self.root = layer(width, root_width, 3, block.stride, GROUPS)
        self.shuffle = nn.ChannelShuffle(GROUPS)
        has_children = len(spec.branches) > 1
        self.norms = nn.ModuleList(norm(width) for _ in range(spec.branches[0] * has_children))
        self.leave = layer(width, block.out_channels, 1)
        self.norm = norm(block.out_channels)
        self.spec, self.stride = spec, block.stride
        self.added_channels = block.out_channels - block.in_channels

    def forward(self, x: Tensor, edges: Sequence[Edge] | None = None) -> Tensor:
        """The block with `edges`, in the order of `TreeSpec.edges`."""
        given = iter([nn.Identity()] * sum(self.spec.level_sizes) if edges is None else edges)
        levels = [[*islice(given, size)] for size in self.spec.level_sizes]
        grown = self._grow(self.shuffle(self.root(self.enter(x))), levels)
        output: Tensor = self._shortcut(x) + self.dropped(self.leave(grown, self.norm))
        return output

    def _grow(self, x: Tensor, levels: Sequence[Sequence[Edge]], node: int = 0) -> Tensor:
        """What a node makes of x.

        Args:
            x: its input.
            levels: the edges of its level, then those of each below.
            node: which one of its level it is.
        """
        edges, *below = levels
        level = len(self.spec.branches) - len(levels)
        number = self.spec.branches[level]
        is_root = level == 0
        inputs = x.chunk(number, dim=1) if is_root and self.spec.splits else [x] * number
        outputs = []
        for branch, given in enumerate(inputs):
            place = node * number + branch
            output = edges[place](given)
            if below:
                behind = self._grow(output, below, place)
                output = self.norms[branch](behind) + output if is_root else behind
            outputs.append(output)
        return reduce(add, outputs)

    def _shortcut(self, x: Tensor) -> Tensor:
        """x at the resolution and with the channels of the output."""
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride, ceil_mode=True)
        return functional.pad(x, (0, 0, 0, 0, 0, self.added_channels))


class Tree(nn.Module):
    """A block with edges inside.

    Args:
        trunk: the block without them.
        edges: in the order of `TreeSpec.edges`: candidates, or MixedOps over them.

    Shape:
        As `Trunk`.
    """

    def __init__(self, trunk: Trunk, edges: Iterable[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.edges = nn.ModuleList(edges)

    @property
    def layers(self) -> list[nn.Module]:
        """The modules of `BlockConfig.layers`, in their order."""
        return [self.trunk, *self.edges]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.trunk(x, self.edges)
        return output
