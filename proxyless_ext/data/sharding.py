"""Making WebDataset shards of pictures in folders, and indices of shards that others made."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, get_args

import torch
from PIL import Image

from ..errors import InterruptionError, UserError
from ..files import make_folder, remove_leftovers, write_atomically
from ..progress import progress_bar
from ..seeding import generator
from ..spaces import read_model
from .bad_pictures import PictureError
from .folder import PARTS, list_folder, suffixes
from .shards import INDEX, LIST, PartName, PictureList, Shard, ShardIndex, has_shards

Work = TypeVar("Work")
Made = TypeVar("Made")

_PARTS: tuple[PartName, ...] = get_args(PartName)

CHUNK = 2**20
"""Bytes read at a time."""


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
    return _write_index(out, classes, index)


def _plan(source: Path, out: Path, pictures: int) -> tuple[tuple[str, ...], list[_Plan]]:
    found = list_folder(source)
    classes = tuple(found.parts["train"])
    plans = []
    for part in _PARTS:
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
    own = {name for plan in plans for name in (plan.path.name, _list_path(plan.path).name)}
    if out.exists() and (
        not out.is_dir()
        or any(path.name not in own and path.name[0] != "." for path in out.iterdir())
    ):
        raise UserError(f"{out} holds something else; choose another folder, or empty this one")


def _make_shard(plan: _Plan) -> Shard:
    """Write a shard and its list, unless both are there."""
    list_path = _list_path(plan.path)
    if list_path.exists() and _is_made(plan, made := read_model(PictureList, list_path)):
        return made.shard
    from webdataset.writer import TarWriter  # Here, because it takes long to import.

    archive = io.BytesIO()
    with TarWriter(archive, user="", group="", encoder=False, mtime=0) as writer:
        for number, label, path in zip(plan.numbers, plan.labels, plan.pictures, strict=True):
            content = _content(path)
            sample = {"__key__": f"{number:08d}", "cls": str(label).encode()}
            writer.write({**sample, _extension(path): content})
    write_atomically(plan.path, archive.getbuffer())
    return _write_list(plan.path, archive, plan.keys, plan.numbers).shard


def _is_made(plan: _Plan, made: PictureList) -> bool:
    """Whether a shard holds these pictures, by their names and sizes."""
    return (
        plan.path.exists()
        and plan.path.stat().st_size == made.shard.size
        and list(made.keys) == plan.keys
        and list(made.labels) == plan.labels
        and list(made.sizes) == [path.stat().st_size for path in plan.pictures]
    )


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():  # Opening a pipe would wait for ever.
            raise PictureError(path, "it is no file")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(path, str(error.strerror)) from error


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


def index_shards(folder: Path, classes: Sequence[str] | None, processes: int) -> ShardIndex:
    """Write the index of shards that others made: every ``*.tar`` in a folder.

    A sample is a picture and its class as a number, in a file ``.cls``; what else it has is passed
    over. A shard belongs to the part that a word of its name says, as in ``cats-val-0001.tar``, and
    else to those to train on.

    Args:
        folder: of the shards.
        classes: their names, in the order of the numbers; by default these numbers.
        processes: that work side by side.

    Raises:
        UserError: there are no shards or there is an index, or a shard cannot be read, is
            compressed, has no pictures, or a sample without a picture or a class.
    """
    if has_shards(folder):
        raise UserError(f"{folder} has an index; remove {folder / INDEX} to make another")
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"{folder} holds no shards, which are files named *.tar; correct the path")
    by_part: dict[PartName, list[Path]] = {}
    for path in paths:
        by_part.setdefault(part_of(path.name), []).append(path)
    ordered = [path for part in by_part.values() for path in part]
    lists = dict(
        zip(ordered, side_by_side(_index_shard, ordered, processes, "shards"), strict=True)
    )
    most = max(max(each.labels) for each in lists.values())
    if classes is None:
        classes = [str(number) for number in range(most + 1)]
    if most >= len(classes):
        [path, *_] = [path for path in ordered if max(lists[path].labels) == most]
        raise UserError(f"{path} has the class {most}, but only {len(classes)} are named; add it")
    index: dict[PartName, list[Shard]] = {}
    for part, its_paths in by_part.items():
        first = 0
        for path in its_paths:
            made = lists[path]
            numbers = tuple(range(first, first + len(made.keys)))
            first += len(made.keys)
            made = made.model_copy(update={"numbers": numbers})
            write_atomically(_list_path(path), made.model_dump_json())
            index.setdefault(part, []).append(made.shard)
    return _write_index(folder, tuple(classes), index)


def part_of(name: str) -> PartName:
    """The part that a shard belongs to, by the words of its name.

    Raises:
        UserError: it could be two.
    """
    words = set(re.split(r"[\W\d_]+", name.lower()))
    found: list[PartName] = [part for part in _PARTS if words & set(PARTS[part])]
    if len(found) > 1:
        raise UserError(f"the shard {name} could be of {' or '.join(found)}; rename it")
    return found[0] if found else "train"


def _index_shard(path: Path) -> PictureList:
    try:
        with path.open("rb") as file:
            return _list(path, file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _write_list(
    path: Path, archive: BinaryIO, keys: Sequence[str], numbers: Sequence[int]
) -> PictureList:
    made = _list(path, archive).model_copy(update={"keys": tuple(keys), "numbers": tuple(numbers)})
    write_atomically(_list_path(path), made.model_dump_json())
    return made


def _write_index(
    folder: Path, classes: tuple[str, ...], parts: dict[PartName, list[Shard]]
) -> ShardIndex:
    if len(classes) < 2:
        raise UserError(f"{folder} holds a single class, but at least two are needed")
    if "train" not in parts:
        raise UserError(f"{folder} has shards for {', '.join(parts)} but none to train on")
    index = ShardIndex(
        classes=classes, parts={part: tuple(shards) for part, shards in parts.items()}
    )
    write_atomically(folder / INDEX, index.model_dump_json(indent=1) + "\n")
    return index


def _list_path(path: Path) -> Path:
    return path.with_suffix(LIST)


@dataclass
class _Sample:
    """What a shard holds under one key."""

    picture: tarfile.TarInfo | None = None
    label: int | None = None


def _list(path: Path, file: BinaryIO) -> PictureList:
    """The list of a shard's pictures, by what the shard says of itself."""
    samples: dict[str, _Sample] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    _add(samples, path, file, member)
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no uncompressed tar file, or a damaged one; unpack or restore it"
        ) from error
    if not samples:
        raise UserError(f"{path} holds no pictures; remove it")
    for key, sample in samples.items():
        if sample.picture is None or sample.label is None:
            lacks = "picture that can be read here" if sample.picture is None else "class (.cls)"
            raise UserError(f"the sample {key} in {path} has no {lacks}; make the shard anew")
    pictures = [sample.picture for sample in samples.values() if sample.picture]
    checksums = []
    for member in pictures:
        content = _bytes(file, member)
        if len(content) < member.size:
            raise UserError(f"{path} ends within {member.name}; restore it")
        checksums.append(zlib.crc32(content))
    shard = Shard(
        name=path.name,
        pictures=len(samples),
        size=file.seek(0, io.SEEK_END),
        sha256=sha256_of(file),
    )
    return PictureList(
        shard=shard,
        keys=tuple(samples),
        numbers=tuple(range(len(samples))),
        labels=tuple(sample.label for sample in samples.values() if sample.label is not None),
        offsets=tuple(member.offset_data for member in pictures),
        sizes=tuple(member.size for member in pictures),
        checksums=tuple(checksums),
    )


