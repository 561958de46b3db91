"""One look for all charts, and their way into a page or a file.

Charts are matplotlib figures made without pyplot, so nothing global is touched, and the same
numbers always give the same file. Text stays text: a page shows it in its own font.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import UserError
from ..files import write_error
from . import svg
from .colours import INK, LINE, MUTED

DPI = 72
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "savefig.dpi": 2 * DPI,
    "svg.fonttype": "none",
    "svg.hashsalt": "proxyless_ext",
    "text.color": INK,
    "text.parse_math": False,  # A dollar sign in a name is a dollar sign.
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}

# Decorates every function that makes a figure, so that they all look alike.
styled = matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in pixels of a page."""
    return Figure(figsize=(width / DPI, height / DPI))


def add_legend(axes: Axes, columns: int) -> None:
    """Explain what is drawn on `axes`, below the figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def to_svg(figure: Figure, label: str, prefix: str) -> str:
    """The figure as SVG to place in a page.

    Args:
        figure: made under `styled`.
        label: what a screen reader says.
        prefix: different for every figure of the page.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return svg.inline(buffer.getvalue(), label, prefix)


def check_format(path: Path) -> None:
    """Find out before the work whether a figure can be drawn in a format.

    Raises:
        UserError: the path ends in none of those that `save` writes.
    """
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"cannot draw '{path}'; give a file that ends in .svg, .png or .pdf")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as SVG, PNG or PDF, whichever the path ends in.

    Raises:
        UserError: the path ends otherwise, or cannot be written.
    """
    check_format(path)
    # A file's date would make it differ each time; PNG files have none.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        figure.savefig(path, metadata=undated.get(path.suffix))
    except OSError as error:
        raise write_error(path, error) from error
    return path
