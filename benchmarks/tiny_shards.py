"""Shards of tiny random pictures, to read epochs of ImageNet's length without ImageNet.

    python -m benchmarks.tiny_shards build/tiny --pictures 1281167 --classes 1000

Every picture is one of a thousand JPEGs of 16x16 pixels, so a million of them take 5 GB. For each
class there are 5 pictures more to validate. The index is that of `proxyless data index`.
"""

from __future__ import annotations

import argparse
import io
import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

from proxyless_ext.data import index_shards
from proxyless_ext.data.side_by_side import side_by_side
from proxyless_ext.errors import UserError
from proxyless_ext.files import make_folder

OF_SHARD = 1000
OF_CLASS = 5
"""Pictures of a class to validate."""


def jpegs(count: int) -> list[bytes]:
    """So many files of pictures of 16x16 random colours."""
    noise = np.random.default_rng(0)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def write_shard(folder: Path, files: list[bytes], classes: int, shard: tuple[str, range]) -> None:
    """Write one shard: its name, and the numbers of its pictures."""
    name, numbers = shard
    with TarWriter(str(folder / f"{name}.tar"), user="", group="", encoder=False) as writer:
        for number in numbers:
            sample = {"__key__": f"{number:08d}", "cls": str(number % classes).encode()}
            writer.write({**sample, "jpg": files[number % len(files)]})


def main() -> None:
    """Write the shards and their index."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an empty one")
    parser.add_argument("--pictures", type=int, default=1_281_167, help="(default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    make_folder(arguments.folder)
    shards = []
    for part, count in (("train", arguments.pictures), ("val", OF_CLASS * arguments.classes)):
        for first in range(0, count, OF_SHARD):
            numbers = range(first, min(first + OF_SHARD, count))
            shards.append((f"{part}-{first // OF_SHARD:06d}", numbers))
    write = partial(write_shard, arguments.folder, jpegs(1000), arguments.classes)
    for _ in side_by_side(write, shards, arguments.processes, "shards"):
        pass
    names = [f"class{number:04d}" for number in range(arguments.classes)]
    index_shards(arguments.folder, names, arguments.processes)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
