import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from proxyless_ext.data import (
    DataConfig,
    Pictures,
    PictureSet,
    WorkerError,
    batches,
    batches_per_epoch,
    endless,
    load_pictures,
    worker_failures,
)
from proxyless_ext.data.bad_pictures import BadPictures
from proxyless_ext.data.batches import _PlannedBatches
from proxyless_ext.data.parts import MemoryReader, Part
from proxyless_ext.data.sources import CIFAR10
from proxyless_ext.data.transforms import augment, normalise
from proxyless_ext.errors import UserError
from proxyless_ext.seeding import derive_seed, generator

Batch = tuple[Tensor, Tensor]


def picture_set(count: int, reader: MemoryReader | None = None) -> PictureSet:
    """Random pictures of 16x16, augmented, whose labels are their indices."""
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=noise)
    part = Part.of(reader or MemoryReader(images), torch.arange(count))
    return PictureSet(
        part, augment("standard", 16, mirrors=True), normalise(CIFAR10), BadPictures("fatal")
    )


def same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a, b)
        for pair, other in zip(some, others, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


def test_batches_are_what_their_seeds_say():
    dataset = picture_set(11)
    expected = []
    order = torch.randperm(11, generator=generator(3, "order", "weights", 5)).tolist()
    for first in (0, 4):
        items = []
        for index in order[first : first + 4]:
            torch.manual_seed(derive_seed(3, "augment", "weights", 5, index))
            items.append(dataset[index])
        expected.append(
            (torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items]))
        )
    assert same(list(batches(dataset, 4, 3, "weights", 5)), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    dataset = picture_set(30)
    alone = list(batches(dataset, 4, 0, "weights", 1))
    assert same(alone, list(batches(dataset, 4, 0, "weights", 1, workers=workers)))
    stream = endless(dataset, 4, 0, "weights", start=7, workers=workers)
    assert same(alone, list(itertools.islice(stream, 7)))


def test_a_stop_of_the_whole_group_is_left_to_the_main_process():
    stream = batches(picture_set(30), 4, 0, "weights", 1, workers=2)
    first = next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    subprocess.run(["kill", *(str(worker.pid) for worker in workers)], check=True)
    assert same([first, *stream], list(batches(picture_set(30), 4, 0, "weights", 1)))


def test_data_sets_can_be_sent_to_spawned_workers(folder):
    for dataset in (picture_set(8), load(folder, "fatal").train):
        sent = pickle.loads(pickle.dumps(dataset))
        assert same(list(batches(sent, 4, 0, "a", 0)), list(batches(dataset, 4, 0, "a", 0)))


@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    start=st.integers(0, 40),
    shuffle=st.booleans(),
)
def test_starting_late_gives_the_rest(count, batch_size, start, shuffle):
    dataset = picture_set(count)
    everything = list(batches(dataset, batch_size, 0, "a", 0, shuffle=shuffle))
    assert len(everything) == batches_per_epoch(count, batch_size, shuffle)
    rest = list(batches(dataset, batch_size, 0, "a", 0, start=start, shuffle=shuffle))
    assert same(rest, everything[start:])


@given(count=st.integers(1, 20), batch_size=st.integers(1, 12), start=st.integers(0, 20))
def test_endless_is_one_epoch_after_the_other(count, batch_size, start):
    dataset = picture_set(count)
    last_epoch = (start + 3) // batches_per_epoch(count, batch_size)
    epochs = [
        list(batches(dataset, batch_size, 0, "gates", epoch)) for epoch in range(last_epoch + 1)
    ]
    expected = list(itertools.chain.from_iterable(epochs))[start : start + 3]
    stream = endless(dataset, batch_size, 0, "gates", start=start)
    assert same(list(itertools.islice(stream, 3)), expected)


@given(count=st.integers(1, 30), batch_size=st.integers(1, 12))
def test_training_takes_full_batches_and_evaluation_all_pictures(count, batch_size):
    dataset = picture_set(count)
    training = [labels.tolist() for _, labels in batches(dataset, batch_size, 0, "a", 0)]
    assert {len(labels) for labels in training} == {min(batch_size, count)}
    seen = list(itertools.chain.from_iterable(training))
    assert len(set(seen)) == len(seen) > count - batch_size
    evaluation = [
        labels.tolist() for _, labels in batches(dataset, batch_size, 0, "a", 0, shuffle=False)
    ]
    assert list(itertools.chain.from_iterable(evaluation)) == list(range(count))


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world=st.integers(1, 5),
    start=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_ranks_see_together_what_one_does(count, batch_size, world, start, shuffle):
    if shuffle:
        world = min(world, count, batch_size)
    dataset = picture_set(count)
    order = (dataset, batch_size, 0, "a", 2, start)
    together = list(batches(*order, shuffle=shuffle))
    slices = [
        list(batches(*order, shuffle=shuffle, rank=rank, world=world)) for rank in range(world)
    ]
    seen = [label for each in slices for _, labels in each for label in labels.tolist()]
    expected = [label for _, labels in together for label in labels.tolist()]
    assert sorted(seen) == sorted(expected)
    if shuffle and start == 0:  # Each picture once, but for those of an incomplete last batch.
        assert len(set(seen)) == len(seen) == min(count, count - count % batch_size or count)


