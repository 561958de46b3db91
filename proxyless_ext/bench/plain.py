"""What the fused MBConv is compared with: the same networks, of PyTorch's own layers.

Written from the algorithm (ProxylessNAS paper, section 3) and independent of `proxyless_ext.nn`;
only the names are the same, so that each loads the other's `state_dict`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..spaces import BatchNorm, BlockConfig, MBConvSpec, Space, parse_operation

GateMode = Literal["full", "two_path", "recompute"]


def conv_bn_relu6(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
    *,
    batch_norm: BatchNorm,
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless `activate` is off, ReLU6 in place."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=False,
    )
    bn = nn.BatchNorm2d(out_channels, eps=batch_norm.eps, momentum=batch_norm.momentum)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=bn)
    if activate:
        layers["act"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


class MBConv(nn.Sequential):
    """Inverted bottleneck as eight layers (five without expansion)."""

    def __init__(self, spec: MBConvSpec, block: BlockConfig, batch_norm: BatchNorm) -> None:
        layer = partial(conv_bn_relu6, batch_norm=batch_norm)
        hidden = spec.expand_ratio * block.in_channels
        super().__init__()
        if spec.expand_ratio > 1:
            self.expand = layer(block.in_channels, hidden, 1)
        self.depthwise = layer(hidden, hidden, spec.kernel_size, block.stride, groups=hidden)
        self.project = layer(hidden, block.out_channels, 1, activate=False)


class Zero(nn.Module):
    """Zeros of the input's shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class MixedOp(nn.Module):
    """An edge as published: weight steps run one candidate, gate steps have three modes.

    ``full`` keeps the graphs of all candidates, ``two_path`` runs two of them and keeps the graph
    of one, and ``recompute`` runs all others on the way back, one at a time and without graphs.

    Attributes:
        active: index of the candidate that runs.
        other: index of the second candidate of ``two_path``.
        gates: binary gates [N] in gate steps, else None.
        mode: what gate steps do.
    """

    def __init__(self, candidates: Sequence[nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))
        self.active = 0
        self.other = 1
        self.gates: Tensor | None = None
        self.mode: GateMode = "recompute"

    @property
    def skips(self) -> bool:
        """Whether a shortcut beside it is all that is left to compute."""
        return self.gates is None and isinstance(self.candidates[self.active], Zero)

    def forward(self, x: Tensor) -> Tensor:
        if self.gates is None:
            plain: Tensor = self.candidates[self.active](x)
            return plain
        if self.mode == "full":
            pairs = zip(self.gates, self.candidates, strict=True)
            return reduce(torch.add, (gate * candidate(x) for gate, candidate in pairs))
        if self.mode == "two_path":
            kept = self.gates[self.active] * self.candidates[self.active](x)
            with torch.no_grad():
                other = self.candidates[self.other](x)
            return kept + self.gates[self.other] * other
        result: Tensor = _Recompute.apply(x, self.gates, self.candidates, self.active)
        return result


class _Recompute(torch.autograd.Function):
    """The active candidate with a graph of its own; the others when their gates ask for them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gates: Tensor, candidates: nn.ModuleList, active: int
    ) -> Tensor:
        ctx.candidates, ctx.active, ctx.num_gates = candidates, active, len(gates)
        device = x.device.type
        ctx.autocast = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        )
        ctx.x = x.detach().requires_grad_(x.requires_grad)
        with torch.enable_grad():
            ctx.output = candidates[active](ctx.x)
        detached: Tensor = ctx.output.detach()
        return detached

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        grad_x = None
        if ctx.output.requires_grad:  # Zero's does not.
            (grad_x,) = torch.autograd.grad(ctx.output, ctx.x, grad)
        grad_gates = grad.new_empty(ctx.num_gates)
        with torch.no_grad(), ctx.autocast:
            for index, candidate in enumerate(ctx.candidates):
                output = ctx.output if index == ctx.active else candidate(ctx.x)
                grad_gates[index] = (output * grad).sum()
        return grad_x, grad_gates, None, None


class Block(nn.Module):
    """operation(x), or x + operation(x).

    Attributes:
        checkpointed: keep only x for backward and compute everything else again.
    """

    def __init__(self, operation: nn.Module, shortcut: bool) -> None:
        super().__init__()
        self.operation = operation
        self.shortcut = shortcut
        self.checkpointed = False

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut and isinstance(self.operation, MixedOp) and self.operation.skips:
            return x
        if self.checkpointed:
            y: Tensor = checkpoint(self.operation, x, use_reentrant=False)
        else:
            y = self.operation(x)
        return x + y if self.shortcut else y


class SuperNet(nn.Module):
    """The over-parameterised network of a space: [N, 3, H, W] -> logits [N, classes].

    Attributes:
        mixed_ops: its edges, in the order of `space.edges`.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        layer = partial(conv_bn_relu6, batch_norm=space.batch_norm)
        stem, edges = space.stem, space.edges
        self.mixed_ops = [
            MixedOp(
                [build_operation(edge.block(name), space.batch_norm) for name in edge.candidates]
            )
            for edge in edges
        ]
        self.stem = layer(stem.in_channels, stem.out_channels, 3, stem.stride)
        self.blocks = nn.Sequential(
            *(build_block(block, space.batch_norm) for block in space.fixed_blocks),
            *(
                Block(mixed, edge.shortcut)
                for mixed, edge in zip(self.mixed_ops, edges, strict=True)
            ),
        )
        assert space.feature_mix is not None
        self.feature_mix = layer(edges[-1].out_channels, space.feature_mix, 1)
        self.classifier = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                dropout=nn.Dropout(space.dropout),
                linear=nn.Linear(space.feature_mix, space.num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.feature_mix(self.blocks(self.stem(x))))
        return logits

    def activate(self, paths: Sequence[int]) -> None:
        """Make candidate `paths[e]` of every edge e the one that runs."""
        for mixed, path in zip(self.mixed_ops, paths, strict=True):
            mixed.active = path


def build_operation(block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    """The operation of a block without its shortcut."""
    spec = parse_operation(block.operation)
    return MBConv(spec, block, batch_norm) if isinstance(spec, MBConvSpec) else Zero()


def build_block(block: BlockConfig, batch_norm: BatchNorm) -> Block:
    """A block with its shortcut, if it has one."""
    return Block(build_operation(block, batch_norm), block.shortcut)
