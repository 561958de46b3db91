"""Commands about pictures: shard, index, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import ShardIndex, check_pictures, index_shards, make_shards
from ..errors import UserError
from .app import SUMMARIES, commands
from .command import command, console
from .options import check_count

data = typer.Typer(help=SUMMARIES["data"]["data"])
commands.add_typer(data, name="data")

ProcessesOption = Annotated[int, typer.Option(help="Processes that work side by side.")]


@command(data)
def shard(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, as for --data.")],
    out: Annotated[Path, typer.Argument(help="Folder of the shards.")],
    pictures: Annotated[int, typer.Option(help="Pictures in a shard, at most.")] = 1000,
    processes: ProcessesOption = 1,
) -> None:
    """Write the pictures of a folder into WebDataset shards with an index.

    What was stopped goes on by the same command.
    """
    check_count("--pictures", pictures)
    check_count("--processes", processes)
    _describe(out, make_shards(folder, out, pictures, processes))


@command(data)
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of shards (*.tar) that others made.")],
    classes: Annotated[
        Path | None, typer.Option(help="File with a line for the name of each class, in order.")
    ] = None,
    processes: ProcessesOption = 1,
) -> None:
    """Write the index of WebDataset shards that hold pictures and classes as numbers (.cls)."""
    check_count("--processes", processes)
    names = None if classes is None else _read_names(classes)
    _describe(folder, index_shards(folder, names, processes))


@command(data)
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of shards or of pictures.")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode pictures in shards, too; files always are.")
    ] = False,
    processes: ProcessesOption = 1,
) -> None:
    """Compare shards with the checksums in their index, and list everything that is wrong."""
    check_count("--processes", processes)
    pictures = problems = 0
    for checked in check_pictures(folder, decode, processes):
        pictures += checked.pictures
        problems += len(checked.problems)
        for problem in checked.problems:
            console.print(problem)
    if problems:
        raise UserError(f"{folder} has {problems} problems; restore what is named above")
    console.print(f"{folder}: {pictures} pictures, nothing wrong")


def _read_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text") from error
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"{path} has an empty line or a name twice; give one line to each class")
    return names


def _describe(folder: Path, index: ShardIndex) -> None:
    for part, shards in index.parts.items():
        pictures = sum(shard.pictures for shard in shards)
        console.print(f"{part}: {pictures} pictures in {len(shards)} shards")
    console.print(f"{folder}: {len(index.classes)} classes; use it by --data {folder}")