def test_a_rank_has_its_part_of_every_batch():
    dataset = picture_set(23)
    whole = list(itertools.islice(endless(dataset, 7, 0, "a", start=2), 5))
    slices = [
        itertools.islice(endless(dataset, 7, 0, "a", start=2, rank=rank, world=3), 5)
        for rank in range(3)
    ]
    for batch, *parts in zip(whole, *slices, strict=True):
        assert [len(labels) for _, labels in parts] == [2, 2, 3]
        assert same([tuple(map(torch.cat, zip(*parts, strict=True)))], [batch])


def test_augmentation_does_not_depend_on_the_batch():
    dataset = picture_set(24)
    some, others = (
        torch.cat([pictures for pictures, _ in batches(dataset, size, 0, "a", 0)])
        for size in (4, 6)
    )
    assert torch.equal(some, others)


@pytest.mark.parametrize("other", [(1, "a", 0), (0, "b", 0), (0, "a", 1)])
def test_seed_phase_and_epoch_all_count(other):
    dataset = picture_set(40)
    [(pictures, labels)] = batches(dataset, 40, 0, "a", 0)
    [(other_pictures, other_labels)] = batches(dataset, 40, *other)
    assert not torch.equal(labels, other_labels)
    by_label, others_by_label = pictures[labels.argsort()], other_pictures[other_labels.argsort()]
    changed = (by_label != others_by_label).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.8  # 25 offsets, mirrored or not: 1 in 50 stays.


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_left_alone(workers):
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    stream = endless(picture_set(8), 4, 0, "a", workers=workers)
    for _ in itertools.islice(stream, 5):
        assert torch.equal(torch.get_rng_state(), states[0])
    stream.close()
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@dataclass(frozen=True)
class CountingReader(MemoryReader):
    read: list[int] = field(default_factory=list)

    def __call__(self, number: int) -> Tensor:
        self.read.append(number)
        return super().__call__(number)


def test_skipped_batches_are_not_read():
    reader = CountingReader(torch.zeros(100, 3, 16, 16, dtype=torch.uint8))
    dataset = picture_set(100, reader)
    [(_, labels)] = batches(dataset, 10, 0, "a", 0, start=9)
    assert reader.read == labels.tolist()
    reader.read.clear()
    _, labels = next(endless(dataset, 10, 0, "a", start=10**6 + 3))
    assert reader.read == labels.tolist()


def test_batches_of_nothing():
    assert list(batches(picture_set(5), 4, 0, "a", 0, start=1)) == []
    assert batches_per_epoch(0, 4, shuffle=False) == 0


def test_workers_leave_interrupts_to_the_main_process():
    before = set(multiprocessing.active_children())
    stream = endless(picture_set(8), 4, 0, "a", workers=1)
    next(stream)
    [worker] = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGINT)
    for _ in itertools.islice(stream, 10):
        assert worker.is_alive()
    stream.close()
    worker.join(10)
    assert not worker.is_alive()


def test_workers_end_with_the_main_process():
    """Which ends those that it has still at its exit, and waits for them."""
    before = set(multiprocessing.active_children())
    stream = endless(picture_set(8), 4, 0, "a", workers=1)
    next(stream)
    [worker] = set(multiprocessing.active_children()) - before
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    stream.close()


# Unreadable pictures that are read when their batch is due: these are too large to keep in memory.

RESOLUTION = 65


KILLED = """
import multiprocessing, os, signal
from test_data_batches import picture_set
from proxyless_ext.data import WorkerError, batches, worker_failures

stream = batches(picture_set(1000), 2, 0, "train", 0, workers=1)
next(stream)
try:
    with worker_failures():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        list(stream)
except WorkerError as error:
    print(error)
"""


def test_a_killed_worker_is_one_sentence():
    """In a process of its own, where torch's handler may notice the death at any moment."""
    command = [sys.executable, "-c", KILLED]
    process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    said = "was killed, perhaps for want of memory; lower data.workers"
    assert said in process.stdout, process.stderr


def test_so_is_one_whose_death_is_noticed_elsewhere():
    with pytest.raises(WorkerError), worker_failures():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="something else"), worker_failures():
        raise RuntimeError("something else")


