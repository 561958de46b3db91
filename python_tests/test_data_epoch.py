"""An epoch over shards at full length, of which only the index is there: every picture once."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from proxyless_ext.data import DataConfig, Pictures, PictureSet, batches, load_pictures
from proxyless_ext.data.bad_pictures import BadPictures
from proxyless_ext.data.batches import _plan, _slices
from proxyless_ext.data.parts import Part
from proxyless_ext.data.shards import INDEX, PictureList, Shard, ShardIndex

IMAGENET = 1_281_167
BATCH = 256


def write_index(folder: Path, train: int, classes: int, of_shard: int = 1000) -> None:
    """The index of shards whose files are holes of the right size; 50 a class to validate."""
    parts = {}
    noise = np.random.default_rng(0)
    for part, count in (("train", train), ("val", 50 * classes)):
        order = noise.permutation(count)
        shards = []
        for number, first in enumerate(range(0, count, of_shard)):
            numbers = order[first : first + of_shard].tolist()
            size = 100_000 * len(numbers)
            name = f"{part}-{number:06d}"
            shard = Shard(name=f"{name}.tar", pictures=len(numbers), size=size, sha256="0" * 64)
            with (folder / shard.name).open("wb") as file:
                file.truncate(size)
            listed = PictureList(
                shard=shard,
                keys=tuple(f"n{n % classes:08d}/n{n % classes:08d}_{n}.JPEG" for n in numbers),
                numbers=tuple(numbers),
                labels=tuple(n % classes for n in numbers),
                offsets=tuple(range(0, size, 100_000)),
                sizes=(100_000,) * len(numbers),
                checksums=(0,) * len(numbers),
            )
            (folder / shard.list_name).write_text(listed.model_dump_json())
            shards.append(shard)
        parts[part] = tuple(shards)
    names = tuple(f"n{label:08d}" for label in range(classes))
    (folder / INDEX).write_text(ShardIndex(classes=names, parts=parts).model_dump_json())


def load(folder: Path) -> Pictures:
    config = DataConfig(source=str(folder), gate_fraction=50_000 / IMAGENET)
    return load_pictures(config, resolution=224, seed=0)


def plan_counts(pictures: int, world: int, start: int = 0) -> Tensor:
    """How often each picture is in the slices of so many ranks [pictures]."""
    counts = torch.zeros(pictures, dtype=torch.long)
    for rank in range(world):
        plan = itertools.islice(_plan(pictures, BATCH, 3, "search", 7), start, None)
        for batch in _slices(plan, rank, world):
            counts[torch.tensor(batch.indices)] += 1
    return counts


@dataclass(frozen=True)
class Blank:
    """Pictures of one pixel."""

    def __call__(self, number: int) -> Tensor:
        return torch.zeros(3, 1, 1, dtype=torch.uint8)

    def keys_of(self, numbers: Tensor) -> Iterator[bytes]:
        return (b"%d" % number for number in numbers.tolist())


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0), (3, 1), (4, 0)])
def test_an_epoch_has_every_picture_once(world: int, workers: int) -> None:
    """Over all ranks, whatever the number of workers, but for an incomplete last batch."""
    count = 10 * BATCH + 5
    part = Part.of(Blank(), torch.arange(count))
    dataset = PictureSet(part, lambda pixels: pixels, Tensor.float, BadPictures("fatal"))

    def seen(start: int) -> Iterator[list[int]]:
        for rank in range(world):
            order = (dataset, BATCH, 3, "search", 7, start)
            slices = batches(*order, workers=workers, rank=rank, world=world)
            yield [label for _, labels in slices for label in labels.tolist()]

    whole = list(itertools.chain.from_iterable(seen(0)))
    assert len(whole) == len(set(whole)) == 10 * BATCH
    rest = set(itertools.chain.from_iterable(seen(6)))
    assert len(rest) == 4 * BATCH
    assert torch.equal(plan_counts(count, world).nonzero()[:, 0], torch.tensor(sorted(whole)))


def test_held_out_pictures_are_as_many_of_every_class(tmp_path: Path) -> None:
    write_index(tmp_path, train=5000, classes=10, of_shard=300)
    loaded = load(tmp_path)
    assert loaded.train_gates.labels.bincount().tolist() == [20] * 10
    assert loaded.train.labels.tolist() == [number % 10 for number in range(5000)]


@pytest.mark.slow
def test_an_epoch_of_imagenet(tmp_path: Path) -> None:
    write_index(tmp_path, IMAGENET, classes=1000)
    gc.collect()
    before, started = resident_bytes(), time.process_time()
    loaded = load(tmp_path)
    startup = time.process_time() - started
    gc.collect()
    held, peak = resident_bytes() - before, peak_bytes() - before
    gates = loaded.train_gates.labels.bincount()
    assert len(loaded.train_gates) == pytest.approx(50_000, rel=0.01)
    assert gates.max() - gates.min() <= 1

    started = time.process_time()
    middle = next(_plan(IMAGENET, BATCH, 3, "search", 7))
    dataset = replace(loaded.train, part=Part.of(Blank(), torch.arange(IMAGENET)))
    dataset = replace(dataset, transform=lambda pixels: pixels, normalise=Tensor.float)
    _, labels = next(batches(dataset, BATCH, 3, "search", 7, start=2500))
    resumed = time.process_time() - started
    for world in (1, 3, 4):
        counts = plan_counts(IMAGENET, world)
        assert counts.max() == 1
        assert counts.sum() == IMAGENET // BATCH * BATCH
    late = plan_counts(IMAGENET, 3, start=2500)
    assert late[labels].all()
    assert not late[torch.tensor(middle.indices)].any()
    print(
        f"start-up {startup:.1f} s, first batch in the middle {resumed:.1f} s, "
        f"{held / 2**20:.0f} MiB held, {peak / 2**20:.0f} MiB at most"
    )
    assert startup < 20  # Half of it where the cores are not shared.
    assert resumed < 10
    assert held < 512 * 2**20  # Most of it is what reading JSON leaves behind.
    assert len(pickle.dumps(loaded.train)) < 100 * IMAGENET


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
