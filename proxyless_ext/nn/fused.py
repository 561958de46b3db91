"""The layers of a block as one fused operator, which keeps none of what lies between them.

The layers of an MBConv are given as two or three `ConvBNAct`: expand, where there is one, depthwise
and project; those of a separable block as a BatchNorm and two convolutions. BatchNorms do what they
do alone, running statistics included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import UserError
from .layers import ConvBNAct
from .sliced import SlicedConv2d
from .statistics import InputStatistics, count_values, track, uses_batch

Layers = Sequence[ConvBNAct]
Module = TypeVar("Module", bound=nn.Module)


def run_fused(x: Tensor, layers: Layers, residual: bool = False) -> Tensor:
    """The layers, one after the other, and x added if `residual`.

    Args:
        x: [N, C, H, W].
        layers: those that `can_run` says yes to.
        residual: add x.

    Returns:
        [N, O, Ho, Wo], channels last in memory.

    Raises:
        UserError: not `norms_agree`.
        ValueError: batch statistics of a single value per channel.
    """
    block = _gather(x, layers)
    result = ops.mbconv(x, **block.arguments, residual=residual)
    if block.counts is not None:
        channels = [layer.bn.num_features for layer in layers]
        means, variances = result.mean.split(channels), result.var.split(channels)
        for layer, mean, var, count in zip(layers, means, variances, block.counts, strict=True):
            track(layer.bn, mean, var, count)
    return result.y


def probe_fused(grad: Tensor, x: Tensor, layers: Layers, statistics: InputStatistics) -> Tensor:
    """`<grad, y>` for the y of `run_fused`, which is not made; running statistics stay as they are.

    Args:
        grad: dL/dy [N, O, Ho, Wo].
        x: [N, C, H, W].
        layers: those that `can_run` says yes to, an expand layer being 1x1 and of stride 1.
        statistics: those of x.

    Returns:
        0-dim, in float32 at least.

    Raises:
        UserError, ValueError: as in `run_fused`; also a UserError if grad has not the shape of y.
    """
    block = _gather(x, layers)
    shared = statistics.moments if len(layers) == 3 and block.counts is not None else None
    return ops.mbconv_gate_probe(grad, x, **block.arguments, moments=shared)


def can_run(layers: Sequence[nn.Module]) -> TypeGuard[Layers]:
    """Whether calling these modules would compute just what the operator does.

    So no layer was replaced, changed or hooked, and strides are 1 or 2.
    """
    *activated, last = layers
    if not (all(_is_standard(layer, True) for layer in activated) and _is_standard(last, False)):
        return False
    *expand, depthwise, project = [cast(ConvBNAct, layer).conv for layer in layers]
    return (
        all(conv.groups == 1 for conv in (*expand, project))
        and depthwise.groups == depthwise.in_channels == depthwise.out_channels
        and project.kernel_size == project.stride == (1, 1)
    )


def norms_agree(layers: Layers) -> bool:
    """Whether the BatchNorms have one eps, and all or none normalise by the batch's statistics."""
    norms = [layer.bn for layer in layers]
    return all(
        norm.eps == norms[0].eps and uses_batch(norm) == uses_batch(norms[0]) for norm in norms
    )


class SeparableLayers(NamedTuple):
    """The layers of a separable block, between the first two of which there is a ReLU."""

    bn: nn.BatchNorm2d
    depthwise: nn.Conv2d
    pointwise: nn.Conv2d


def separable_layers(modules: Iterable[nn.Module]) -> SeparableLayers | None:
    """The layers among the modules of a block, or None if calling those one after the other would
    not compute just what the operator does.
    """
    kinds = (nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.Conv2d)
    layers = tuple(modules)
    if len(layers) != len(kinds) or not all(map(is_untouched, layers, kinds)):
        return None
    bn, _, depthwise, pointwise = layers
    found = SeparableLayers(
        cast(nn.BatchNorm2d, bn), cast(nn.Conv2d, depthwise), cast(nn.Conv2d, pointwise)
    )
    channels = found.bn.num_features
    if (
        _is_plain(found.depthwise)
        and found.depthwise.groups == found.depthwise.out_channels == channels
        and _is_plain(found.pointwise)
        and found.pointwise.groups == 1
        and found.pointwise.kernel_size == found.pointwise.stride == (1, 1)
    ):
        return found
    return None


def run_separable(x: Tensor, layers: SeparableLayers) -> Tensor:
    """The layers, one after the other.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, O, Ho, Wo], channels last in memory.

    Raises:
        ValueError: batch statistics of a single value per channel.
    """
    bn = layers.bn
    batch = uses_batch(bn)
    count = count_values(x.shape) if batch else 0
    mean, var = (None, None) if batch else _running(bn)
    result = ops.separable(x, **_separable_arguments(x, layers), mean=mean, var=var)
    if batch:
        track(bn, result.mean, result.var, count)
    return result.y


def probe_separable(
    grad: Tensor, x: Tensor, layers: SeparableLayers, statistics: InputStatistics
) -> Tensor:
    """`<grad, y>` for the y of `run_separable`, which is not made; running statistics stay as they
    are.

    Args:
        grad: dL/dy [N, O, Ho, Wo].
        x: [N, C, H, W].
        statistics: those of x.

    Returns:
        0-dim, in float32 at least.

    Raises:
        ValueError: as in `run_separable`.
        UserError: grad has not the shape of y.
    """
    bn = layers.bn
    if uses_batch(bn):
        count_values(x.shape)
        mean, var = statistics.channels
    else:
        mean, var = _running(bn)
    return ops.separable_gate_probe(grad, x, **_separable_arguments(x, layers), mean=mean, var=var)


