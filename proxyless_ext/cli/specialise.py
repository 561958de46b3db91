"""The command that searches networks for several devices, targets and sizes in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import ranks
from ..config import Config, read_devices
from ..errors import UserError
from ..report import describe_results, write_report
from ..runs import Run
from ..search import Task, begin_sizes, load_sizes, run_search
from .app import commands
from .command import command, console
from .options import (
    ConfigOption,
    DataOption,
    LimitOption,
    OutOption,
    PluginOption,
    ResumeOption,
    SetOption,
    SpaceOption,
    begun,
    configuration,
    limits,
    resumed,
)
from .planning import BudgetOption, planned, planned_sizes


@command(commands, resumable=True, on_ranks=True)
def specialise(
    config: ConfigOption = None,
    data: DataOption = None,
    space: SpaceOption = None,
    device: Annotated[
        list[Path] | None,
        typer.Option(help="YAML file: what the section latency holds; may be repeated."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Cost on every device, as in search; may be repeated."),
    ] = None,
    width_mult: Annotated[
        list[float] | None, typer.Option(help="What channels are multiplied by; may be repeated.")
    ] = None,
    resolution: Annotated[
        list[int] | None, typer.Option(help="Of the pictures, in pixels; may be repeated.")
    ] = None,
    limit: LimitOption = None,
    budget: BudgetOption = None,
    seed: Annotated[int | None, typer.Option(help="Of every random decision.")] = None,
    plugin: PluginOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    assignments: SetOption = None,
) -> None:
    """Search a network for every device, target and size, and report."""
    sizes = (width_mult, resolution)
    options = (
        config,
        data,
        space,
        device,
        target,
        limit,
        *sizes,
        budget,
        seed,
        plugin,
        assignments,
    )
    run = resumed("specialise", out, resume, any(option is not None for option in options))
    devices = read_devices(device) if device else None
    for name, fields in (devices or {}).items():
        for option, values in (("target", target), ("limits", limit)):
            if values and option in fields:
                raise UserError(
                    f"device '{name}' has its own {option}, {fields[option]}; leave out that or "
                    f"--{option.removesuffix('s')}"
                )
    settings = configuration(
        run.config_path if run else config,
        assignments,
        data__source=data,
        space__name=space,
        space__width_mults=width_mult,
        space__resolutions=resolution,
        devices=devices,
        targets=target,
        latency__limits=limits(limit),
        seed=seed,
        plugins=plugin and [str(each) for each in plugin],
    )
    if not settings.devices:
        raise UserError("there is no device to specialise for; give --device and its file")
    if not settings.aims:
        raise UserError("left_out names all networks; remove one of them from it")
    if run.sizes if run else len(settings.space.sizes()) > 1:
        run = _search_sizes(settings, run, out, budget)
    else:
        run = _search(settings, run, out, budget)
    console.print(f"report:   {ranks.of_first(write_report, run.folder)}")


def _search(settings: Config, run: Run | None, out: Path | None, budget: str | None) -> Run:
    """Search at one size."""
    if budget is None:
        task = Task.load(settings, run)
    else:
        settings, task = planned(settings, budget)
    settings = settings.anchored()
    run = begun(run, out, settings, task.data)
    run_search(run, settings, task)
    _print_results(run)
    return run


def _search_sizes(settings: Config, run: Run | None, out: Path | None, budget: str | None) -> Run:
    """Search at one size after the other."""
    if budget is None:
        sizes = load_sizes(settings, run)
    else:
        settings, sizes = planned_sizes(settings, budget)
    settings = settings.anchored()
    settings = settings.model_copy(update={"space": settings.space.spelled_out()})
    run = begun(run, out, settings, sizes[0].task.data)
    for part, size in begin_sizes(run, sizes):
        console.print(f"size {size.name}")
        if size.config.aims:
            run_search(part, size.config, size.task)
            _print_results(part)
    return run


def _print_results(run: Run) -> None:
    for line in ranks.of_first(list, describe_results(run)):
        console.print(line)
    console.print(f"networks: {run.networks_folder}")
