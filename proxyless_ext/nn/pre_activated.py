"""Layers that normalise and activate what they are given (He et al., Identity Mappings, 2016)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from .. import ops
from ..errors import UserError
from ..spaces import Activation
from .fused import (
    SeparableLayers,
    is_exporting,
    is_untouched,
    probe_separable,
    run_separable,
    separable_layers,
)
from .layers import ACTIVATIONS, convolution
from .recomputed import keeps_input_only, pre_activated_layers, run_pre_activated
from .statistics import InputStatistics


class BNAct(nn.Sequential):
    """BatchNorm and an activation, which keep the shape [N, C, H, W].

    Args:
        channels: C.
        activation: ``relu6``, ``relu``, ``hswish``, or None.
        bn_momentum, bn_eps: of the BatchNorm.
    """

    def __init__(
        self,
        channels: int,
        activation: Activation | None = "relu",
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
    ) -> None:
        bn = nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum)
        layers: OrderedDict[str, nn.Module] = OrderedDict(bn=bn)
        if activation is not None:
            layers["act"] = ACTIVATIONS[activation](inplace=True)
        super().__init__(layers)


class BNActConv(BNAct):
    """BatchNorm, an activation and a convolution.

    On a CPU they keep their input for backward and nothing else, where their activation is ReLU or
    none: see `recomputed`.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution, whose padding
            keeps the size at stride 1.
        recomputes: False for the plain layers always.
        settings: the other arguments of `BNAct`.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        recomputes: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(in_channels, **settings)
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, groups)
        self.recomputes = recomputes

    def forward(self, x: Tensor, behind: nn.BatchNorm2d | None = None) -> Tensor:
        """The layers, and the BatchNorm behind them if there is one, whose input is not kept."""
        layers = pre_activated_layers(self, behind) if self.recomputes else None
        if layers is not None and keeps_input_only(x, *self.parameters()):
            return run_pre_activated(x, layers)
        y: Tensor = super().forward(x)
        return y if behind is None else behind(y)


class Separable(BNAct):
    """BatchNorm, ReLU, a depthwise and a 1x1 convolution, with nothing between the last two.

    Parameters, buffers and results are those of its plain layers, but on a CPU one operator
    computes them all and keeps its input for backward and nothing else. Elsewhere the plain layers
    run, and where those of an `MBConv` would: in an export or a trace, under the transforms of
    torch.func, in forward mode, with an activation other than ReLU, a stride above 2, or a layer
    that was replaced, changed or hooked.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: of the depthwise convolution, whose padding keeps the size at
            stride 1.
        fused: None for the above, False for the plain layers always; True makes it an error where
            the operator cannot run, except in an export and on meta tensors.
        settings: the other arguments of `BNAct`.

    Shape:
        [N, C, H, W] -> [N, O, ceil(H / stride), ceil(W / stride)]. Fused, the output is channels
        last in memory.

    Raises:
        UserError: when called, what `fused` makes an error.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        fused: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(in_channels, **settings)
        self.depthwise = convolution(
            in_channels, in_channels, kernel_size, stride, in_channels, dilation
        )
        self.pointwise = convolution(in_channels, out_channels, 1)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        layers = self._layers_to_fuse(x)
        if layers is not None:
            return run_separable(x, layers)
        y: Tensor = super().forward(x)
        return y

    @property
    def recomputes(self) -> bool:
        """Whether it keeps its input only for backward, where it can."""
        return self.fused is not False

    def gate_probe(self, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor | None:
        """`<grad, self(x)>` without self(x), in training mode without moving statistics.

        Args:
            grad: dL/dy [N, O, Ho, Wo].
            x: [N, C, H, W].
            statistics: those of x.

        Returns:
            0-dim, or None where only running the block tells: plain layers would, or the block is
            of a subclass or has hooks.
        """
        layers = self._layers_to_fuse(x) if is_untouched(self, Separable) else None
        return None if layers is None else probe_separable(grad, x, layers, statistics)

    def _layers_to_fuse(self, x: Tensor) -> SeparableLayers | None:
        """The layers if the operator is to run them, or None for plain layers."""
        if self.fused is False or is_exporting(x) or x.is_meta:
            return None
        layers = separable_layers(self)
        reason = (
            "a layer of it was replaced, changed or hooked, or has a stride above 2 or another "
            "activation than ReLU"
            if layers is None
            else ops.cpu_only_unsupported(x)
        )
        if reason is None:
            return layers
        if self.fused:
            raise UserError(
                f"Separable(fused=True) cannot run as one operator, because {reason}; build it "
                "with fused=None to use plain layers then"
            )
        return None
