"""Networks drawn block by block, so that a search's preferences show at a glance.

Every block is a box on the line along which the data flows, as wide as its kernel and as high as
its expansion ratio, which its colour says too; one with edges inside is a column of them. A
skipped block is a dashed outline that the line passes through. Blocks of one width and resolution,
or columns of one resolution, stand on one panel: above it the resolution, below it the channels. A
network that is wider than the picture goes on in the next row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from xml.etree.ElementTree import Element

from ..spaces import Architecture
from . import svg
from .boxes import FONT_SIZE, part_box
from .colours import INK, MUTED, PANEL
from .layout import into_rows
from .network_legend import NetworkLegend
from .parts import Part, parts
from .words import describe_part, square

DRAWINGS = {"wide": 1160, "medium": 680, "narrow": 328}
"""Widths in pixels that a page has drawings for, of which a browser shows one."""

# All in pixels.
_BLOCK_GAP = 4
_PANEL_PADDING = 6
_PANEL_GAP = 5
_PANEL_HEIGHT = 148
_ROW_GAP = 14
_AXIS = 80
_TITLE_HEIGHT = 24
_CHARACTER = 6.8


@dataclass(frozen=True)
class _Panel:
    """What is drawn together: the blocks of a stage, or one layer that is not searched."""

    parts: tuple[Part, ...]

    @property
    def resolution(self) -> str:
        return square(self.parts[-1].layer.out_size)

    @property
    def channels(self) -> str:
        first, last = self.parts[0].layer, self.parts[-1].layer
        if last.kind == "classifier":
            return f"{last.out_channels} classes"
        widths = dict.fromkeys((first.out_channels, last.out_channels))
        return "\N{EN DASH}".join(map(str, widths))

    @property
    def blocks_width(self) -> float:
        return sum(part_box(part).width + _BLOCK_GAP for part in self.parts) - _BLOCK_GAP

    @property
    def width(self) -> float:
        text = _CHARACTER * max(len(self.resolution), len(self.channels))
        return max(self.blocks_width, text) + 2 * _PANEL_PADDING


def draw_network(architecture: Architecture, width: int = 1160) -> str:
    """One network as SVG, with a legend.

    Args:
        architecture: the network.
        width: of the picture in pixels; at least 320.
    """
    return _draw([architecture], width, title_height=0)


def draw_networks(architectures: Sequence[Architecture], width: int = 1160) -> str:
    """Several networks as one SVG, each under its name, with one legend.

    Args:
        architectures: the networks.
        width: of the picture in pixels; at least 320.
    """
    return _draw(architectures, width, title_height=_TITLE_HEIGHT)


def _draw(architectures: Sequence[Architecture], width: int, title_height: float) -> str:
    networks = [_rows(architecture, width) for architecture in architectures]
    legend = NetworkLegend(architectures, width)
    num_rows = sum(len(rows) for rows in networks)
    height = len(networks) * title_height + num_rows * (_PANEL_HEIGHT + _ROW_GAP) + legend.height
    picture = svg.root(width, height, _label(architectures))
    top = 0.0
    for architecture, rows in zip(architectures, networks, strict=True):
        if title_height:
            title = architecture.name
            svg.add_text(picture, title, 0, top + 10, size=14, fill=INK, anchor="start", bold=True)
        top += title_height
        for row in rows:
            _draw_row(picture, row, top)
            top += _PANEL_HEIGHT + _ROW_GAP
    legend.draw(picture, top)
    return svg.to_string(picture)


def _label(architectures: Sequence[Architecture]) -> str:
    """The networks in the field's shorthand, for who cannot see them."""
    return "; ".join(
        f"network {network.name}: "
        + " ".join(name for block in network.blocks for name in block.chosen)
        for network in architectures
    )


def _rows(architecture: Architecture, width: float) -> list[list[_Panel]]:
    parts = (part for panel in _panels(architecture) for part in _split(panel, width))
    return into_rows(parts, width, _PANEL_GAP)


def _panels(architecture: Architecture) -> Iterator[_Panel]:
    """Consecutive blocks of one width, or with edges inside, and of one resolution share one."""
    stage: list[Part] = []
    for part in parts(architecture.layers()):
        layer = part.layer
        continues = (
            bool(stage)
            and layer.kind == stage[-1].layer.kind
            and layer.stride == 1
            and (
                layer.kind == "trunk"
                or (layer.kind == "block" and layer.out_channels == stage[-1].layer.out_channels)
            )
        )
        if stage and not continues:
            yield _Panel(tuple(stage))
            stage = []
        stage.append(part)
    yield _Panel(tuple(stage))


def _split(panel: _Panel, width: float) -> Iterator[_Panel]:
    """A panel in parts that are no wider than a row."""
    taken: tuple[Part, ...] = ()
    for part in panel.parts:
        if taken and _Panel((*taken, part)).width > width:
            yield _Panel(taken)
            taken = ()
        taken = (*taken, part)
    yield _Panel(taken)


def _draw_row(picture: Element, row: Sequence[_Panel], top: float) -> None:
    group = svg.add(picture, "g", transform=f"translate(0 {svg.number(top)})")
    lefts = list(accumulate((panel.width + _PANEL_GAP for panel in row), initial=0.0))
    for panel, left in zip(row, lefts, strict=False):
        svg.add(
            group, "rect", x=left, y=0, width=panel.width, height=_PANEL_HEIGHT, rx=6, fill=PANEL
        )
    end = svg.number(lefts[-1] - _PANEL_GAP)
    svg.add(group, "path", d=f"M0 {_AXIS}H{end}", stroke=MUTED, stroke_width=1.5)
    for panel, left in zip(row, lefts, strict=False):
        _draw_panel(group, panel, left)


def _draw_panel(group: Element, panel: _Panel, left: float) -> None:
    middle = left + panel.width / 2
    svg.add_text(group, panel.resolution, middle, 10, size=FONT_SIZE, fill=MUTED)
    svg.add_text(group, panel.channels, middle, _PANEL_HEIGHT - 11, size=FONT_SIZE, fill=INK)
    x = middle - panel.blocks_width / 2
    for part in panel.parts:
        block = svg.add(group, "g")
        svg.add_title(block, describe_part(part))
        box = part_box(part)
        box.draw(block, x, _AXIS)
        if part.layer.stride == 2:
            svg.add_text(block, "↓2", x + box.width / 2, 27, size=FONT_SIZE, fill=INK, bold=True)
        x += box.width + _BLOCK_GAP
