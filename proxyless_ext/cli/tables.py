"""What the commands about latency tables share: spaces, figures, and what a table reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..latency import LatencyTable
from ..report import check_format
from ..runs import check_output
from ..spaces import BUILTIN, Space
from .command import console

SpaceArgument = Annotated[str, typer.Argument(help=f"{', '.join(BUILTIN)}, or a YAML file.")]
WidthOption = Annotated[float | None, typer.Option(help="What channels are multiplied by.")]
ResolutionOption = Annotated[int | None, typer.Option(help="Of the pictures, in pixels.")]
ClassesOption = Annotated[
    int | None, typer.Option(help="Of the data; as the space says if absent.")
]
FigureOption = Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.")]


def check_figure(figure: Path | None) -> None:
    """Find out before the work whether a figure can be written.

    Raises:
        UserError: it cannot.
    """
    if figure:
        check_format(figure)
        check_output(figure)


def print_reach(table: LatencyTable, space: Space) -> None:
    """Say what networks of a space cost by a table."""
    cheapest, dearest = table.bounds(space)
    console.print(f"cheapest network: {cheapest:.4f} {table.unit}")
    console.print(f"uniform alphas:   {table.uniform(space):.4f} {table.unit}")
    console.print(f"dearest network:  {dearest:.4f} {table.unit}")
