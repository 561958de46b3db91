"""Commands about latency: measure, show, check, compare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import write_atomically
from ..latency import Conditions, LatencyTable, check_table, compare, measure_layers, measure_table
from ..latency.conditions import BackendName, DeviceName, usual_blocks
from ..nn import Network
from ..report import check_format, draw_comparison, draw_prediction
from ..runs import check_output
from ..spaces import BUILTIN, Space, load_plugins, validate
from ..zoo import build, names
from .app import SUMMARIES, commands
from .command import command, console
from .options import BatchOption, PluginOption, check_count
from .sources import read_architecture, read_space, read_space_or_network

latency = typer.Typer(help=SUMMARIES["latency"]["latency"])
commands.add_typer(latency, name="latency")

TableArgument = Annotated[Path, typer.Argument(help="Latency table.")]
SpaceArgument = Annotated[str, typer.Argument(help=f"{', '.join(BUILTIN)}, or a YAML file.")]
BackendOption = Annotated[BackendName, typer.Option(help="What runs the networks.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="What it runs them on.")]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Run MBConvs as plain layers where PyTorch would fuse them.")
]
ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend on the CPU.")]
WarmupOption = Annotated[int, typer.Option(help="Runs before timed ones.")]
RepetitionsOption = Annotated[int, typer.Option(help="Timed runs of each layer or network.")]
WidthOption = Annotated[float, typer.Option(help="Width multiplier of a built-in space.")]
ResolutionOption = Annotated[int | None, typer.Option(help="Of a built-in space, in pixels.")]
ClassesOption = Annotated[
    int | None, typer.Option(help="Of the data; as the space says if absent.")
]
FigureOption = Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.")]


@command(latency)
def measure(
    space: Annotated[
        str,
        typer.Argument(help=f"{', '.join(BUILTIN)}, a YAML file, or a network (as in train)."),
    ],
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("latency.yaml"),
    width_mult: WidthOption = 1.0,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    backend: BackendOption = "onnxruntime",
    plain: PlainOption = False,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 1,
    threads: ThreadsOption = 1,
    warmup: WarmupOption = 1,
    repetitions: RepetitionsOption = 100,
    plugin: PluginOption = None,
) -> None:
    """Measure the latency of every layer that the networks of a space can have, here."""
    load_plugins(plugin or ())
    check_output(out)
    conditions = _conditions(backend, plain, device, batch_size, threads, warmup, repetitions)
    networks = read_space_or_network(space, width_mult, resolution, classes)
    if isinstance(networks, Space):
        table = measure_table(networks, conditions)
    else:
        table = measure_layers([networks], conditions)
    table.save(out)
    console.print(f"{out}: {len(table.entries)} layers on {conditions.processor}")
    if isinstance(networks, Space):
        _print_reach(table, networks)
    else:
        console.print(f"{networks.name}: {table.predict(networks):.4f} ms")


@command(latency)
def show(
    table: TableArgument,
    space: SpaceArgument,
    width_mult: WidthOption = 1.0,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    plugin: PluginOption = None,
) -> None:
    """What networks of a space take by a table, measured here or published elsewhere."""
    load_plugins(plugin or ())
    _print_reach(LatencyTable.load(table), read_space(space, width_mult, resolution, classes))


@command(latency)
def check(
    table: TableArgument,
    space: SpaceArgument,
    width_mult: WidthOption = 1.0,
    resolution: ResolutionOption = None,
    classes: ClassesOption = None,
    networks: Annotated[int, typer.Option(help="Random networks to measure.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the random networks.")] = 0,
    figure: FigureOption = None,
    plugin: PluginOption = None,
) -> None:
    """Measure random whole networks and compare them with what the table predicts."""
    load_plugins(plugin or ())
    check_count("--networks", networks)
    _check_figure(figure)
    result = check_table(
        LatencyTable.load(table), read_space(space, width_mult, resolution, classes), networks, seed
    )
    console.print(f"networks:     {networks}")
    console.print(f"R^2:          {result.r2:.4f}")
    console.print(f"median error: {result.median_error:.2%}")
    console.print(f"max error:    {result.max_error:.2%}")
    console.print(f"slowdown:     {result.slowdown:.3f} since the table was measured, taken out")
    if figure:
        console.print(f"figure:       {draw_prediction(result, figure)}")


@command(latency, "compare")
def compare_networks(
    networks: Annotated[
        list[str] | None, typer.Argument(help="Of the zoo, or run folders; the whole zoo if none.")
    ] = None,
    resolution: Annotated[int, typer.Option(help="Pixels of the square pictures.")] = 224,
    backend: BackendOption = "onnxruntime",
    plain: PlainOption = False,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 1,
    threads: ThreadsOption = 1,
    warmup: WarmupOption = 1,
    repetitions: RepetitionsOption = 30,
    figure: FigureOption = Path("latency.svg"),
    table: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Latencies of published networks, yardsticks and your own ones on this machine."""
    load_plugins(plugin or ())
    check_count("--resolution", resolution)
    _check_figure(figure)
    if table:
        check_output(table)
    conditions = _conditions(backend, plain, device, batch_size, threads, warmup, repetitions)
    known = names()
    models = {
        name: build(name) if name in known else Network(read_architecture(name))
        for name in networks or known
    }
    rows = compare(models, resolution, conditions)
    width = max(len(row.name) for row in rows)
    console.print(
        f"{conditions.backend} on {conditions.processor}, batch {batch_size}, {threads} threads, "
        f"{resolution} px"
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


def _check_figure(figure: Path | None) -> None:
    if figure:
        check_format(figure)
        check_output(figure)


def _conditions(
    backend: BackendName,
    plain: bool,
    device: DeviceName,
    batch_size: int,
    threads: int,
    warmup: int,
    repetitions: int,
) -> Conditions:
    fields: dict[str, Any] = {
        "backend": backend,
        "blocks": "plain" if plain else usual_blocks(backend),
        "device": device,
        "batch_size": batch_size,
        "threads": threads,
        "warmup": warmup,
        "repetitions": repetitions,
    }
    return validate(Conditions, fields, "options")


def _print_reach(table: LatencyTable, space: Space) -> None:
    cheapest, dearest = table.bounds(space)
    console.print(f"cheapest network: {cheapest:.4f} ms")
    console.print(f"uniform alphas:   {table.uniform(space):.4f} ms")
    console.print(f"dearest network:  {dearest:.4f} ms")
