"""The modules of operations."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..spaces import (
    BatchNorm,
    BlockConfig,
    ConvSpec,
    CustomOperation,
    IdentitySpec,
    MBConvSpec,
    Operation,
    PoolSpec,
    ProjectionSpec,
    SeparableSpec,
    TreeSpec,
    ZeroSpec,
    parse_operation,
)
from .layers import ConvBNAct, Zero
from .mbconv import MBConv
from .pools import AvgPool, Identity, MaxPool
from .pre_activated import Separable
from .tree import Tree, Trunk

_SIZE = 16
"""Of the pictures, in pixels, that a user's own operation is tried with."""


def build_operation(block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    """The operation of a block as a module, without the shortcut.

    Raises:
        UserError: a user's own operation makes no module, or one that gives another shape.
    """
    return _build(parse_operation(block.operation), block, batch_norm)


def build_tree(block: BlockConfig, batch_norm: BatchNorm, edges: Iterable[nn.Module]) -> Tree:
    """A block with edges inside, which are given."""
    spec = parse_operation(block.operation)
    assert isinstance(spec, TreeSpec)
    return Tree(Trunk(spec, block, batch_norm), edges)


@singledispatch
def _build(operation: Operation, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    # For who adds a kind of operation to this package; users' own are `CustomOperation`s.
    raise NotImplementedError(f"nothing here makes a module of a {type(operation).__name__}")


@_build.register
def _(operation: MBConvSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return MBConv(
        block.in_channels,
        block.out_channels,
        operation.kernel_size,
        block.stride,
        operation.expand_ratio,
        bn_momentum=batch_norm.momentum,
        bn_eps=batch_norm.eps,
        squeeze=operation.squeeze,
        activation=operation.activation,
    )


@_build.register
def _(operation: ConvSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    settings = {"groups": operation.groups, "dilation": operation.dilation}
    return _convolution(block, batch_norm, operation.kernel_size, **settings)


@_build.register
def _(operation: SeparableSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return Separable(
        block.in_channels,
        block.out_channels,
        operation.kernel_size,
        block.stride,
        operation.dilation,
        bn_momentum=batch_norm.momentum,
        bn_eps=batch_norm.eps,
    )


@_build.register
def _(operation: PoolSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    if operation.kind == "max":
        return MaxPool(block.stride)
    return AvgPool(block.stride)


@_build.register
def _(operation: TreeSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return build_tree(block, batch_norm, [build_operation(e, batch_norm) for e in block.inside])


@_build.register
def _(operation: ProjectionSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return _convolution(block, batch_norm, 1, activation=None)


@_build.register
def _(operation: ZeroSpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return Zero(block.out_channels, block.stride)


@_build.register
def _(operation: IdentitySpec, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    return Identity()


@_build.register
def _(operation: CustomOperation, block: BlockConfig, batch_norm: BatchNorm) -> nn.Module:
    shapes = (block.in_channels, block.out_channels, block.stride)
    try:
        module = operation.build(*shapes, **operation.parameters)
    except Exception as error:
        raise UserError(
            f"operation '{operation.name}' cannot be made for (in_channels, out_channels, stride) "
            f"{shapes}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"operation '{operation.name}' makes a {type(module).__name__}; let it make an "
            "nn.Module"
        )
    _check_shape(operation.name, module, block)
    return module


def _convolution(
    block: BlockConfig, batch_norm: BatchNorm, kernel_size: int, **settings: Any
) -> ConvBNAct:
    """One layer of a block's shapes."""
    return ConvBNAct(
        block.in_channels,
        block.out_channels,
        kernel_size,
        block.stride,
        bn_momentum=batch_norm.momentum,
        bn_eps=batch_norm.eps,
        **settings,
    )


def _check_shape(name: str, module: nn.Module, block: BlockConfig) -> None:
    """Try a module, which stays as it was."""
    given = [2, block.in_channels, _SIZE, _SIZE]
    size = -(-_SIZE // block.stride)
    wanted = [2, block.out_channels, size, size]
    module.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            output = module(torch.zeros(given))
        except Exception as error:
            raise UserError(f"operation '{name}' cannot take {given}: {error}") from error
    module.train()
    found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != wanted:
        raise UserError(
            f"operation '{name}' gives {found} of {given} where others give {wanted} (stride "
            f"{block.stride}); correct it, or let its `fits` say where it does not fit"
        )
