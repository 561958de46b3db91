"""Operations: what a block can do, as data with a name.

Names are the field's shorthand: ``k5e6`` is an MBConv of kernel 5 and expansion 6, ``zero`` drops
the layer, ``identity`` passes it through. Whoever wants to know something of an operation asks it;
`registry` finds it by its name. Nothing here imports torch: `nn.operations` makes modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Activation = Literal["relu6", "relu", "hswish"]
PoolKind = Literal["avg", "max"]


class Look(NamedTuple):
    """How an operation is told of and drawn.

    Attributes:
        description: in full.
        lines: of text in a small box.
        kernel_size: makes the box wide.
        expand_ratio: makes the box high; where it is known, the colour says both.
        colour: ``#rrggbb``, where there are no kernel and ratio to say it.
    """

    description: str
    lines: tuple[str, ...]
    kernel_size: int | None = None
    expand_ratio: int | None = None
    colour: str | None = None


class Operation(ABC):
    """What a block can do.

    Attributes:
        skips: whether it makes nothing, so that beside a shortcut it leaves the layer out.
        advice: what to do where it does not fit.
    """

    skips: ClassVar[bool] = False
    advice: ClassVar[str] = "use an MBConv there"

    @property
    @abstractmethod
    def name(self) -> str:
        """By which spaces and architectures have it."""

    @property
    def look(self) -> Look:
        """How it is told of and drawn."""
        return Look(self.name, (self.name,))

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        """Whether a block of these shapes can have it."""
        return True

    def edges(self, out_channels: int) -> tuple[int, ...]:
        """Channels of the edges inside, of which most operations have none.

        They take other operations, which keep these channels and the resolution of the output.
        """
        return ()

    def key(self, in_channels: int, shapes: str, placement: str) -> str:
        """Its key in a latency table.

        Args:
            in_channels: of the input.
            shapes: of input and output, as keys have them.
            placement: stride and shortcut, as keys have them.
        """
        return f"{self.name}-{shapes}-{placement}"


@dataclass(frozen=True)
class MBConvSpec(Operation):
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project.

    Attributes:
        kernel_size: of the depthwise convolution.
        expand_ratio: expanded channels per input channel.
        squeeze: whether squeeze-and-excitation follows the depthwise convolution.
        activation: of all but the last convolution.
    """

    kernel_size: int
    expand_ratio: int
    squeeze: bool = False
    activation: Activation = "relu6"

    @property
    def name(self) -> str:
        squeeze = "_se" if self.squeeze else ""
        activation = "" if self.activation == "relu6" else f"_{self.activation}"
        return f"k{self.kernel_size}e{self.expand_ratio}{squeeze}{activation}"

    @property
    def look(self) -> Look:
        kernel, ratio = self.kernel_size, self.expand_ratio
        features = {"se": "squeeze-and-excitation"} if self.squeeze else {}
        features |= _UNUSUAL.get(self.activation, {})
        return Look(
            ", ".join([f"MBConv {_square(kernel)}", f"expansion {ratio}", *features.values()]),
            (f"k{kernel}", f"e{ratio}", *features),
            kernel,
            ratio,
        )

    def key(self, in_channels: int, shapes: str, placement: str) -> str:
        """As in the published tables: ProxylessNAS's for its own blocks, else once-for-all's.

        The latter have the expanded channels and not the ratio, and know no ReLU6.
        """
        kernel = f"kernel:{self.kernel_size}-{placement}"
        if self.activation == "relu6" and not self.squeeze:
            return f"expanded_conv-{shapes}-expand:{self.expand_ratio}-{kernel}"
        hidden = in_channels * self.expand_ratio
        features = f"se:{int(self.squeeze)}-hs:{int(self.activation == 'hswish')}"
        relu6 = "-relu6:1" if self.activation == "relu6" else ""
        return f"expanded_conv-{shapes}-expand:{hidden}-{kernel}-{features}{relu6}"


