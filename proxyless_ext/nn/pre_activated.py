"""Layers that normalise and activate what they are given (He et al., Identity Mappings, 2016)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from ..spaces import Activation
from .layers import ACTIVATIONS, convolution


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

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution, whose padding
            keeps the size at stride 1.
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
        **settings: Any,
    ) -> None:
        super().__init__(in_channels, **settings)
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, groups)


class Separable(BNAct):
    """BatchNorm, ReLU, a depthwise and a 1x1 convolution, with nothing between the last two.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: of the depthwise convolution, whose padding keeps the size at
            stride 1.
        settings: the other arguments of `BNAct`.

    Shape:
        [N, C, H, W] -> [N, O, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(in_channels, **settings)
        self.depthwise = convolution(
            in_channels, in_channels, kernel_size, stride, in_channels, dilation
        )
        self.pointwise = convolution(in_channels, out_channels, 1)
