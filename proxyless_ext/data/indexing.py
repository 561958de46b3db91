"""The index of shards, and the list of the pictures of each, by what a shard says of itself."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from ..files import write_atomically
from .folder import PARTS, suffixes
from .shards import INDEX, LIST, PART_NAMES, PartName, PictureList, Shard, ShardIndex, has_shards
from .side_by_side import side_by_side

CHUNK = 2**20
"""Bytes read at a time."""


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
            write_atomically(list_path_of(path), made.model_dump_json())
            index.setdefault(part, []).append(made.shard)
    return write_index(folder, tuple(classes), index)


def part_of(name: str) -> PartName:
    """The part that a shard belongs to, by the words of its name.

    Raises:
        UserError: it could be two.
    """
    words = set(re.split(r"[\W\d_]+", name.lower()))
    found: list[PartName] = [part for part in PART_NAMES if words & set(PARTS[part])]
    if len(found) > 1:
        raise UserError(f"the shard {name} could be of {' or '.join(found)}; rename it")
    return found[0] if found else "train"


def _index_shard(path: Path) -> PictureList:
    try:
        with path.open("rb") as file:
            return list_pictures(path, file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def write_index(
    folder: Path, classes: tuple[str, ...], parts: dict[PartName, list[Shard]]
) -> ShardIndex:
    """Write the index of shards whose lists are there.

    Raises:
        UserError: there are too few classes, or no shards to train on.
    """
    if len(classes) < 2:
        raise UserError(f"{folder} holds a single class, but at least two are needed")
    if "train" not in parts:
        raise UserError(f"{folder} has shards for {', '.join(parts)} but none to train on")
    index = ShardIndex(
        classes=classes, parts={part: tuple(shards) for part, shards in parts.items()}
    )
    write_atomically(folder / INDEX, index.model_dump_json(indent=1) + "\n")
    return index


def list_path_of(path: Path) -> Path:
    """The list that lies beside a shard."""
    return path.with_suffix(LIST)


@dataclass
class _Sample:
    """What a shard holds under one key."""

    picture: tarfile.TarInfo | None = None
    label: int | None = None


def list_pictures(path: Path, file: BinaryIO) -> PictureList:
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
