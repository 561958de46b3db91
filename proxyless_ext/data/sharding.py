"""Making WebDataset shards of pictures in folders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..errors import UserError
from ..files import make_folder, remove_leftovers, write_atomically
from ..seeding import generator
from ..spaces import read_model
from .decoding import read
from .folder import list_folder
from .indexing import list_path_of, list_pictures, write_index
from .shards import PART_NAMES, PartName, PictureList, Shard, ShardIndex, has_shards
from .side_by_side import side_by_side


@dataclass(frozen=True)
class _Plan:
    """A shard to be made.

    Attributes:
        path: of the shard.
        part: that it belongs to.
        folder: of the part's pictures.
        pictures: their files.
        numbers: their places in the order of the part.
        labels: their classes.
    """

    path: Path
    part: PartName
    folder: Path
    pictures: list[Path]
    numbers: list[int]
    labels: list[int]

    @property
    def keys(self) -> list[str]:
        """The paths of the pictures below the part's folder."""
        return [_text(path.relative_to(self.folder)) for path in self.pictures]


def make_shards(source: Path, out: Path, pictures: int, processes: int) -> ShardIndex:
    """Write the pictures of a folder, as `list_folder` finds them, into shards with an index.

    A shard has pictures of all classes, drawn at random, so that those who read one shard after the
    other meet all classes. The files of the pictures stay as they are. What a call that was stopped
    has made is kept by the next.

    Args:
        source: the folder of pictures.
        out: the folder of the shards, which is made.
        pictures: of a shard, at most.
        processes: that work side by side.

    Raises:
        UserError: `source` cannot be used as it is, `out` holds something else, or a file cannot be
            read or written.
    """
    classes, plans = _plan(source, out, pictures)
    _check_out(out, plans)
    make_folder(out)
    remove_leftovers(out)
    index: dict[PartName, list[Shard]] = {}
    made = side_by_side(_make_shard, plans, processes, "shards")
    for plan, shard in zip(plans, made, strict=True):
        index.setdefault(plan.part, []).append(shard)
    return write_index(out, classes, index)


def _plan(source: Path, out: Path, pictures: int) -> tuple[tuple[str, ...], list[_Plan]]:
    found = list_folder(source)
    classes = tuple(found.parts["train"])
    plans = []
    for part in PART_NAMES:
        listing = found.parts.get(part, {})
        paths = [path for of_class in listing.values() for path in of_class]
        labels = [classes.index(name) for name, of_class in listing.items() for _ in of_class]
        order = torch.randperm(len(paths), generator=generator(0, "shards", part))
        for number, places in enumerate(order.split(pictures) if paths else ()):
            numbers = places.tolist()
            plan = _Plan(
                out / f"{part}-{number:06d}.tar",
                part,
                found.paths[part],
                [paths[place] for place in numbers],
                numbers,
                [labels[place] for place in numbers],
            )
            plans.append(plan)
    return classes, plans


def _check_out(out: Path, plans: Sequence[_Plan]) -> None:
    if has_shards(out):
        raise UserError(f"{out} already holds shards with an index; choose another folder")
    own = {name for plan in plans for name in (plan.path.name, list_path_of(plan.path).name)}
    if out.exists() and (
        not out.is_dir()
        or any(path.name not in own and path.name[0] != "." for path in out.iterdir())
    ):
        raise UserError(f"{out} holds something else; choose another folder, or empty this one")


def _make_shard(plan: _Plan) -> Shard:
    """Write a shard and its list, unless both are there."""
    list_path = list_path_of(plan.path)
    if list_path.exists() and _is_made(plan, made := read_model(PictureList, list_path)):
        return made.shard
    from webdataset.writer import TarWriter  # Here, because it takes long to import.

    archive = io.BytesIO()
    with TarWriter(archive, user="", group="", encoder=False, mtime=0) as writer:
        for number, label, path in zip(plan.numbers, plan.labels, plan.pictures, strict=True):
            content = read(path)
            sample = {"__key__": f"{number:08d}", "cls": str(label).encode()}
            writer.write({**sample, _extension(path): content})
    write_atomically(plan.path, archive.getbuffer())
    listed = list_pictures(plan.path, archive)
    named = listed.model_copy(update={"keys": tuple(plan.keys), "numbers": tuple(plan.numbers)})
    write_atomically(list_path, named.model_dump_json())
    return named.shard


def _is_made(plan: _Plan, made: PictureList) -> bool:
    """Whether a shard holds these pictures, by their names and sizes."""
    return (
        plan.path.exists()
        and plan.path.stat().st_size == made.shard.size
        and list(made.keys) == plan.keys
        and list(made.labels) == plan.labels
        and list(made.sizes) == [path.stat().st_size for path in plan.pictures]
    )


def _extension(path: Path) -> str:
    """What a picture is called in a shard: JPEGs alike, since readers ask for one name."""
    suffix = path.suffix.lower()
    is_jpeg = Image.registered_extensions()[suffix] == "JPEG"
    return "jpg" if is_jpeg else suffix.removeprefix(".")


def _text(path: Path) -> str:
    """The name of a picture, which the list of a shard can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the picture {str(path)!r} has a name that is not UTF-8; rename it"
        ) from None
    return str(path)
