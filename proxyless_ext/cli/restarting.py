"""One command line that begins a run or goes on with it, for schedulers that start it again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .. import ranks
from ..errors import UserError
from ..runs import Run

R = TypeVar("R")

_OPTION = inspect.Parameter(
    "auto_resume",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Go on with the run in --out if there is one, whatever else is given.",
        ),
    ],
)


def restartable(function: Callable[..., R]) -> Callable[..., R]:
    """A command that has ``--out`` and ``--resume``, with ``--auto-resume`` beside them."""
    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def with_option(*, auto_resume: bool, **given: Any) -> R:
        if auto_resume:
            given = _of_run(given)
        return function(**given)

    parameters = [*signature.parameters.values(), _OPTION]
    vars(with_option)["__signature__"] = signature.replace(parameters=parameters)
    return with_option


def _of_run(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, or ``--resume`` alone if the run has begun.

    Raises:
        UserError: the options contradict each other.
    """
    out: Path | None = given["out"]
    if out is None or given["resume"] is not None:
        raise UserError(
            "--auto-resume begins or goes on with the run in --out; give that, and no --resume"
        )
    if not ranks.of_first(lambda: Run(out).has_begun):
        return given
    return {**dict.fromkeys(given), "resume": out}
