"""Candidate operations as data: a name, where it fits, and the key of its latency.

Names are the field's shorthand: ``k5e6`` is an MBConv of kernel 5 and expansion 6, ``zero`` drops
the layer, ``identity`` passes it through. Nothing here imports torch; `nn.network` makes modules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class MBConvSpec:
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project."""

    kernel_size: int
    expand_ratio: int

    @property
    def name(self) -> str:
        return f"k{self.kernel_size}e{self.expand_ratio}"

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return True


@dataclass(frozen=True)
class ZeroSpec:
    """No output at all; beside a shortcut it skips the layer."""

    name: str = "zero"

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return stride == 1 and in_channels == out_channels


@dataclass(frozen=True)
class IdentitySpec:
    """The input unchanged."""

    name: str = "identity"

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return stride == 1 and in_channels == out_channels


Operation = MBConvSpec | ZeroSpec | IdentitySpec

_MBCONV = re.compile(r"k([357])e([1-6])")


def parse_operation(name: str) -> Operation:
    """The operation that a name such as ``k5e6``, ``zero`` or ``identity`` stands for.

    Raises:
        UserError: the name is not one of these.
    """
    if name == "zero":
        return ZeroSpec()
    if name == "identity":
        return IdentitySpec()
    if match := _MBCONV.fullmatch(name):
        return MBConvSpec(int(match[1]), int(match[2]))
    raise UserError(
        f"'{name}' is not an operation; write k3, k5 or k7 with e1 to e6 (such as k5e6), "
        "'zero' or 'identity'"
    )
