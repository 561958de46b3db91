"""The option that says how long a search may take, and what it is turned into."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from ..config import Config
from ..report.words import duration
from ..search import (
    Plan,
    Size,
    Task,
    check_plannable,
    check_sizes,
    parse_budget,
    plan_search,
    plan_sizes,
    read_sizes,
)
from .command import console

BudgetOption = Annotated[
    str | None,
    typer.Option(help="Time to spend, such as 1h, instead of epochs, rates and batch sizes."),
]


def planned(settings: Config, budget: str) -> tuple[Config, Task]:
    """The settings that spend a budget, and what to search with them; says what takes how long.

    Raises:
        UserError: it cannot be planned.
    """
    seconds = parse_budget(budget)
    check_plannable(settings)
    started = time.monotonic()
    task = Task.read(settings, None)
    plan, task = plan_search(settings, task, seconds, spent=time.monotonic() - started)
    _print_plan(plan, started)
    settings = plan.apply(settings)
    task.check(settings)
    return settings, task


def planned_sizes(settings: Config, budget: str) -> tuple[Config, list[Size]]:
    """The same for several sizes, which all have the settings of one plan."""
    seconds = parse_budget(budget)
    check_plannable(settings)
    started = time.monotonic()
    sizes = read_sizes(settings, None)
    plan, sizes = plan_sizes(sizes, seconds, spent=time.monotonic() - started)
    _print_plan(plan, started)
    sizes = [replace(size, config=plan.apply(size.config)) for size in sizes]
    check_sizes(sizes)
    return plan.apply(settings), sizes


def _print_plan(plan: Plan, started: float) -> None:
    console.print(f"plan, {duration(time.monotonic() - started)} being over:")
    for part, each in plan.seconds.items():
        console.print(f"  {part:<32}{duration(each):>12}")
