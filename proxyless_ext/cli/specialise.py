"""The command that searches networks for several devices and targets in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import read_devices
from ..errors import UserError
from ..report import write_report
from ..runs import Result, Run
from ..search import Task, run_search
from .app import commands
from .command import command, console
from .options import (
    ConfigOption,
    DataOption,
    OutOption,
    PluginOption,
    ResumeOption,
    SetOption,
    SpaceOption,
    begun,
    configuration,
    resumed,
)
from .planning import BudgetOption, planned


@command(commands, resumable=True)
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
        typer.Option(help="Latency on every device, as in search; may be repeated."),
    ] = None,
    budget: BudgetOption = None,
    seed: Annotated[int | None, typer.Option(help="Of every random decision.")] = None,
    plugin: PluginOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    assignments: SetOption = None,
) -> None:
    """Search a network for every device and target, with one supernet, and report."""
    options = (config, data, space, device, target, budget, seed, plugin, assignments)
    run = resumed("specialise", out, resume, any(option is not None for option in options))
    devices = read_devices(device) if device else None
    for name, fields in (devices or {}).items():
        if target and "target" in fields:
            raise UserError(
                f"device '{name}' has a target of its own, {fields['target']}; leave out that or "
                "--target"
            )
    settings = configuration(
        run.config_path if run else config,
        assignments,
        data__source=data,
        space__name=space,
        devices=devices,
        targets=target,
        seed=seed,
        plugins=plugin and [str(each) for each in plugin],
    )
    if not settings.devices:
        raise UserError("there is no device to specialise for; give --device and its file")
    if budget is None:
        task = Task.load(settings, run)
    else:
        settings, task = planned(settings, budget)
    settings = settings.anchored()
    run = begun(run, out, settings, task.data)
    names = [aim.name for aim in settings.aims]
    _print_results(run, dict(zip(names, run_search(run, settings, task), strict=True)))


def _print_results(run: Run, results: dict[str, Result]) -> None:
    width = max(map(len, results))
    for name, result in results.items():
        unit, is_here = result.unit, result.measured is not None
        measured = f"{result.measured:.3f} {unit}" if is_here else "not here"
        console.print(
            f"{name:<{width}}  accuracy {result.accuracy:.2%}, predicted "
            f"{result.predicted:.3f} {unit} (target {result.target:.3f} {unit}), "
            f"measured {measured}"
        )
    console.print(f"networks: {run.networks_folder}")
    console.print(f"report:   {write_report(run.folder)}")
