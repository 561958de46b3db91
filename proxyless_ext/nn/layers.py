"""Fixed layers and candidate operations."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from ..errors import UserError


class ConvBNAct(nn.Sequential):
    """Convolution, BatchNorm and, unless `activate` is off, ReLU6.

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
        activate: bool = True,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
    ) -> None:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel_size**2 * out_channels)))
        bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=bn)
        if activate:
            layers["act"] = nn.ReLU6(inplace=True)
        super().__init__(layers)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project, each with BatchNorm.

    From MobileNetV2 (paper, section 3). `expand_ratio` 1 has no expand layer. The shortcut is not
    part of it.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].

    Raises:
        UserError: an even kernel size, or a size, stride or ratio below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        expand_ratio: int = 6,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride, expand_ratio) < 1:
            raise UserError(
                "MBConv needs channels, kernel_size, stride and expand_ratio of at least 1"
            )
        if kernel_size % 2 == 0:
            raise UserError(f"MBConv needs an odd kernel_size, not {kernel_size}")
        hidden = in_channels * expand_ratio
        layer = partial(ConvBNAct, bn_momentum=bn_momentum, bn_eps=bn_eps)
        self.expand = layer(in_channels, hidden, 1) if expand_ratio > 1 else nn.Identity()
        self.depthwise = layer(hidden, hidden, kernel_size, stride, groups=hidden)
        self.project = layer(hidden, out_channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))


class Zero(nn.Module):
    """Zeros of the output's shape; beside a shortcut it skips the layer.

    Shape:
        [N, C, H, W] -> [N, out_channels or C, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, out_channels: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        shape = (
            batch,
            self.out_channels or channels,
            -(-height // self.stride),
            -(-width // self.stride),
        )
        return x.new_zeros(shape)


Identity = nn.Identity
