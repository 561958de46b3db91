"""Breaking what is drawn into rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasWidth(Protocol):
    """Anything with a width in pixels."""

    @property
    def width(self) -> float: ...


Item = TypeVar("Item", bound=HasWidth)


def into_rows(items: Iterable[Item], width: float, gap: float) -> list[list[Item]]:
    """Items in rows no wider than `width`, as words are broken into lines.

    An item wider than that has a row of its own.
    """
    rows: list[list[Item]] = []
    left = 0.0
    for item in items:
        if not rows or item.width > left:
            rows.append([])
            left = width
        rows[-1].append(item)
        left -= item.width + gap
    return rows
