"""A convolution that owns no weight: it takes a slice of one that others take slices of too."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Slices = tuple[slice, ...]
"""A part of a tensor, as an index of it."""


def hull(one: Slices, other: Slices) -> Slices:
    """The smallest part that holds two."""
    return tuple(
        slice(min(here.start or 0, there.start or 0), max(here.stop, there.stop))
        for here, there in zip(one, other, strict=True)
    )


class SlicedConv2d(nn.Module):
    """A convolution by the leading channels and the centre of a shared weight.

    Args:
        conv: what it stands for, without bias; its shapes and settings are taken over.
        owner: the module that has the shared weight; it is not part of this one.
        name: of the weight there, [>= out, >= in / groups, >= k, >= k].

    Shape:
        As `conv`.
    """

    def __init__(self, conv: nn.Conv2d, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups, self.bias = conv.dilation, conv.groups, conv.bias
        self.padding_mode = conv.padding_mode
        # In a tuple, because as an attribute it would become a part of this module.
        self._owner = (owner,)
        self._name = name

    @property
    def whole(self) -> nn.Parameter:
        """The shared weight."""
        whole: nn.Parameter = getattr(self._owner[0], self._name)
        return whole

    @property
    def slices(self) -> Slices:
        """Which part of it is taken."""
        size = self.kernel_size[0]
        edge = (self.whole.shape[-1] - size) // 2
        centre = slice(edge, edge + size)
        return slice(self.out_channels), slice(self.in_channels // self.groups), centre, centre

    @property
    def weight(self) -> Tensor:
        """The slice [out, in / groups, k, k]."""
        return self.whole[self.slices]

    def standalone(self) -> nn.Conv2d:
        """The same convolution with a copy of the slice for a weight of its own."""
        settings: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "kernel_size": self.kernel_size,
        }
        conv = nn.Conv2d(self.in_channels, self.out_channels, bias=False, device="meta", **settings)
        conv.weight = nn.Parameter(self.weight.detach().clone())
        return conv.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        settings: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        return functional.conv2d(x, self.weight, None, **settings)

    def extra_repr(self) -> str:
        size, stride = self.kernel_size, self.stride
        return f"{self.in_channels}, {self.out_channels}, kernel_size={size}, stride={stride}"
