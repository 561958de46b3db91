"""The boxes that layers are drawn as."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..spaces import Layer
from . import svg
from .colours import FIXED, INK, operation_colour, text_colour
from .parts import Part
from .words import square

FONT_SIZE = 11
_LINE_HEIGHT = 12
_NARROWEST = 20
_LEVEL_GAP = 2
_TREE_HEIGHT = 88
"""Of all edges of a tree together, at most."""
_CHARACTERS = 3
"""Of a line that fits into the narrowest box."""
_FIXED_NAMES = {
    "stem": f"conv {square(3)}",
    "feature_mix": f"conv {square(1)}",
    "norm": "norm",
    "pool": "pool",
    "pooled_mix": f"conv {square(1)}",
    "classifier": "pool, linear",
}


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
        rect = svg.add(
            parent,
            "rect",
            x=left,
            y=axis - self.height / 2,
            width=self.width,
            height=self.height,
            rx=3,
            fill=self.fill,
        )
        if self.outline == "bold":
            rect.attrib |= {"stroke": INK, "stroke-width": "2"}
        if self.outline == "dashed":
            rect.attrib |= {"stroke": FIXED, "stroke-width": "1.2", "stroke-dasharray": "3 2.5"}
        fill = INK if self.fill == "none" else text_colour(self.fill)
        for index, line in enumerate(self.lines):
            x = left + self.width / 2
            y = axis + _LINE_HEIGHT * (index - (len(self.lines) - 1) / 2)
            svg.add_text(parent, line, x, y, size=FONT_SIZE, fill=fill, turned=self.turned)


@dataclass(frozen=True)
class TreeBox:
    """A column of the edges inside a block, the first level of its tree on top.

    Attributes:
        levels: the colours of their operations.
        is_bold: whether the column has an outline.
    """

    levels: tuple[tuple[str, ...], ...]
    is_bold: bool
    width: float = 12

    @property
    def height(self) -> float:
        """In pixels."""
        edges = sum(map(len, self.levels)) * self._edge_height
        return edges + (len(self.levels) + 1) * _LEVEL_GAP

    @property
    def _edge_height(self) -> float:
        return min(6.0, _TREE_HEIGHT / sum(map(len, self.levels)))

    def draw(self, parent: Element, left: float, axis: float) -> None:
        """Add it to `parent`, its left edge at `left` and its middle at height `axis`."""
        outline = "bold" if self.is_bold else None
        Box(self.width, self.height, FIXED, outline).draw(parent, left, axis)
        top = axis - self.height / 2
        for level in self.levels:
            top += _LEVEL_GAP
            for colour in level:
                inner = {"width": self.width - 4, "height": self._edge_height - 0.6}
                svg.add(parent, "rect", x=left + 2, y=top, fill=colour, **inner)
                top += self._edge_height


def part_box(part: Part) -> Box | TreeBox:
    """How a block or other layer of a network is drawn."""
    if not part.inside:
        return layer_box(part.layer)
    colours = (tuple(operation_colour(edge.operation) for edge in level) for level in part.levels)
    return TreeBox(tuple(colours), part.layer.stride == 2)


def layer_box(layer: Layer) -> Box:
    """How a layer of a network is drawn."""
    outline = "bold" if layer.stride == 2 else None
    if layer.kind != "block":
        is_pooled = layer.kind == "classifier" and layer.in_size == 1
        name = "linear" if is_pooled else _FIXED_NAMES[layer.kind]
        return Box(_NARROWEST, ratio_height(6), FIXED, outline, (name,), turned=True)
    if layer.is_skipped:
        return Box(_NARROWEST, ratio_height(3), outline="dashed")
    colour, look = operation_colour(layer.operation), layer.spec.look
    width = max(_NARROWEST, kernel_width(look.kernel_size or 1))
    if max(map(len, look.lines)) > _CHARACTERS:
        return Box(width, ratio_height(6), colour, outline, (" ".join(look.lines),), turned=True)
    height = max(ratio_height(look.expand_ratio or 1), _LINE_HEIGHT * len(look.lines) + 4)
    return Box(width, height, colour, outline, look.lines)


def kernel_width(kernel_size: int) -> float:
    """The width of a box, growing with the kernel."""
    return 2 + 6 * kernel_size


def ratio_height(expand_ratio: int) -> float:
    """The height of a box, growing with the expansion ratio."""
    return 16 + 12 * expand_ratio
