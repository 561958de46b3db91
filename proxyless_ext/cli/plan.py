"""The command that says what a search takes on one device or a thousand: ``plan``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..bench.text import table
from ..config import Config
from ..data import load_pictures
from ..errors import UserError
from ..files import write_atomically
from ..report.plot import save
from ..report.words import cost, duration, three_digits
from ..runs import check_output
from ..scaling import (
    BACKWARD,
    SUPERNET_PARTS,
    Cluster,
    Estimate,
    PictureCounts,
    StepCosts,
    count_steps,
    draw_estimates,
    estimate,
    list_work,
    measure_steps,
)
from ..spaces import Space, load_plugins, read_mapping, validate
from .app import commands
from .command import command, console
from .options import (
    ConfigOption,
    DataOption,
    PluginOption,
    SetOption,
    SpaceOption,
    check_count,
    configuration,
)
from .tables import ClassesOption, FigureOption, check_figure

PUBLISHED_HOURS = 200
"""GPU hours of the search on ImageNet, as the paper gives them."""

TIMED_BATCH = 32
"""Pictures of the larger batch that steps are measured with, at most."""

AMOUNTS = (1e-6, 1e9)
"""The least and the most of what a device does, and of its price."""

COUNTS = tuple(2**power for power in range(11))


@command(commands)
def plan(
    config: ConfigOption = None,
    data: DataOption = None,
    space: SpaceOption = None,
    pictures: Annotated[
        int | None, typer.Option(help="To train on, where the data is not at hand.")
    ] = None,
    val_pictures: Annotated[
        int, typer.Option(help="To validate on, where the data is not at hand.")
    ] = 0,
    classes: ClassesOption = None,
    devices: Annotated[
        list[int] | None, typer.Option(help="How many, may be repeated; 1 to 1024 if absent.")
    ] = None,
    batch_per_device: Annotated[
        int | None,
        typer.Option(help="Pictures of a step on each device, instead of what is configured."),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(help="That a device sustains; without it, steps are measured here."),
    ] = None,
    steps: Annotated[
        Path | None, typer.Option(help="Steps measured before, in what --out wrote elsewhere.")
    ] = None,
    bandwidth: Annotated[
        float, typer.Option(help="Between devices, Gbit a second each way.")
    ] = 10.0,
    message: Annotated[
        float, typer.Option(help="Until a message begins to arrive, in microseconds.")
    ] = 50.0,
    loader: Annotated[
        float | None,
        typer.Option(help="Pictures a second that are read for a device; enough if absent."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of a device for an hour.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
    figure: FigureOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
) -> None:
    """What a search takes on one device or many: time, memory, bytes sent, hours, cost."""
    load_plugins(plugin or ())
    settings = configuration(config, set_, data__source=data, space__name=space)
    counts = _device_counts(devices)
    for option, value in (("--pictures", pictures), ("--batch-per-device", batch_per_device)):
        if value is not None:
            check_count(option, value)
    for option, amount in (
        *(("--tflops", tflops), ("--bandwidth", bandwidth)),
        *(("--loader", loader), ("--price", price)),
    ):
        if amount is not None and not AMOUNTS[0] <= amount <= AMOUNTS[1]:
            least, most = AMOUNTS
            raise UserError(f"{option} is {amount:g}; give a number from {least:g} to {most:g}")
    if not 0 <= message < math.inf:
        raise UserError(f"--message is {message:g}; give 0 or more")
    if val_pictures < 0:
        raise UserError(f"--val-pictures is {val_pictures}; give 0 or more")
    if tflops and steps:
        raise UserError("--tflops and --steps both say how fast a device is; leave out one of them")
    if out:
        check_output(out)
    check_figure(figure)
    searched, source = settings.space.build(), ""
    if pictures is not None:
        if data is not None:
            raise UserError(
                "--pictures is for pictures that are not at hand; leave it or --data out"
            )
        searched = searched.with_classes(searched.num_classes if classes is None else classes)
        available = PictureCounts.split(pictures, val_pictures, searched.num_classes, settings.data)
    else:
        if val_pictures or classes is not None:
            raise UserError(
                "--val-pictures and --classes are for pictures that are not at hand; give "
                "--pictures beside them, or leave them out"
            )
        found = load_pictures(settings.data, searched.resolution, settings.seed)
        available, searched = PictureCounts.of(found), searched.with_classes(len(found.classes))
        source = f"{settings.data.source}: "
    list_work(settings, available)
    overlap = 0.0 if settings.runtime.device == "cpu" else BACKWARD
    cluster = Cluster(bandwidth * 1e9 / 8, message * 1e-6, loader or math.inf, overlap)
    costs = _costs(settings, searched, tflops, steps)
    estimates, left_out = [], []
    for number in counts:
        try:
            estimates.append(
                estimate(settings, available, costs, cluster, number, batch_per_device)
            )
        except UserError as error:
            if devices or not estimates:
                raise
            left_out.append(str(error))
    console.print(source + _describe(available, costs, cluster, estimates, price))
    if left_out:
        console.print(f"\nnot for more devices: {left_out[0]}")
    if out:
        told = {
            "steps": costs.model_dump(),
            "cluster": {**asdict(cluster), "loading": loader},
            "estimates": [
                {**asdict(each), "total": each.total, "device_hours": each.device_hours}
                for each in estimates
            ],
        }
        write_atomically(out, json.dumps(told, indent=2) + "\n")
    if figure:
        save(draw_estimates(estimates, searched.name, price), figure)


def _device_counts(given: Sequence[int] | None) -> list[int]:
    for number in given or ():
        check_count("--devices", number)
    return sorted({*(given or COUNTS)})


def _costs(settings: Config, space: Space, tflops: float | None, steps: Path | None) -> StepCosts:
    if steps:
        tree = read_mapping(steps)
        if "steps" not in tree:
            raise UserError(f"{steps} holds no steps; give a file that plan --out has written")
        return validate(StepCosts, tree["steps"], str(steps))
    if tflops:
        return count_steps(settings, space, tflops)
    own = max(each.batch_size for each in (settings.search, settings.gates, settings.train))
    # At least a picture for every path.
    large = max(min(own, TIMED_BATCH), 4 * settings.most_paths)
    return measure_steps(settings, space, (max(2, large // 4), large))


def _describe(
    pictures: PictureCounts,
    costs: StepCosts,
    cluster: Cluster,
    estimates: Sequence[Estimate],
    price: float | None,
) -> str:
    header = ["devices", "weight step", "gate step", "waiting", "sent", "memory", "all", "hours"]
    rows = []
    for each in estimates:
        weight, gate = each.steps["weight"], each.steps.get("gate")
        rows.append(
            [
                str(each.devices),
                cost(1e3 * weight.total, "ms"),
                cost(1e3 * gate.total, "ms") if gate else "",
                f"{weight.waiting / weight.total:.1%}",
                cost(each.wire_bytes, "B"),
                cost(each.memory, "B"),
                duration(each.total),
                three_digits(each.device_hours),
                *([three_digits(price * each.device_hours)] if price else []),
            ]
        )
    meanwhile = "two thirds of a step go on" if cluster.overlap else "no step goes on"
    first = estimates[0]
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in first.seconds.items())
    search_seconds = sum(first.seconds.get(part, 0.0) for part in SUPERNET_PARTS)
    search_hours = first.devices * search_seconds / 3600
    loading = "reading keeps up"
    if cluster.loading < math.inf:
        loading = f"{cluster.loading:g} pictures a second are read for each device"
        if first.steps["weight"].loading > first.steps["weight"].compute:
            loading += ", for which weight steps wait"
    return (
        f"{pictures.weights} pictures for weights, {pictures.gates} for gates, {pictures.val} to "
        f"validate; steps: {costs.source}\n"
        f"assumed: {loading}; {8e-9 * cluster.bandwidth:g} Gbit/s and "
        f"{1e6 * cluster.latency:g} us between devices, while {meanwhile}\n"
        f"on {first.devices}: {parts}\n\n"
        f"{table([*header, *(['cost'] if price else [])], rows)}\n\n"
        "waiting: for other devices, of a weight step; sent: by a device in a weight step; all: "
        "until a trained network; hours: of all devices together.\n"
        f"Of the hours on {first.devices}, {three_digits(search_hours)} are of "
        f"warm-up and search; the paper's search on ImageNet took {PUBLISHED_HOURS} of a GPU."
    )
