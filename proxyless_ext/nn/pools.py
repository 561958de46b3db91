"""Pooling as an operator that keeps where maxima were, a byte each, or nothing. The identity is the
pooling of single pixels.

PyTorch's layers keep their input and 8 bytes for each maximum. They run where there is no operator,
in exports and under compilers and the transforms of torch.func.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from .fused import is_exporting, is_untouched
from .statistics import InputStatistics

_SIZE = 3


class _Pool(nn.Module):
    """What both kinds have in common; their other base is PyTorch's layer."""

    MAXIMUM: ClassVar[bool]
    stride: Any

    def __init__(self, stride: int, recomputes: bool, **settings: Any) -> None:
        super().__init__(_SIZE, stride, padding=_SIZE // 2, **settings)
        self.recomputes = recomputes

    def forward(self, x: Tensor) -> Tensor:
        if self._is_operator_for(x):
            return ops.pool(x, _SIZE, stride=self.stride, maximum=self.MAXIMUM)
        y: Tensor = super().forward(x)
        return y

    def gate_probe(self, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor | None:
        """`<grad, self(x)>` without self(x).

        Args:
            grad: dL/dy [N, C, Ho, Wo].
            x: [N, C, H, W].
            statistics: those of x, which are not used.

        Returns:
            0-dim, or None where only running the layer tells: PyTorch's would run, it is of a
            subclass or has hooks, or its output has not the shape of grad.
        """
        alone = is_untouched(self, MaxPool) or is_untouched(self, AvgPool)
        if not alone or not self._is_operator_for(x):
            return None
        return _probe(grad, x, _SIZE, self.stride, self.MAXIMUM)

    def _is_operator_for(self, x: Tensor) -> bool:
        return self.recomputes and _has_operator(x)


class MaxPool(_Pool, nn.MaxPool2d):
    """Maxima of 3x3 pixels.

    Args:
        stride: 1 or 2.
        recomputes: False for PyTorch's layer always.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].
    """

    MAXIMUM = True

    def __init__(self, stride: int, recomputes: bool = True) -> None:
        super().__init__(stride, recomputes)


class AvgPool(_Pool, nn.AvgPool2d):
    """Averages of 3x3 pixels, leaving out what lies beyond the picture.

    Args:
        stride: 1 or 2.
        recomputes: False for PyTorch's layer always.

    Shape:
        [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].
    """

    MAXIMUM = False

    def __init__(self, stride: int, recomputes: bool = True) -> None:
        super().__init__(stride, recomputes, count_include_pad=False)


class Identity(nn.Identity):
    """What it is given, of any shape; asked for its gate, it is the average of single pixels."""

    recomputes = True

    def gate_probe(self, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor | None:
        """`<grad, x>`, as that of the pools."""
        if not is_untouched(self, Identity) or not _has_operator(x):
            return None
        return _probe(grad, x, 1, 1, False)


def _has_operator(x: Tensor) -> bool:
    return (
        not is_exporting(x)
        and not torch.compiler.is_compiling()
        and not x.is_meta
        and x.dim() == 4
        and x.is_floating_point()
        and ops.cpu_only_unsupported(x) is None
    )


def _probe(grad: Tensor, x: Tensor, kernel: int, stride: int, maximum: bool) -> Tensor | None:
    sizes = [-(-size // stride) for size in x.shape[2:]]
    if grad.shape != (*x.shape[:2], *sizes):
        return None
    dtype = torch.promote_types(grad.dtype, x.dtype)  # Under autocast they may differ.
    return ops.pool_gate_probe(grad.to(dtype), x.to(dtype), kernel, stride=stride, maximum=maximum)
