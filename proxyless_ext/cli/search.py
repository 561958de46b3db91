"""Commands about whole searches: search, derive, status, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import ranks
from ..errors import UserError
from ..report import describe_results, describe_status, describe_verdict, write_report
from ..report.words import cost, cost_name
from ..runs import Run, check_output
from ..search import (
    Task,
    check_ended,
    compare_again,
    derive_again,
    run_search,
)
from ..training.agreement import check_ranks
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
from .planning import BudgetOption, planned

TargetOption = Annotated[
    str | None,
    typer.Option(help="Cost to end at: 12.5ms, 5.7Mparams, 300MMACs, or 40% of the space's range."),
]


@command(commands, resumable=True, on_ranks=True)
def search(
    config: ConfigOption = None,
    data: DataOption = None,
    space: SpaceOption = None,
    target: TargetOption = None,
    limit: LimitOption = None,
    budget: BudgetOption = None,
    seed: Annotated[int | None, typer.Option(help="Of every random decision.")] = None,
    plugin: PluginOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    assignments: SetOption = None,
) -> None:
    """Search a network on your pictures and this machine, train it, and report."""
    options = (config, data, space, target, limit, budget, seed, plugin, assignments)
    given = any(option is not None for option in options)
    run = resumed("search", out, resume, given)
    settings = configuration(
        run.config_path if run else config,
        assignments,
        data__source=data,
        space__name=space,
        latency__target=target,
        latency__limits=limits(limit),
        seed=seed,
        plugins=plugin and [str(each) for each in plugin],
    )
    if target is not None and settings.latency.regularizer != "target":
        raise UserError(
            f"--target needs latency.regularizer 'target', not '{settings.latency.regularizer}'; "
            "leave out one of them"
        )
    if settings.devices:
        raise UserError(
            f"the configuration has devices ({', '.join(settings.devices)}); use proxyless "
            "specialise, or leave them out"
        )
    if budget is None:
        task = Task.load(settings, run)
    else:
        settings, task = planned(settings, budget)
    settings = settings.anchored()
    run = begun(run, out, settings, task.data)
    run_search(run, settings, task)
    for line in ranks.of_first(list, describe_results(run)):
        console.print(line)
    console.print(f"report:            {ranks.of_first(write_report, run.folder)}")


@command(commands, on_ranks=True)
def verify(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished search.")],
    networks: Annotated[
        int, typer.Option(min=2, help="Random networks to train, and as many of the short list.")
    ] = 10,
) -> None:
    """Find out whether a search was worth it: train random networks of the same latency alike."""
    opened = Run.resume(run)
    check_ended(opened, *(part.config_path for part in opened.sizes.values()))
    sizes = {name: Run.resume(part.folder) for name, part in opened.sizes.items()}
    parts = sizes or {"": opened}
    for part in parts.values():
        check_ended(part, *(part.outcome_of(name).result_path for name in part.networks))
    for size, part in parts.items():
        part.goes_on_by("verify", str(run), "--networks", str(networks))
        settings = configuration(
            part.config_path,
            None,
            comparison__random_networks=networks,
            comparison__short_list=networks,
        )
        if settings.aims:
            task = Task.load(settings, part)
            check_ranks(part, settings, task.data)
            compare_again(part, settings, task)
        for name in part.networks:
            label = " ".join(filter(None, (size, name)))
            verdict = ranks.of_first(describe_verdict, part, name)
            console.print(f"{label}: " if label else "", verdict, sep="")
    console.print(f"report: {ranks.of_first(write_report, run)}")


@command(commands)
def derive(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished search.")],
    target: TargetOption = None,
    limit: LimitOption = None,
    out: Annotated[Path, typer.Option(help="The architecture file to write.")] = Path(
        "architecture.json"
    ),
) -> None:
    """Derive what a finished search holds likeliest, unmeasured, say for another latency target."""
    check_output(out)
    opened = Run.open(run)
    regularizer = None if target is None else "target"
    settings = configuration(
        opened.config_path,
        None,
        latency__target=target,
        latency__regularizer=regularizer,
        latency__limits=limits(limit),
    )
    architecture, predicted, unit = derive_again(opened, settings)
    architecture.save(out)
    console.print(f"{out}: predicted {cost_name(unit)} {cost(predicted, unit)}")


@command(commands)
def status(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Where a run stands, and its curves so far."""
    for line in describe_status(Run.open(run)):
        console.print(line)


@command(commands)
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write the report of a run again."""
    console.print(f"report: {write_report(Run.open(run).folder)}")
