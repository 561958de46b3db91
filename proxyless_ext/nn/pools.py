"""Pooling that keeps less for backward than PyTorch's: where maxima were, a byte each, or nothing.

PyTorch's layers keep their input and 8 bytes for each maximum. They run where `keeps_input_only`
says no.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .recomputed import keeps_input_only

_aten = torch.ops.aten
_SIZE = 3
_PADDING = 1


class MaxPool(nn.MaxPool2d):
    """Maxima of 3x3 pixels.

    Args:
        stride: 1 or 2.
        recomputes: False for PyTorch's layer always.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, stride: int, recomputes: bool = True) -> None:
        super().__init__(_SIZE, stride, padding=_PADDING)
        self.recomputes = recomputes

    def forward(self, x: Tensor) -> Tensor:
        if self.recomputes and keeps_input_only(x):
            y: Tensor = _Maximum.apply(x, self.stride)
            return y
        return super().forward(x)


class AvgPool(nn.AvgPool2d):
    """Averages of 3x3 pixels, leaving out what lies beyond the picture.

    Args:
        stride: 1 or 2.
        recomputes: False for PyTorch's layer always.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, stride: int, recomputes: bool = True) -> None:
        super().__init__(_SIZE, stride, padding=_PADDING, count_include_pad=False)
        self.recomputes = recomputes

    def forward(self, x: Tensor) -> Tensor:
        if self.recomputes and keeps_input_only(x):
            y: Tensor = _Average.apply(x, self.stride)
            return y
        return super().forward(x)


class _Maximum(torch.autograd.Function):
    """Keeps how far each maximum lies behind the first pixel of its window, counted in rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        y, places = _aten.max_pool2d_with_indices(x, _SIZE, stride, _PADDING)
        width = x.shape[3]
        fits = (_SIZE - 1) * (width + 1) <= torch.iinfo(torch.uint8).max
        behind = places - _first_places(places, width, stride)
        ctx.save_for_backward(behind.to(torch.uint8 if fits else torch.int32))
        ctx.like, ctx.stride = _Like.of(x), stride
        result: Tensor = y
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (behind,) = ctx.saved_tensors
        places = behind + _first_places(behind, ctx.like.size[3], ctx.stride)
        dx = _aten.max_pool2d_with_indices_backward(
            grad, ctx.like.unfilled(grad), [_SIZE], [ctx.stride], [_PADDING], [1], False, places
        )
        return dx, None


class _Average(torch.autograd.Function):
    """Keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.like, ctx.settings = _Like.of(x), ([_SIZE], [stride], [_PADDING], False, False, None)
        y: Tensor = _aten.avg_pool2d(x, *ctx.settings)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _aten.avg_pool2d_backward(grad, ctx.like.unfilled(grad), *ctx.settings), None


class _Like(NamedTuple):
    """How a tensor [N, C, H, W] lies, all that backward asks of the input."""

    size: torch.Size
    layout: torch.memory_format

    @staticmethod
    def of(x: Tensor) -> _Like:
        last = x.is_contiguous(memory_format=torch.channels_last)
        return _Like(x.shape, torch.channels_last if last else torch.contiguous_format)

    def unfilled(self, grad: Tensor) -> Tensor:
        return torch.empty(self.size, dtype=grad.dtype, memory_format=self.layout)


def _first_places(places: Tensor, width: int, stride: int) -> Tensor:
    """The first pixel of every window [Ho, Wo] as a place in a picture, rows one after the other;
    padding counts.
    """
    rows, columns = (torch.arange(size) * stride - _PADDING for size in places.shape[2:])
    return rows[:, None] * width + columns
