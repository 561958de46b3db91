"""Finding everything that is wrong with pictures before a run does."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import UserError
from .bad_pictures import PictureError
from .decoding import decode
from .folder import list_folder
from .indexing import sha256_of
from .shards import Shard, ShardIndex, all_shards, has_shards, read_list, shard_difference
from .side_by_side import side_by_side


@dataclass(frozen=True)
class Checked:
    """What a look at some pictures gave.

    Attributes:
        pictures: how many were looked at.
        problems: what is wrong, each in a line.
    """

    pictures: int
    problems: list[str]


def check_pictures(folder: Path, decodes: bool, processes: int) -> Iterator[Checked]:
    """Look at all pictures of a folder, or of the shards in it.

    Args:
        folder: of either.
        decodes: whether pictures in shards are decoded, too, beside comparing checksums; files have
            none, and are always decoded.
        processes: that work side by side.

    Raises:
        UserError: it is no such folder, or has no index that can be read.
    """
    if has_shards(folder):
        index = ShardIndex.read(folder)
        check = partial(_check_shard, folder, len(index.classes), decodes)
        return side_by_side(check, list(all_shards(index)), processes, "shards")
    listings = list_folder(folder).parts.values()
    pictures = [path for listing in listings for paths in listing.values() for path in paths]
    blocks = [pictures[first : first + 100] for first in range(0, len(pictures), 100)]
    return side_by_side(_check_files, blocks, processes, "pictures")


def _check_files(paths: list[Path]) -> Checked:
    return Checked(len(paths), [reason for path in paths if (reason := _reason(path))])


def _check_shard(folder: Path, classes: int, decodes: bool, shard: Shard) -> Checked:
    path = folder / shard.name
    problems = []
    if difference := shard_difference(folder, shard):
        problems.append(f"{path} {difference}")
    try:
        pictures = read_list(folder, shard, classes)
        with path.open("rb") as file:
            is_whole = sha256_of(file) == shard.sha256
            if not is_whole and not difference:
                problems.append(f"{path} has other bytes than those that the index was made of")
            if decodes or not is_whole:
                columns = (pictures.keys, pictures.offsets, pictures.sizes, pictures.checksums)
                damaged = []
                for key, offset, size, checksum in zip(*columns, strict=True):
                    file.seek(offset)
                    content = file.read(size)
                    if zlib.crc32(content) != checksum:
                        damaged.append(f"{path / key}: damaged, or not that of the index")
                    elif decodes and (reason := _reason(path / key, content)):
                        problems.append(reason)
                # A shard of another size has hardly any that is right after the first damage.
                shown = damaged[:1] if difference else damaged
                problems += shown
                if hidden := len(damaged) - len(shown):
                    problems.append(f"{path}: so are {hidden} pictures after that")
    except UserError as error:
        problems.append(str(error))
    except OSError as error:
        if not difference:
            problems.append(f"{path} cannot be read ({error.strerror})")
    return Checked(shard.pictures, problems)


def _reason(path: Path, content: bytes | None = None) -> str:
    """Why a picture cannot be decoded; empty if it can."""
    try:
        decode(path, content)
    except PictureError as error:
        return f"{path}: {error.reason}"
    return ""
