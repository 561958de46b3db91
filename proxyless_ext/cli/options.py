"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import ranks
from ..config import Config, load_config, parse_override
from ..data import Pictures
from ..errors import UserError
from ..progress import clock
from ..runs import Run, check_free, new_folder
from ..spaces import BUILTIN, read_mapping
from ..training.agreement import check_ranks
from .command import console

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; without it, the defaults.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Folder of pictures, or digits, cifar10, fashion_mnist."),
]
SpaceOption = Annotated[
    str | None, typer.Option("--space", help=f"{', '.join(BUILTIN)}, or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any value of the configuration: KEY=VALUE, may be repeated."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="Python file with operations or backends of your own, may be repeated."
    ),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="At most: parameters=5.7M, macs=300M, weight_bytes=2MB, activation_bytes=1MB, or "
        "TABLE=AMOUNT; may be repeated.",
    ),
]
BatchOption = Annotated[int, typer.Option(help="Pictures in one run.")]
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


def limits(given: list[str] | None) -> dict[str, str] | None:
    """What ``--limit`` says, in place of the configuration's limits; None without it.

    Raises:
        UserError: it says no amount, or two.
    """
    if not given:
        return None
    found: dict[str, str] = {}
    for text in given:
        name, separator, most = text.partition("=")
        if not separator or not name:
            raise UserError(f"--limit {text} says no amount; write for example parameters=5.7M")
        if name in found:
            raise UserError(f"--limit {name} is given twice; leave out one of them")
        found[name] = most
    return found


def check_count(option: str, value: int) -> None:
    """Refuse what counts nothing.

    Raises:
        UserError: says what to give.
    """
    if value < 1:
        raise UserError(f"{option} is {value}; give at least 1")


def resumed(
    command: str, out: Path | None, resume: Path | None, was_configured: bool
) -> Run | None:
    """The run that ``--resume`` names, which this process works on from now on; None without it.

    Raises:
        UserError: options contradict ``--resume``, the run there is another command's or in the
            hands of another process, or the folder of a new one is taken.
    """
    if resume is None:
        if out is not None:
            check_free(out)
        return None
    if out is not None or was_configured:
        raise UserError(
            f"--resume goes on with the configuration in {resume / 'config.yaml'}; edit that file "
            "instead of giving other options"
        )
    run = Run.resume(resume)
    if run.whole:
        raise UserError(
            f"the run in {resume} is of one size of several; use specialise {run.going_on}"
        )
    if (owner := _begun_by(run)) not in (command, None):
        raise UserError(f"the run in {resume} is one of {owner}; use {owner} {run.going_on}")
    return run


def begun(run: Run | None, out: Path | None, config: Config, data: Pictures) -> Run:
    """The run to go on with, or a new one that has begun; says where it is, and its pictures.

    Raises:
        UserError: ranks are about to do different things.
    """
    check_ranks(run, config, data)
    if run is None:
        run = Run.create(
            out or ranks.of_first(new_folder, Path("runs")),
            config.model_dump(mode="json"),
            config.seed,
            data.inventory.model_dump(mode="json"),
        )
    console.print(f"run folder: {run.folder}")
    if (newest := run.newest_checkpoint) and not run.has_ended:
        age = clock(time.time() - newest.stat().st_mtime)
        console.print(f"goes on from {newest.name}, written {age} ago")
    for line in data.describe():
        console.print(line)
    return run


def _begun_by(run: Run) -> str | None:
    """The command that began a run; None before it left anything of its own."""
    if read_mapping(run.config_path).get("devices"):
        return "specialise"
    if run.space_path.exists():
        return "search"
    return "train" if run.outcome.architecture_path.exists() else None