def _add(samples: dict[str, _Sample], path: Path, file: BinaryIO, member: tarfile.TarInfo) -> None:
    """Note a file of a shard, whose key ends at the first dot of its name, as in `webdataset`."""
    folder, slash, name = member.name.rpartition("/")
    stem, _, suffixes_after = name.partition(".")
    sample = samples.setdefault(folder + slash + stem, _Sample())
    if suffixes_after.lower() == "cls":
        sample.label = _label(path, member.name, _bytes(file, member))
    elif f".{suffixes_after.lower()}" in suffixes():
        if sample.picture is not None:
            raise UserError(
                f"{path} has two pictures under one key, {sample.picture.name} and {member.name}; "
                "make the shard anew"
            )
        sample.picture = member


def _label(path: Path, name: str, content: bytes) -> int:
    if not re.fullmatch(rb"\s*\d{1,9}\s*", content):
        raise UserError(f"{name} in {path} holds no number of a class; make the shard anew")
    return int(content)


def _bytes(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def sha256_of(file: BinaryIO) -> str:
    """The checksum of a whole file, in hexadecimal digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def side_by_side(
    function: Callable[[Work], Made], work: Sequence[Work], processes: int, label: str
) -> Iterator[Made]:
    """`function` of all pieces of work in order, in so many processes, with a progress bar.

    Raises:
        UserError: `function` raises it, or a process is killed.
    """
    with progress_bar(label, len(work)) as bar:
        if processes == 1:
            for each in work:
                yield function(each)
                bar.advance()
            return
        pool = ProcessPoolExecutor(processes, initializer=_ignore_interrupts)
        try:
            for made in pool.map(function, work):
                yield made
                bar.advance()
        except BrokenProcessPool as error:
            raise InterruptionError(
                "a process that works on shards was killed, perhaps for want of memory; lower "
                "--processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
