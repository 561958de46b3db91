"""The legend under a drawing of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..spaces import Architecture, parse_operation
from . import svg
from .boxes import Box, kernel_width, ratio_height
from .colours import FIXED, MUTED, operation_colour
from .layout import into_rows

# All in pixels.
_ROW_HEIGHT = 50
_BOX_GAP = 5
_ENTRY_GAP = 26
_CHARACTER = 6.4
_FONT_SIZE = 12


@dataclass(frozen=True)
class _Entry:
    """Sample boxes and what they mean."""

    boxes: tuple[Box, ...]
    text: str

    @property
    def width(self) -> float:
        boxes = sum(box.width + _BOX_GAP for box in self.boxes)
        return boxes + _CHARACTER * len(self.text)


class NetworkLegend:
    """Says what width, height, colour and outline of a box mean, for what occurs.

    Args:
        architectures: the networks it stands under.
        width: to fill, in pixels.

    Attributes:
        height: in pixels.
    """

    def __init__(self, architectures: Sequence[Architecture], width: float) -> None:
        inside = _inside(architectures)
        ratios = _expansion_ratios(architectures)
        boxes = [] if inside and not ratios else _box_entries(ratios or [6])
        columns = [_Entry((Box(14, 14, operation_colour(name)),), name) for name in inside]
        entries = [*columns, *boxes, *_marks()]
        self._rows = into_rows(entries, width, _ENTRY_GAP)
        self.height = len(self._rows) * _ROW_HEIGHT

    def draw(self, picture: Element, top: float) -> None:
        """Add the legend to `picture`, from `top` pixels downwards."""
        for index, row in enumerate(self._rows):
            x, axis = 1.0, top + (index + 0.5) * _ROW_HEIGHT
            for entry in row:
                end = x + entry.width + _ENTRY_GAP
                for box in entry.boxes:
                    box.draw(picture, x, axis)
                    x += box.width + _BOX_GAP
                svg.add_text(
                    picture, entry.text, x, axis, size=_FONT_SIZE, fill=MUTED, anchor="start"
                )
                x = end


def _box_entries(ratios: Sequence[int]) -> list[_Entry]:
    kernels = tuple(
        Box(kernel_width(size), 24, operation_colour(f"k{size}e{ratios[-1]}"), lines=(f"k{size}",))
        for size in (3, 5, 7)
    )
    heights = tuple(
        Box(20, ratio_height(ratio) / 2, operation_colour(f"k7e{ratio}"), lines=(f"e{ratio}",))
        for ratio in ratios
    )
    return [
        _Entry(kernels, "width: kernel size"),
        _Entry(heights, "height and colour: expansion ratio"),
        _Entry((Box(20, 24, outline="dashed"),), "skipped"),
    ]


def _marks() -> list[_Entry]:
    return [
        _Entry((Box(20, 24, outline="bold", lines=("↓2",)),), "stride 2"),
        _Entry((Box(20, 24, FIXED),), "not searched"),
        _Entry((), "above: resolution, below: channels"),
    ]


def _expansion_ratios(architectures: Sequence[Architecture]) -> list[int]:
    """Those that occur."""
    looks = [parse_operation(b.operation).look for each in architectures for b in each.blocks]
    return sorted({look.expand_ratio for look in looks if look.expand_ratio is not None})


def _inside(architectures: Sequence[Architecture]) -> list[str]:
    """The operations that occur at edges inside blocks."""
    return sorted({name for each in architectures for block in each.blocks for name in block.edges})
