"""Commands about latency: measure, fit, count, show, check, compare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..config import LatencyConfig
from ..errors import UserError
from ..files import write_atomically
from ..latency import (
    CountName,
    LatencyTable,
    check_table,
    compare,
    count_table,
    measure_layers,
    measure_table,
)
from ..nn import Network
from ..report import draw_comparison, draw_prediction
from ..runs import check_output
from ..spaces import BUILTIN, Space, load_plugins, validate
from ..zoo import IMAGENET, YARDSTICKS, build, names
from .app import SUMMARIES, commands
from .command import command, console
from .fit import fit
from .measuring import Measuring, journal_beside, measures
from .options import PluginOption, check_count
from .sources import read_architecture, read_space, read_space_or_network
from .tables import (
    ClassesOption,
    FigureOption,
    ResolutionOption,
    SpaceArgument,
    WidthOption,
    check_figure,
    print_reach,
)

latency = typer.Typer(help=SUMMARIES["latency"]["latency"])
commands.add_typer(latency, name="latency")

TableArgument = Annotated[Path, typer.Argument(help="Latency table.")]


@command(latency)
@measures
def measure(
    space: Annotated[
        str,
        typer.Argument(help=f"{', '.join(BUILTIN)}, a YAML file, or a network (as in train)."),
    ],
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("latency.yaml"),
    width_mult: WidthOption = None,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    plugin: PluginOption = None,
    *,
    measuring: Measuring,
) -> None:
    """Measure the latency of every layer that the networks of a space can have."""
    load_plugins(plugin or ())
    check_output(out)
    conditions = measuring.conditions()
    networks = read_space_or_network(space, width_mult, resolution, classes)
    with journal_beside(out, conditions) as journal:
        if isinstance(networks, Space):
            table = measure_table(networks, conditions, journal=journal)
        else:
            table = measure_layers([networks], conditions, journal=journal)
    table.save(out)
    console.print(f"{out}: {len(table.entries)} layers on {conditions.processor}")
    if isinstance(networks, Space):
        print_reach(table, networks)
    else:
        console.print(f"{networks.name}: {table.predict(networks):.4f} {table.unit}")


@command(latency)
def show(
    table: TableArgument,
    space: SpaceArgument,
    width_mult: WidthOption = None,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    plugin: PluginOption = None,
) -> None:
    """What networks of a space take by a table, measured here or published elsewhere."""
    load_plugins(plugin or ())
    print_reach(LatencyTable.load(table), read_space(space, width_mult, resolution, classes))


@command(latency)
def check(
    table: TableArgument,
    space: SpaceArgument,
    width_mult: WidthOption = None,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    networks: Annotated[int, typer.Option(help="Random networks to measure.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the random networks.")] = 0,
    target: Annotated[
        str | None,
        typer.Option(help="Of networks near this latency only, such as 12.5ms or 40%."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="How near, as a part of the target; 0.05 if absent.")
    ] = None,
    reach_device: Annotated[
        bool, typer.Option("--reach-device", help="Run the command that the table names.")
    ] = False,
    figure: FigureOption = None,
    plugin: PluginOption = None,
) -> None:
    """Measure random whole networks and compare them with what the table predicts."""
    load_plugins(plugin or ())
    check_count("--networks", networks)
    check_figure(figure)
    loaded, checked = LatencyTable.load(table), read_space(space, width_mult, resolution, classes)
    within = _band(loaded, checked, target, tolerance)
    result = check_table(loaded, checked, networks, seed, reach_device, within)
    limit = result.repeatability
    between = "" if limit is None else f" ({limit:.2f} between two measurements)"
    since = "since the table was measured, taken out"
    console.print(f"networks:         {len(result.measured)}")
    console.print(f"R^2:              {result.r2:.4f}")
    console.print(f"rank correlation: {result.rank_correlation:.2f}{between}")
    console.print(f"median error:     {result.median_error:.2%}")
    console.print(f"max error:        {result.max_error:.2%}")
    console.print(f"slowdown:         {result.slowdown:.3f} {since}")
    if figure:
        console.print(f"figure:           {draw_prediction(result, figure)}")


def _band(
    table: LatencyTable, space: Space, target: str | None, tolerance: float | None
) -> tuple[float, float] | None:
    """The latencies that networks are to have; None for all."""
    if target is None:
        if tolerance is not None:
            raise UserError("--tolerance is about a --target; give one, or leave it out")
        return None
    given = {"target": target} | ({} if tolerance is None else {"tolerance": tolerance})
    asked = validate(LatencyConfig, given, "options")
    middle = asked.target_of(table.costs(space))
    return (1 - asked.tolerance) * middle, (1 + asked.tolerance) * middle


@command(latency)
def count(
    space: SpaceArgument,
    cost: Annotated[CountName, typer.Option(help="What to count.")] = "macs",
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("costs.yaml"),
    width_mult: WidthOption = None,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    plugin: PluginOption = None,
) -> None:
    """Write a table of what can be counted of every layer, exactly, instead of measured."""
    load_plugins(plugin or ())
    check_output(out)
    counted = read_space(space, width_mult, resolution, classes)
    table = count_table(counted, cost)
    table.save(out)
    console.print(f"{out}: {len(table.entries)} layers")
    print_reach(table, counted)


@command(latency, "compare")
@measures
def compare_networks(
    networks: Annotated[
        list[str] | None,
        typer.Argument(help="Of the zoo, or run folders; ImageNet's if none."),
    ] = None,
    resolution: Annotated[int, typer.Option(help="Pixels of the square pictures.")] = 224,
    figure: FigureOption = Path("latency.svg"),
    table: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    plugin: PluginOption = None,
    *,
    measuring: Measuring,
) -> None:
    """Latencies of published networks, yardsticks and your own ones, on this machine or another."""
    load_plugins(plugin or ())
    check_count("--resolution", resolution)
    check_figure(figure)
    if table:
        check_output(table)
    conditions = measuring.conditions(repetitions=30)
    if conditions.unit != "ms":
        raise UserError(f"networks are compared by time; {conditions.unit} is none")
    known = names()
    models = {
        name: build(name) if name in known else Network(read_architecture(name))
        for name in networks or (*IMAGENET, *YARDSTICKS)
    }
    rows = compare(models, resolution, conditions)
    width = max(len(row.name) for row in rows)
    console.print(
        f"{conditions.backend} on {conditions.processor}, batch {conditions.batch_size}, "
        f"{conditions.threads} threads, {conditions.dtype}, {resolution} px"
    )
    for row in rows:
        console.print(
            f"{row.name:<{width}}  {row.latency.mean:9.3f} ms ± {row.latency.var**0.5:.3f}  "
            f"{row.parameters:>12,} parameters  {row.macs:>14,} MACs"
        )
    if figure:
        console.print(f"figure: {draw_comparison(rows, figure)}")
    if table:
        content = {
            "conditions": conditions.model_dump(mode="json"),
            "resolution": resolution,
            "networks": [{**asdict(row), "latency": row.latency.model_dump()} for row in rows],
        }
        write_atomically(table, json.dumps(content, indent=2) + "\n")


command(latency)(fit)
