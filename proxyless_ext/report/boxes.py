"""The boxes that layers are drawn as."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..spaces import Layer, MBConvSpec
from . import svg
from .colours import FIXED, INK, operation_colour, text_colour

FONT_SIZE = 11
_LINE_HEIGHT = 12
_NARROWEST = 20
_FIXED_NAMES = {"stem": "conv 3×3", "feature_mix": "conv 1×1", "classifier": "pool, linear"}


@dataclass(frozen=True)
class Box:
    """A rectangle with a short text.

    Attributes:
        width, height: in pixels.
        fill: its colour, or ``none``.
        outline: ``bold``, ``dashed``, or none.
        lines: of text.
        turned: whether the text runs upwards.
    """

    width: float
    height: float
    fill: str = "none"
    outline: str | None = None
    lines: tuple[str, ...] = ()
    turned: bool = False

    def draw(self, parent: Element, left: float, axis: float) -> None:
        """Add it to `parent`, its left edge at `left` and its middle at height `axis`."""
        style: dict[str, str | float] = {"fill": self.fill}
        if self.outline == "bold":
            style |= {"stroke": INK, "stroke_width": 2}
        if self.outline == "dashed":
            style |= {"stroke": FIXED, "stroke_width": 1.2, "stroke_dasharray": "3 2.5"}
        place = {"x": left, "y": axis - self.height / 2, "width": self.width, "height": self.height}
        svg.add(parent, "rect", rx=3, **place, **style)
        colour = INK if self.fill == "none" else text_colour(self.fill)
        text = {"text_anchor": "middle", "font_size": FONT_SIZE, "fill": colour}
        turn = " rotate(-90)" if self.turned else ""
        middle = svg.number(left + self.width / 2)
        for index, line in enumerate(self.lines):
            offset = _LINE_HEIGHT * (index - (len(self.lines) - 1) / 2)
            move = f"translate({middle} {svg.number(axis + offset)}){turn}"
            svg.add(parent, "text", line, y=FONT_SIZE * 0.36, transform=move, **text)


def layer_box(layer: Layer) -> Box:
    """How a layer of a network is drawn."""
    outline = "bold" if layer.stride == 2 else None
    if layer.kind != "block":
        name = _FIXED_NAMES[layer.kind]
        return Box(_NARROWEST, ratio_height(6), FIXED, outline, (name,), turned=True)
    if layer.is_skipped:
        return Box(_NARROWEST, ratio_height(3), outline="dashed")
    colour = operation_colour(layer.operation)
    if not isinstance(spec := layer.spec, MBConvSpec):
        return Box(_NARROWEST, ratio_height(1), colour, outline, ("id",))
    lines = (f"k{spec.kernel_size}", f"e{spec.expand_ratio}")
    return Box(
        kernel_width(spec.kernel_size), ratio_height(spec.expand_ratio), colour, outline, lines
    )


def kernel_width(kernel_size: int) -> float:
    """The width of a box, growing with the kernel."""
    return 2 + 6 * kernel_size


def ratio_height(expand_ratio: int) -> float:
    """The height of a box, growing with the expansion ratio."""
    return 16 + 12 * expand_ratio
