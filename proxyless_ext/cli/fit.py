"""The command that makes a table from whole networks: ``latency fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..latency import (
    Fit,
    LatencyTable,
    fit_networks,
    interval,
    measure_and_fit,
    plan_networks,
    read_measured,
    write_plan,
)
from ..latency.fit import check_number
from ..report import draw_fit
from ..runs import check_output
from ..spaces import Space, load_plugins
from .command import console
from .measuring import Measuring, journal_beside, measures
from .options import PluginOption
from .sources import read_space
from .tables import (
    ClassesOption,
    FigureOption,
    ResolutionOption,
    SpaceArgument,
    WidthOption,
    check_figure,
    print_reach,
)


@measures
def fit(
    space: SpaceArgument,
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("latency.yaml"),
    networks: Annotated[int, typer.Option(help="Whole networks to measure.")] = 60,
    measured: Annotated[
        Path | None,
        typer.Option("--from", help="CSV or JSON of networks that were measured already."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Only write the networks to measure, and their ONNX files, here."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the networks.")] = 0,
    layers: Annotated[bool, typer.Option("--layers", help="Print every layer's interval.")] = False,
    figure: FigureOption = None,
    width_mult: WidthOption = None,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    plugin: PluginOption = None,
    *,
    measuring: Measuring,
) -> None:
    """Fit a table to whole networks, which few devices measure wrongly, and say how good it is."""
    load_plugins(plugin or ())
    check_number(networks)
    check_figure(figure)
    searched = read_space(space, width_mult, resolution, classes)
    if measured is not None and plan is not None:
        raise UserError("--plan is for before, --from for after; leave out one of them")
    if plan is not None:
        measuring.check_unused("--plan", "batch_size", "unit")
        choices = plan_networks(searched, networks, seed)
        table = write_plan(plan, searched, choices, measuring.batch_size, measuring.unit or "ms")
        console.print(f"{table}: fill in its last column, then fit with --from {table}")
        return
    check_output(out)
    if measured is not None:
        measuring.check_unused("--from")
        result, fitted = _fit_given(measured, searched)
    else:
        conditions = measuring.conditions()
        with journal_beside(out, conditions) as journal:
            result, fitted = measure_and_fit(searched, conditions, networks, seed, journal)
    fitted.save(out)
    console.print(f"{out}: {len(fitted.entries)} layers")
    _print_fit(result, fitted, layers)
    print_reach(fitted, searched)
    if figure:
        console.print(f"figure:           {draw_fit(result, fitted.unit, figure)}")


def _fit_given(path: Path, space: Space) -> tuple[Fit, LatencyTable]:
    given, unit = read_measured(path, space)
    result = fit_networks(space, given)
    return result, LatencyTable(result.entries, unit=unit)


def _print_fit(fit: Fit, table: LatencyTable, layers: bool) -> None:
    held_out = fit.held_out
    console.print(f"networks:         {len(held_out.measured)}")
    console.print(f"R^2, held out:    {held_out.r2:.4f}")
    console.print(f"median error:     {held_out.median_error:.2%}")
    console.print(f"max error:        {held_out.max_error:.2%}")
    steps = ", ".join(f"{number}: {error:.2%}" for number, error in fit.by_number.items())
    console.print(f"by networks:      {steps}")
    console.print(f"about the sum:    {fit.network_error:.2%} of a network, noise included")
    console.print(f"layers known to:  {fit.relative_width:.1%} (half of them, with 95 %)")
    for key, entry in table.entries.items() if layers else ():
        low, high = interval(entry)
        console.print(f"  {entry.mean:.4g} ({low:.4g} to {high:.4g}) {table.unit}  {key}")
