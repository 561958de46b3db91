"""BatchNorm over the whole batch where the ranks of torch.distributed share it.

`nn.SyncBatchNorm` is the same on GPUs alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ranks
from .statistics import track


class SynchronisedBatchNorm(_BatchNorm):
    """A BatchNorm, of any number of dimensions, whose statistics are those of all ranks' values.

    All ranks call it in the same order. The gradients of its own parameters are each rank's, to be
    averaged as all others are.

    Shape:
        [N, C, ...] -> [N, C, ...]; N may differ between ranks.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.running_mean is None):
            return super().forward(x)
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        track(self, mean, var, count)
        result: Tensor = y
        return result

    def _check_input_dim(self, input: Tensor) -> None:
        """Any will do."""


def synchronise(model: nn.Module) -> None:
    """Make every BatchNorm of a model, in place, one that is synchronised; all else stays.

    Blocks that it is part of run as plain layers from then on, since the fused operator makes
    statistics of its own.
    """
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = SynchronisedBatchNorm


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all ranks; computed in float64 where they are added up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = _by_channel(x).to(dtype)
        variances, means = torch.var_mean(rows, dim=1, correction=0)
        means, count = means.double(), rows.shape[1]
        squares = variances.double() + means.square()
        sums = torch.cat([count * means, count * squares, means.new_tensor([count])])
        ranks.sum_over_ranks(sums)
        total = sums[-1]
        mean, square = (sums[:-1] / total).chunk(2)
        var = square - mean.square()
        inverse = (var + eps).rsqrt().to(dtype)
        normalised = (x.to(dtype) - _along(mean.to(dtype), x)) * _along(inverse, x)
        y = normalised
        if weight is not None and bias is not None:
            y = normalised * _along(weight, x) + _along(bias, x)
        ctx.save_for_backward(normalised, inverse, weight, total)
        ctx.set_materialize_grads(False)
        return y.to(x.dtype), mean, var, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, *others: None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normalised, inverse, weight, total = ctx.saved_tensors
        wide = grad.to(normalised.dtype)
        shift = _by_channel(wide).sum(dim=1)
        scale = _by_channel(wide * normalised).sum(dim=1)
        sums = torch.cat([shift, scale]).double()
        ranks.sum_over_ranks(sums)
        shifts, scales = (sums / total).to(wide.dtype).chunk(2)
        factor = inverse if weight is None else inverse * weight
        inner = wide - _along(shifts, grad) - normalised * _along(scales, grad)
        x_grad = (_along(factor, grad) * inner).to(grad.dtype)
        if weight is None:
            return x_grad, None, None, None
        return x_grad, scale.to(weight.dtype), shift.to(weight.dtype), None


def _by_channel(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C, values per channel]."""
    return x.transpose(0, 1).flatten(1)


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """[C], so that it broadcasts along the channels of x."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))
