"""Colours: what an operation looks like wherever it is drawn.

Hue says the expansion ratio and darkness the kernel size, so a candidate has one colour in every
figure. Blue and orange, the hues of the usual two ratios, stay apart for colour-blind readers.
Operations that are no MBConvs have a colour of their own, or one that their name gives.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable

from ..spaces import parse_operation

INK = "#1c2733"
MUTED = "#5b6773"
LINE = "#c9d1d9"
PANEL = "#f2f4f7"
FIXED = "#697581"

BLUE = "#0a6ab0"
ORANGE = "#c24a00"
GREY = "#7a838c"
GREEN = "#1b7f4d"
PURPLE = "#7a3f98"

_HUES = {1: GREEN, 2: PURPLE, 3: "#0a5c9e", 4: "#0d8288", 5: "#a3326b", 6: "#b84500"}
_LIGHTENING = {3: 0.62, 5: 0.34, 7: 0.0}
"""How much white is mixed in, by kernel size."""
_TINT = 0.35
"""How much of the colour of its name a variant of an MBConv has."""


def operation_colour(name: str) -> str:
    """The colour ``#rrggbb`` of an operation such as ``k5e6``; a grey for those without weights."""
    look = parse_operation(name).look
    if look.kernel_size is None or look.expand_ratio is None:
        return look.colour or _colour_of(name)
    usual = _mix(_HUES[look.expand_ratio], "#ffffff", _LIGHTENING[look.kernel_size])
    is_variant = name != f"k{look.kernel_size}e{look.expand_ratio}"
    return _mix(usual, _colour_of(name), _TINT) if is_variant else usual


def text_colour(background: str) -> str:
    """White or ink, whichever reads better on `background` (by WCAG contrast)."""
    light = _luminance(background)
    on_white = 1.05 / (light + 0.05)
    on_ink = (light + 0.05) / (_luminance(INK) + 0.05)
    return "#ffffff" if on_white > on_ink else INK


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(colour: str, other: str, amount: float) -> str:
    """A colour with some of another."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return _hex(value + (added - value) * amount for value, added in pairs)


def _colour_of(name: str) -> str:
    """A colour that only depends on a name."""
    hue = zlib.crc32(name.encode()) / 2**32
    return _hex(255 * value for value in colorsys.hls_to_rgb(hue, 0.42, 0.5))


def _hex(channels: Iterable[float]) -> str:
    return "#" + "".join(f"{round(value):02x}" for value in channels)


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