def is_untouched(module: nn.Module, kind: type[Module]) -> TypeGuard[Module]:
    """Whether calling a module runs the code of `kind` and nothing else: it has no hooks, either.

    Parametrised modules are of a class of their own, and pruned ones have hooks.
    """
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
    )


def _is_standard(layer: nn.Module, activated: bool) -> bool:
    """Whether it is a ConvBNAct as it was built, with an odd kernel and stride 1 or 2."""
    kinds = (nn.BatchNorm2d, *((nn.ReLU6,) if activated else ()))
    parts = tuple(layer.children())
    if not is_untouched(layer, ConvBNAct) or len(parts) != 1 + len(kinds):
        return False
    conv, *others = parts
    if not (is_untouched(conv, nn.Conv2d) or is_untouched(conv, SlicedConv2d)):
        return False
    return (
        all(is_untouched(part, kind) for part, kind in zip(others, kinds, strict=True))
        and _is_plain(conv)
        and conv.dilation == (1, 1)
    )


def _is_plain(conv: nn.Conv2d | SlicedConv2d) -> bool:
    """Whether it has no bias, an odd kernel, half of it as padding, and stride 1 or 2."""
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    padding = dilation * (kernel // 2)
    return (
        conv.bias is None
        and conv.kernel_size == (kernel, kernel)
        and kernel % 2 == 1
        and conv.dilation == (dilation, dilation)
        and conv.padding == (padding, padding)
        and conv.padding_mode == "zeros"
        and conv.stride in ((1, 1), (2, 2))
    )


class _Block(NamedTuple):
    """Layers as operators take them.

    Attributes:
        arguments: of all operators, by name.
        counts: the values per channel of each BatchNorm, or None if it is not the batch's
            statistics by which they normalise.
    """

    arguments: dict[str, Any]
    counts: list[int] | None


def _gather(x: Tensor, layers: Layers) -> _Block:
    norms = [layer.bn for layer in layers]
    if not norms_agree(layers):
        raise UserError(
            "the BatchNorms of a fused MBConv differ in eps or in whether they normalise by the "
            "batch's statistics; make them alike, or build the block with fused=False"
        )
    *expand, depthwise, project = [layer.conv for layer in layers]
    counts = _counts(x, layers) if uses_batch(norms[0]) else None
    mean = var = None
    if counts is None:
        mean = _concatenate([cast(Tensor, norm.running_mean) for norm in norms])
        var = _concatenate([cast(Tensor, norm.running_var) for norm in norms])
    return _Block(
        arguments={
            "expand": expand[0].weight if expand else None,
            "depthwise": depthwise.weight,
            "project": project.weight,
            "scale": _concatenate([_or_full(norm.weight, 1, norm, x) for norm in norms]),
            "shift": _concatenate([_or_full(norm.bias, 0, norm, x) for norm in norms]),
            "mean": mean,
            "var": var,
            "eps": norms[0].eps,
            "stride": depthwise.stride[0],
            "expand_stride": expand[0].stride[0] if expand else 1,
        },
        counts=counts,
    )


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The mean and the variance that it normalises by."""
    return _wide(cast(Tensor, norm.running_mean)), _wide(cast(Tensor, norm.running_var))


def _counts(x: Tensor, layers: Layers) -> list[int]:
    """Values per channel of each BatchNorm, none of which may be a single one."""
    batch, _, height, width = x.shape
    counts = []
    for layer in layers:
        stride = layer.conv.stride[0]
        height, width = -(-height // stride), -(-width // stride)
        counts.append(count_values([batch, layer.bn.num_features, height, width]))
    return counts


def _separable_arguments(x: Tensor, layers: SeparableLayers) -> dict[str, Any]:
    """Of all operators, by name."""
    bn, depthwise, pointwise = layers
    return {
        "depthwise": depthwise.weight,
        "pointwise": pointwise.weight,
        "scale": _wide(_or_full(bn.weight, 1, bn, x)),
        "shift": _wide(_or_full(bn.bias, 0, bn, x)),
        "eps": bn.eps,
        "stride": depthwise.stride[0],
        "dilation": depthwise.dilation[0],
    }


def _or_full(vector: Tensor | None, value: float, norm: nn.BatchNorm2d, like: Tensor) -> Tensor:
    """The vector, or a constant one where the BatchNorm has none."""
    return like.new_full((norm.num_features,), value) if vector is None else vector


def _concatenate(vectors: Sequence[Tensor]) -> Tensor:
    """[S], in float32 at least."""
    return _wide(torch.cat([*vectors]))


def _wide(vector: Tensor) -> Tensor:
    """In float32 at least."""
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def is_exporting(x: Tensor) -> bool:
    """Whether what runs is written down for other places, as by torch.export, fx or jit.trace."""
    return (
        torch.compiler.is_exporting()
        or torch.onnx.is_in_onnx_export()
        or torch.jit.is_tracing()
        or isinstance(x, torch.fx.Proxy)
    )