def test_so_is_one_that_dies_while_it_hands_over_a_batch(monkeypatch):
    """Before the system has told of its death, the loader knows only that a connection broke."""

    def break_off(loader):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(DataLoader, "__iter__", break_off)
    with pytest.raises(WorkerError, match="was killed"):
        next(batches(picture_set(8), 2, 0, "train", 0, workers=1))


def test_full_shared_memory_is_one_sentence(monkeypatch):
    def refuse(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", refuse)  # Workers are forked from this process.
    with pytest.raises(WorkerError, match=r"no room in shared memory .*set data\.workers to 0, or"):
        list(batches(picture_set(8), 2, 0, "train", 0, workers=2))
    assert len(list(batches(picture_set(8), 2, 0, "train", 0))) == 4


SMALL_SHM = """
mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 77
exec "$0" -c '
import torch
from test_data_batches import picture_set
from proxyless_ext.data import batches
from proxyless_ext.errors import UserError
try:
    list(batches(picture_set(4000), 500, 0, "train", 0, workers=2))
except UserError as error:
    print(error)
'
"""


@pytest.mark.slow
def test_a_small_dev_shm_is_one_sentence_and_no_wait():
    command = ["unshare", "--mount", "sh", "-c", SMALL_SHM, sys.executable]
    process = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
    )
    if process.returncode in (1, 77) and "not permitted" in process.stderr:
        pytest.skip("this user may not mount anything")
    assert "no room in shared memory (/dev/shm)" in process.stdout, process.stderr


def test_pinned_memory_is_asked_for(monkeypatch):
    asked = []

    class Loader(DataLoader):
        def __init__(self, *arguments, pin_memory, **settings):
            asked.append(pin_memory)
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(sys.modules[_PlannedBatches.__module__], "DataLoader", Loader)
    for pin in (False, True):
        list(batches(picture_set(4), 2, 0, "train", 0, pin=pin))
    next(endless(picture_set(4), 2, 0, "train", pin=True))
    assert asked == [False, True, True]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        (tmp_path / name).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (70, 70), (index, number, 0))
            image.save(tmp_path / name / f"{number}.png")
    return tmp_path


def damage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:60])


def load(folder: Path, policy: str) -> Pictures:
    config = DataConfig(source=str(folder), bad_pictures=policy)
    return load_pictures(config, RESOLUTION, seed=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_fatal_in_one_sentence(folder, workers):
    damage(folder, "train/dog/2.png")
    with pytest.raises(UserError) as raised:
        list(batches(load(folder, "fatal").train, 4, 0, "a", 0, workers=workers))
    sentence = str(raised.value)
    assert sentence.startswith(f"cannot read picture {folder / 'train/dog/2.png'}: ")
    assert "data.bad_pictures" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_left_out_with_one_warning(folder, workers):
    whole = list(batches(load(folder, "skip").train, 4, 0, "a", 0))
    damage(folder, "train/dog/2.png")
    loaded = load(folder, "skip")
    with pytest.warns(UserWarning, match=r"left out picture .*dog/2\.png"):
        first = list(batches(loaded.train, 4, 0, "a", 0, workers=workers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It was named once.
        list(batches(loaded.train, 4, 0, "a", 1, workers=workers))
        for dataset in (loaded.train_weights, loaded.train_gates):
            list(batches(dataset, 2, 0, "a", 0))
    assert sorted(len(labels) for _, labels in first) == [3, 4]
    # The pictures that can be read are as they would have been.
    for (pictures, _), (all_pictures, _) in zip(first, whole, strict=True):
        for picture in pictures:
            assert any(torch.equal(picture, other) for other in all_pictures)


def test_evaluation_goes_on_past_a_batch_of_damaged_pictures(folder):
    damage(folder, "val/dog/3.png")
    with pytest.warns(UserWarning, match="left out"):
        counts = [
            len(labels)
            for _, labels in batches(load(folder, "skip").val, 7, 0, "val", 0, shuffle=False)
        ]
    assert counts == [7]


def test_training_does_not_go_on_without_any_picture(folder):
    damage(
        folder, *(f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(4))
    )
    stream = endless(load(folder, "skip").train, 8, 0, "weights")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(UserError, match="no picture of a batch, or of a rank's part"),
    ):
        next(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_makes_no_picture_a_bad_one(folder, monkeypatch, workers):
    def no_room(*_args, **_kwargs):
        raise MemoryError

    pictures = load(folder, "skip").train
    monkeypatch.setattr(Image, "open", no_room)
    with pytest.raises(WorkerError, match=r"^there is too little memory to decode .*\.png; lower"):
        next(endless(pictures, 8, 0, "weights", workers=workers))
