"""Layers that keep their input for backward, and compute what lies between them again there.

They are for CPUs, like the fused separable convolution whose neighbours they are in a tree; on
other devices PyTorch's layers run, as they do in exports, under compilers, which choose themselves
what to keep, and under autocast and the transforms of torch.func.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .. import ops
from .fused import is_exporting, is_untouched
from .statistics import count_values, track, uses_batch

_aten = torch.ops.aten


class PreActivatedLayers(NamedTuple):
    """A BatchNorm, perhaps ReLU, a convolution, perhaps another BatchNorm."""

    bn: nn.BatchNorm2d
    activated: bool
    conv: nn.Conv2d
    behind: nn.BatchNorm2d | None


def pre_activated_layers(
    modules: Iterable[nn.Module], behind: nn.BatchNorm2d | None
) -> PreActivatedLayers | None:
    """The modules of a block and the BatchNorm behind it, or None if calling them one after the
    other would not compute just what `run_pre_activated` does.
    """
    bn, *acts, conv = modules
    norms = [bn] if behind is None else [bn, behind]
    if not (
        all(is_untouched(norm, nn.BatchNorm2d) and norm.affine for norm in norms)
        and [type(act) for act in acts] in ([], [nn.ReLU])
        and all(is_untouched(act, nn.ReLU) for act in acts)
        and is_untouched(conv, nn.Conv2d)
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    ):
        return None
    return PreActivatedLayers(cast(nn.BatchNorm2d, bn), bool(acts), conv, behind)


def keeps_input_only(x: Tensor, *parameters: Tensor) -> bool:
    """Whether layers with these parameters are to be run so on x."""
    return (
        torch.is_grad_enabled()
        and not is_exporting(x)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.float64)
        and all(parameter.dtype == x.dtype for parameter in parameters)
        and ops.cpu_only_unsupported(x) is None
    )


def run_pre_activated(x: Tensor, layers: PreActivatedLayers) -> Tensor:
    """The layers, one after the other.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, O, Ho, Wo].

    Raises:
        ValueError: batch statistics of a single value per channel.
    """
    bn, _, conv, behind = layers
    last = (None, None) if behind is None else (behind.weight, behind.bias)
    y: Tensor = _PreActivated.apply(x, bn.weight, bn.bias, conv.weight, *last, layers)
    return y


class _Norm(NamedTuple):
    """A BatchNorm as functions: by what it normalises, and whether that is the batch's."""

    mean: Tensor
    var: Tensor
    batch: bool
    eps: float

    @staticmethod
    def of(bn: nn.BatchNorm2d, x: Tensor) -> _Norm:
        """The one of x, whose running statistics have been updated."""
        if not uses_batch(bn):
            assert bn.running_mean is not None
            assert bn.running_var is not None
            return _Norm(bn.running_mean, bn.running_var, False, bn.eps)
        count = count_values(x.shape)
        mean, var = ops.separable_statistics(x)
        track(bn, mean, var, count)
        return _Norm(mean, var, True, bn.eps)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.var, scale, shift, False, 0, self.eps)

    def backward(self, grad: Tensor, x: Tensor, scale: Tensor, asked: list[bool]) -> Any:
        """Gradients of x, scale and shift."""
        deviation = (self.var + self.eps).rsqrt()
        return _aten.native_batch_norm_backward(
            grad, x, scale, self.mean, self.var, self.mean, deviation, self.batch, self.eps, asked
        )


class _PreActivated(torch.autograd.Function):
    """Keeps x [N, C, H, W] and statistics: neither A = relu(bn(x)) nor P = conv(A)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        last_scale: Tensor | None,
        last_shift: Tensor | None,
        layers: PreActivatedLayers,
    ) -> Tensor:
        norm, last, conv = _Norm.of(layers.bn, x), None, layers.conv
        ctx.activated = layers.activated
        ctx.geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        y = _convolve(_activate(norm, x, scale, shift, ctx.activated), weight, ctx.geometry)
        if layers.behind is not None and last_scale is not None and last_shift is not None:
            last = _Norm.of(layers.behind, y)
            y = last.forward(y, last_scale, last_shift)
        ctx.norms = [(each.batch, each.eps) for each in (norm, last) if each is not None]
        statistics = [t for each in (norm, last) if each is not None for t in each[:2]]
        ctx.save_for_backward(x, scale, shift, weight, last_scale, *statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, last_scale, *statistics = ctx.saved_tensors
        norm, *last = (
            _Norm(*statistics[2 * i : 2 * i + 2], *flags) for i, flags in enumerate(ctx.norms)
        )
        needed = ctx.needs_input_grad
        dlast_scale = dlast_shift = None
        a = _activate(norm, x, scale, shift, ctx.activated)
        if last:
            p = _convolve(a, weight, ctx.geometry)
            asked = [True, *needed[4:6]]
            grad, dlast_scale, dlast_shift = last[0].backward(grad, p, last_scale, asked)
            del p
        stride, padding, dilation, groups = ctx.geometry
        grad, dweight, _ = _aten.convolution_backward(
            grad, a, weight, None, stride, padding, dilation, False, [0, 0], groups,
            [any(needed[:3]), needed[3], False],
        )  # fmt: skip
        if not any(needed[:3]):
            return None, None, None, dweight, dlast_scale, dlast_shift, None
        if ctx.activated:
            grad = _aten.threshold_backward(grad, a, 0)
        del a
        gradients = norm.backward(grad, x, scale, [*needed[:3]])
        return *gradients, dweight, dlast_scale, dlast_shift, None


def _activate(norm: _Norm, x: Tensor, scale: Tensor, shift: Tensor, activated: bool) -> Tensor:
    """A [N, C, H, W]."""
    z = norm.forward(x, scale, shift)
    return z.relu_() if activated else z


def _convolve(a: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """P [N, O, Ho, Wo]."""
    return functional.conv2d(a, weight, None, *geometry)
