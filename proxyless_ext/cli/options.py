"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import Config, load_config, parse_override
from ..errors import UserError
from ..runs import Run
from .command import console

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; without it, the published values.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Folder of pictures, or digits, cifar10, fashion_mnist."),
]
SpaceOption = Annotated[
    str | None, typer.Option("--space", help="imagenet, cifar_mbconv, or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any value of the configuration: KEY=VALUE, may be repeated."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run folder; a new one in runs/ by default.")
]
ResumeOption = Annotated[
    Path | None, typer.Option("--resume", help="Go on with the run in this folder.")
]


def configuration(config: Path | None, assignments: list[str] | None, **values: Any) -> Config:
    """The configuration in a file, overridden by ``--set`` and by options that were given.

    Args:
        config: the file.
        assignments: of ``--set``.
        values: dotted keys, with ``__`` for the dots, to values; None where an option was not
            given.
    """
    overrides = {
        key.replace("__", "."): value for key, value in values.items() if value is not None
    }
    return load_config(config, {**overrides, **dict(map(parse_override, assignments or []))})


def choose_run(
    command: str, out: Path | None, resume: Path | None, config: Config, was_configured: bool
) -> tuple[Run, Config]:
    """The run to work in, which may have yet to begin, and the configuration that holds for it.

    Raises:
        UserError: options contradict ``--resume``, the run there is another command's, or the
            folder of a new one holds a run already.
    """
    if resume is None:
        return Run.new(out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")), config
    if out is not None or was_configured:
        raise UserError(
            f"--resume goes on with the configuration in {resume / 'config.yaml'}; edit that file "
            "instead of giving other options"
        )
    run = Run.open(resume)
    if (owner := _begun_by(run)) not in (command, None):
        raise UserError(f"the run in {resume} is one of {owner}; use {owner} --resume {resume}")
    return run, load_config(run.config_path, {})


def begin(run: Run, config: Config) -> None:
    """Begin the run, if it is a new one, and say where it is."""
    run.begin(config.model_dump(mode="json"), config.seed)
    console.print(f"run folder: {run.folder}")


def _begun_by(run: Run) -> str | None:
    """The command that began a run; None before it left anything of its own."""
    if run.space_path.exists():
        return "search"
    return "train" if run.architecture_path.exists() else None