@dataclass(frozen=True)
class ConvSpec(Operation):
    """One convolution with BatchNorm and ReLU6.

    Attributes:
        kernel_size, groups, dilation: of it.
    """

    kernel_size: int
    groups: int = 1
    dilation: int = 1

    @property
    def name(self) -> str:
        groups = f"g{self.groups}" if self.groups > 1 else ""
        dilation = f"d{self.dilation}" if self.dilation > 1 else ""
        return f"conv{self.kernel_size}{groups}{dilation}"

    @property
    def look(self) -> Look:
        groups = [f"{self.groups} groups"] if self.groups > 1 else []
        dilation = [f"dilation {self.dilation}"] if self.dilation > 1 else []
        return Look(
            ", ".join([f"convolution {_square(self.kernel_size)}", *groups, *dilation]),
            ("conv", self.name.removeprefix("conv")),
            self.kernel_size,
        )

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return in_channels % self.groups == 0 == out_channels % self.groups


@dataclass(frozen=True)
class SeparableSpec(Operation):
    """BatchNorm, ReLU, a depthwise and a 1x1 convolution, with nothing between the last two.

    Attributes:
        kernel_size, dilation: of the depthwise convolution.
    """

    kernel_size: int
    dilation: int = 1

    @property
    def name(self) -> str:
        dilation = f"d{self.dilation}" if self.dilation > 1 else ""
        return f"sep{self.kernel_size}{dilation}"

    @property
    def look(self) -> Look:
        dilation = f", dilation {self.dilation}" if self.dilation > 1 else ""
        return Look(
            f"separable convolution {_square(self.kernel_size)}{dilation}",
            ("sep", self.name.removeprefix("sep")),
            self.kernel_size,
            colour=_SEPARABLE[self.name],
        )


@dataclass(frozen=True)
class PoolSpec(Operation):
    """Pooling 3x3, which averages over what lies within the picture.

    Attributes:
        kind: what is taken.
    """

    kind: PoolKind

    @property
    def name(self) -> str:
        return f"{self.kind}pool3"

    @property
    def look(self) -> Look:
        description, colour = _POOLING[self.kind]
        return Look(f"{description} {_square(3)}", (self.kind,), colour=colour)

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return in_channels == out_channels


@dataclass(frozen=True)
class ProjectionSpec(Operation):
    """A 1x1 convolution with BatchNorm: as little as can be done where the shape changes, so that
    a layer can be left out there too.
    """

    name: str = "projection"

    @property
    def look(self) -> Look:
        return Look("1x1 projection", ("proj",), 1)

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return not _keeps_shape(in_channels, out_channels, stride)


@dataclass(frozen=True)
class ZeroSpec(Operation):
    """No output at all; beside a shortcut it skips the layer."""

    skips = True
    name: str = "zero"

    @property
    def look(self) -> Look:
        return Look("zero (skipped)", (), colour="#d9dee3")

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return _keeps_shape(in_channels, out_channels, stride)


@dataclass(frozen=True)
class IdentitySpec(Operation):
    """The input unchanged."""

    name: str = "identity"

    @property
    def look(self) -> Look:
        return Look("identity", ("id",), colour="#b3bcc5")

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return _keeps_shape(in_channels, out_channels, stride)


_POOLING: dict[PoolKind, tuple[str, str]] = {
    "avg": ("average pooling", "#e0a92e"),
    "max": ("maximum pooling", "#c25b12"),
}
"""In full, and the colour."""

_SEPARABLE = {"sep3": "#8fc3e8", "sep5": "#3f8fc9", "sep7": "#0a4f86", "sep3d2": "#6a51a3"}
"""Colours: darker for larger kernels, another for the dilated one."""

_UNUSUAL: dict[Activation, dict[str, str]] = {
    "relu": {"re": "ReLU"},
    "hswish": {"hs": "h-swish"},
}
"""Activations other than ReLU6, in short and in full."""


def _keeps_shape(in_channels: int, out_channels: int, stride: int) -> bool:
    return stride == 1 and in_channels == out_channels


def _square(size: int) -> str:
    return f"{size}\N{MULTIPLICATION SIGN}{size}"
