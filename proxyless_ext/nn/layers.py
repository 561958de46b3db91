"""Fixed layers and the candidate operations without weights."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from ..spaces import Activation
from .sliced import SlicedConv2d

ACTIVATIONS: dict[Activation, type[nn.ReLU6] | type[nn.ReLU] | type[nn.Hardswish]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "hswish": nn.Hardswish,
}


class ConvBNAct(nn.Sequential):
    """Convolution, BatchNorm and an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation: of the convolution, whose
            padding keeps the size at stride 1.
        activation: ``relu6``, ``relu``, ``hswish``, or None.
        bn_momentum, bn_eps: of the BatchNorm.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    conv: nn.Conv2d | SlicedConv2d
    bn: nn.BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = "relu6",
        dilation: int = 1,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
    ) -> None:
        conv = convolution(in_channels, out_channels, kernel_size, stride, groups, dilation)
        bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=bn)
        if activation is not None:
            layers["act"] = ACTIVATIONS[activation](inplace=True)
        super().__init__(layers)


class PooledMix(nn.Sequential):
    """Global average pooling, then a 1x1 convolution and an activation.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, 1, 1].
    """

    def __init__(self, in_channels: int, out_channels: int, activation: Activation) -> None:
        mix: OrderedDict[str, nn.Module] = OrderedDict(
            conv=convolution(in_channels, out_channels, 1),
            act=ACTIVATIONS[activation](inplace=True),
        )
        super().__init__(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), mix=nn.Sequential(mix)))


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1, its weights drawn by its outputs."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    if not conv.weight.is_meta:  # There it changes nothing and takes longer than all else.
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel_size**2 * out_channels)))
    return conv


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
