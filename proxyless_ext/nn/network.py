"""The two networks: SuperNet over a space, and Network for one architecture of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice

from torch import Tensor, nn

from ..spaces import (
    Architecture,
    BatchNorm,
    BlockConfig,
    Edge,
    SearchedBlock,
    Space,
    parse_operation,
)
from .derivation import derive
from .drop_path import Branch
from .edges import Edges
from .fused import is_untouched
from .layers import ConvBNAct, PooledMix
from .mbconv import MBConv
from .mixed_op import MixedOp
from .operations import build_operation, build_tree
from .pools import Identity
from .pre_activated import BNAct
from .tree import Tree


class Residual(Branch):
    """x + operation(x), which is the branch that can be dropped."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        # The block's own addition would be part of what its hooks see, and leaves nothing to drop.
        if is_untouched(self.operation, MBConv) and not self.drops:
            added: Tensor = self.operation(x, residual=True)
            return added
        output: Tensor = x + self.dropped(self.operation(x))
        return output


class Plain(nn.Module):
    """operation(x): a block without a shortcut."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.operation(x)
        return output


class Classifier(nn.Sequential):
    """Global average pooling, dropout, linear: [N, C, H, W] -> logits [N, classes]."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_channels, num_classes)
        bound = 1 / math.sqrt(in_channels)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)


class Backbone(nn.Module):
    """Stem, blocks in sequence, feature mix or BatchNorm, perhaps a pooled mix, classifier.

    Args:
        layout: what the layers that are no blocks are.
        blocks: the blocks.
        last_channels: what the last of them gives.

    Shape:
        [N, 3, H, W] -> logits [N, classes]; any H and W.
    """

    def __init__(
        self, layout: Space | Architecture, blocks: Sequence[nn.Module], last_channels: int
    ) -> None:
        super().__init__()
        momentum, eps = layout.batch_norm.momentum, layout.batch_norm.eps
        layer = partial(ConvBNAct, bn_momentum=momentum, bn_eps=eps)
        stem, channels, activation = layout.stem, last_channels, layout.activation
        self.stem = layer(
            stem.in_channels,
            stem.out_channels,
            3,
            stem.stride,
            activation=None if layout.pre_activation else activation,
        )
        self.blocks = nn.Sequential(*blocks)
        self.feature_mix: nn.Module
        if layout.feature_mix is None:
            self.feature_mix = BNAct(channels, activation, momentum, eps)
        else:
            self.feature_mix = layer(channels, layout.feature_mix, 1, activation=activation)
            channels = layout.feature_mix
        self.pooled_mix = nn.Sequential()
        if layout.pooled_mix is not None:
            self.pooled_mix = PooledMix(channels, layout.pooled_mix, activation)
            channels = layout.pooled_mix
        self.classifier = Classifier(channels, layout.num_classes, layout.dropout)

    @property
    def layers(self) -> list[nn.Module]:
        """The modules of `Architecture.layers`, in their order."""
        blocks = (layer for block in self.blocks for layer in _layers(block))
        return [self.stem, *blocks, self.feature_mix, *self.pooled_mix, self.classifier]

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.pooled_mix(self.feature_mix(self._blocks_behind_stem(x)))
        logits: Tensor = self.classifier(mixed)
        return logits

    def _blocks_behind_stem(self, x: Tensor) -> Tensor:
        """Stem and blocks; a first block without an expand layer takes the stem for one.

        So the stem's output, one of the largest there are, is not kept.
        """
        first, *others = self.blocks
        if (
            is_untouched(self.blocks, nn.Sequential)
            and is_untouched(first, Plain)
            and is_untouched(first.operation, MBConv)
        ):
            x = first.operation.forward_behind(self.stem, x)
            for block in others:
                x = block(x)
            return x
        output: Tensor = self.blocks(self.stem(x))
        return output


class Network(Backbone):
    """The network an architecture describes, with fresh weights."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(
            architecture,
            [build_block(block, architecture.batch_norm) for block in architecture.blocks],
            architecture.blocks[-1].out_channels,
        )
        self.architecture = architecture


class SuperNet(Backbone):
    """The over-parameterised network of a space: at every edge a MixedOp over its candidates.

    Attributes:
        space: the space it was built from.
        edges: its `Edges`, in the order of `space.groups`.
    """

    def __init__(self, space: Space) -> None:
        fixed = [build_block(block, space.batch_norm) for block in space.fixed_blocks]
        mixed_ops = [_build_mixed_op(edge, space) for edge in space.edges]
        for group in space.groups:
            first, *others = (mixed_ops[index] for index in group.indices)
            for other in others:
                other.alpha = first.alpha
        given = iter(mixed_ops)
        searched = [
            _build_searched(block, [*islice(given, len(block.edges))], space.batch_norm)
            for block in space.searched_blocks
        ]
        super().__init__(space, [*fixed, *searched], space.searched_blocks[-1].out_channels)
        self.space = space
        self.edges = Edges(self)

    def derive(self, choices: Sequence[int], name: str | None = None) -> Network:
        """The network of `choices`, one candidate index per group, with copies of its weights here.

        The supernet is left as it is.
        """
        network = Network(self.space.architecture(choices, name))
        network.load_state_dict(derive(self, choices).state_dict(), assign=True)
        return network


def build_block(block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    """A block as a module; a skipped one does nothing and costs nothing."""
    if parse_operation(block.operation).skips and block.shortcut:
        return Identity()
    return _with_shortcut(build_operation(block, batch_norm), block.shortcut)


def _build_mixed_op(edge: Edge, space: Space) -> MixedOp:
    candidates = [build_operation(edge.block(name), space.batch_norm) for name in edge.candidates]
    convolutions = sum(isinstance(candidate, MBConv) for candidate in candidates)
    share = space.weights == "shared" and convolutions > 1
    return MixedOp(candidates, share)


def _build_searched(
    block: SearchedBlock, mixed_ops: Sequence[MixedOp], batch_norm: BatchNorm
) -> nn.Module:
    if block.operation is None:
        return _with_shortcut(mixed_ops[0], block.edges[0].shortcut)
    shapes = block.block([edge.candidates[0] for edge in block.edges])
    return Plain(build_tree(shapes, batch_norm, mixed_ops))


def _layers(block: nn.Module) -> list[nn.Module]:
    """The modules of `BlockConfig.layers`."""
    operation = getattr(block, "operation", None)
    return operation.layers if isinstance(operation, Tree) else [block]


def _with_shortcut(operation: nn.Module, shortcut: bool) -> nn.Module:
    return Residual(operation) if shortcut else Plain(operation)
