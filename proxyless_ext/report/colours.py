"""Colours: what an operation looks like wherever it is drawn.

Hue says the expansion ratio and darkness the kernel size, so a candidate has one colour in every
figure. Blue and orange, the hues of the usual two ratios, stay apart for colour-blind readers.
"""

from __future__ import annotations

from ..spaces import MBConvSpec, parse_operation

INK = "#1c2733"
MUTED = "#5b6773"
LINE = "#c9d1d9"
PANEL = "#f2f4f7"
FIXED = "#697581"
ZERO = "#d9dee3"
IDENTITY = "#b3bcc5"

BLUE = "#0a6ab0"
ORANGE = "#c24a00"
GREY = "#7a838c"

_HUES = {1: "#1b7f4d", 2: "#7a3f98", 3: "#0a5c9e", 4: "#0d8288", 5: "#a3326b", 6: "#b84500"}
_LIGHTENING = {3: 0.62, 5: 0.34, 7: 0.0}
"""How much white is mixed in, by kernel size."""


def operation_colour(name: str) -> str:
    """The colour ``#rrggbb`` of an operation such as ``k5e6``; a grey for those without weights."""
    spec = parse_operation(name)
    if isinstance(spec, MBConvSpec):
        return _lighten(_HUES[spec.expand_ratio], _LIGHTENING[spec.kernel_size])
    return ZERO if name == "zero" else IDENTITY


def text_colour(background: str) -> str:
    """White or ink, whichever reads better on `background` (by WCAG contrast)."""
    light = _luminance(background)
    on_white = 1.05 / (light + 0.05)
    on_ink = (light + 0.05) / (_luminance(INK) + 0.05)
    return "#ffffff" if on_white > on_ink else INK


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _lighten(colour: str, amount: float) -> str:
    mixed = (round(value + (255 - value) * amount) for value in _channels(colour))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
