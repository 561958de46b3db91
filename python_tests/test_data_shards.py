"""Shards: pictures come out of them as they went in, and what is wrong with them is said."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.data import (
    DataConfig,
    PictureError,
    Pictures,
    batches,
    index_shards,
    load_pictures,
    load_test_pictures,
    make_shards,
)
from proxyless_ext.data.indexing import part_of
from proxyless_ext.data.side_by_side import side_by_side
from proxyless_ext.errors import InterruptionError, UserError

RESOLUTION = 72
"""Too large to be kept in memory."""


def fill(folder: Path, count: int, suffix: str = "png") -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(zlib.crc32(str(folder).encode()))
    for index in range(count):
        pixels = noise.integers(0, 256, (9, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.x.{suffix}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for part, count in (("train", 11), ("val", 3)):
        fill(folder / part / "cat" / "deeper", count)
        fill(folder / part / "Hund \N{DOG}", count, "jpeg")
    return folder


@pytest.fixture
def shards(source: Path, tmp_path: Path) -> Path:
    make_shards(source, tmp_path / "shards", pictures=5, processes=1)
    return tmp_path / "shards"


def load(folder: Path, policy: str = "fatal") -> Pictures:
    config = DataConfig(source=str(folder), bad_pictures=policy)
    return load_pictures(config, RESOLUTION, seed=0)


def same(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_shards_are_the_folder_they_were_made_of(source: Path, shards: Path) -> None:
    of_files, of_shards = load(source), load(shards)
    assert of_shards.inventory == of_files.inventory
    assert of_shards.classes == of_files.classes
    for name in ("train", "train_weights", "train_gates", "val"):
        one, other = getattr(of_files, name), getattr(of_shards, name)
        assert list(one.part.keys()) == list(other.part.keys())
        assert same(list(batches(one, 4, 0, "a", 1)), list(batches(other, 4, 0, "a", 1)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_the_same_and_go_on_in_the_middle(shards: Path, workers: int) -> None:
    dataset = load(shards).train
    alone = list(batches(dataset, 4, 0, "a", 0))
    assert same(alone[2:], list(batches(dataset, 4, 0, "a", 0, start=2, workers=workers)))
    sent = pickle.loads(pickle.dumps(dataset))
    assert same(alone, list(batches(sent, 4, 0, "a", 0)))


def test_webdataset_reads_the_same_pictures(source: Path, shards: Path) -> None:
    from webdataset import WebDataset

    dataset = load(source).train
    urls = sorted(map(str, shards.glob("train-*.tar")))
    samples = list(WebDataset(urls, shardshuffle=False).decode("torchrgb8"))
    assert sorted(sample["__key__"] for sample in samples) == [f"{n:08d}" for n in range(22)]
    for sample in samples:
        index = int(sample["__key__"])
        pixels = sample["png"] if "png" in sample else sample["jpg"]
        assert torch.equal(pixels, dataset.part.pixels(index))
        assert sample["cls"] == dataset.labels[index]


def test_every_shard_has_pictures_of_several_classes(shards: Path) -> None:
    lists = [json.loads(path.read_text()) for path in sorted(shards.glob("train-*.json"))]
    assert [len(each["labels"]) for each in lists] == [5, 5, 5, 5, 2]
    assert sum(len(set(each["labels"])) == 2 for each in lists) >= 3


def test_processes_change_nothing(source: Path, shards: Path, tmp_path: Path) -> None:
    make_shards(source, tmp_path / "again", pictures=5, processes=2)
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_what_was_stopped_goes_on(
    source: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {path.name: path.read_bytes() for path in shards.iterdir()}
    (shards / "index.json").unlink()
    (shards / "train-000001.json").unlink()
    (shards / "train-000003.tar").unlink()
    (shards / ".train-000003.tar.0123456789abcdef.part").write_bytes(b"half")
    untouched = shards / "train-000000.tar"
    before = untouched.stat().st_mtime_ns
    make_shards(source, shards, pictures=5, processes=1)
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == whole
    assert untouched.stat().st_mtime_ns == before


def test_a_changed_picture_is_not_taken_from_a_shard_made_before(
    source: Path, shards: Path
) -> None:
    (shards / "index.json").unlink()
    fresh = source / "train/cat/deeper/0.x.png"
    Image.new("RGB", (50, 40)).save(fresh)
    make_shards(source, shards, pictures=5, processes=1)
    assert same(*(list(batches(load(each).train, 4, 0, "a", 0)) for each in (source, shards)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("index.json", "already holds shards with an index"), ("other.txt", "holds something else")],
)
def test_folders_that_hold_something_are_left_alone(
    source: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(UserError, match=sentence):
        make_shards(source, tmp_path / "out", pictures=5, processes=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_names_that_are_no_text_are_refused(source: Path, tmp_path: Path) -> None:
    os.rename(source / "train/cat/deeper/0.x.png", os.fsencode(source) + b"/train/cat/\xff.png")
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        make_shards(source, tmp_path / "out", pictures=5, processes=1)


def damage(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


def picture_at(shards: Path, name: str, index: int) -> tuple[str, int]:
    """The key of a picture in a shard, and a place in the middle of its bytes."""
    found = json.loads((shards / f"{name}.json").read_text())
    return found["keys"][index], found["offsets"][index] + found["sizes"][index] // 2


def truncate(shards: Path) -> str:
    path = shards / "train-000002.tar"
    path.write_bytes(path.read_bytes()[:-512])
    return r"train-000002\.tar has \d+ bytes instead of the \d+ that the index was made of"


def remove(shards: Path) -> str:
    (shards / "val-000001.tar").unlink()
    return r"val-000001\.tar cannot be read \(No such file"


def swap_lists(shards: Path) -> str:
    (shards / "train-000000.json").write_text((shards / "train-000001.json").read_text())
    return r"train-000000\.json is not the list of the shard in the index"


def move_a_picture(shards: Path) -> str:
    path = shards / "train-000000.json"
    found = json.loads(path.read_text())
    found["offsets"][0] = 10**9
    path.write_text(json.dumps(found))
    return r"train-000000\.json is not the list of the shard in the index"


def lose_a_list(shards: Path) -> str:
    (shards / "train-000000.json").unlink()
    return r"cannot read .*train-000000\.json: No such file"


def garble_the_index(shards: Path) -> str:
    (shards / "index.json").write_text("{")
    return r"index\.json is not valid"


@pytest.mark.parametrize(
    "change",
    [truncate, remove, swap_lists, move_a_picture, lose_a_list, garble_the_index],
)
def test_changed_shards_are_named_before_anything_is_read(
    shards: Path, change: Callable[[Path], str]
) -> None:
    sentence = change(shards)
    with pytest.raises(UserError, match=sentence) as raised:
        load(shards)
    assert "\n" not in str(raised.value)
    assert CliRunner().invoke(app, ["data", "check", str(shards)]).exit_code == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_pictures_are_named_and_left_out_as_files_are(shards: Path, workers: int) -> None:
    key, place = picture_at(shards, "train-000001", 3)
    damage(shards / "train-000001.tar", place)
    with pytest.raises(PictureError, match=r"its shard is damaged there") as raised:
        list(batches(load(shards).train, 4, 0, "a", 0, workers=workers))
    assert raised.value.path == shards / "train-000001.tar" / key
    with pytest.warns(UserWarning, match="left out picture"):
        counts = [
            len(labels)
            for _, labels in batches(load(shards, "skip").train, 4, 0, "a", 0, workers=workers)
        ]
    assert sum(counts) in (19, 20)  # One of 22 pictures is damaged; 2 are in no full batch.


def check(folder: Path, *options: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["data", "check", str(folder), *options])
    return result.exit_code, result.stdout.splitlines()


def test_check_lists_everything_at_once(source: Path, shards: Path) -> None:
    assert check(shards) == (0, [f"{shards}: 28 pictures, nothing wrong"])
    keys = []
    for index in (0, 4):
        key, place = picture_at(shards, "train-000001", index)
        damage(shards / "train-000001.tar", place)
        keys.append(key)
    damage(shards / "train-000003.tar", 0)  # Of a header, so of no picture.
    (shards / "val-000000.tar").unlink()
    code, lines = check(shards, "--processes", "2")
    assert code == 1
    assert [line.replace(f"{shards}/", "") for line in lines] == [
        "train-000001.tar has other bytes than those that the index was made of",
        *(f"train-000001.tar/{key}: damaged, or not that of the index" for key in keys),
        "train-000003.tar has other bytes than those that the index was made of",
        "val-000000.tar cannot be read (No such file or directory)",
    ]


def test_a_shard_that_ends_early_is_two_lines_and_not_one_for_each_picture(shards: Path) -> None:
    key, place = picture_at(shards, "train-000001", 1)
    cut = shards / "train-000001.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: place + 1])
    code, lines = check(shards)
    assert code == 1
    assert [line.replace(f"{shards}/", "") for line in lines] == [
        f"train-000001.tar has {place + 1} bytes instead of the {len(whole)} that the index was "
        "made of",
        f"train-000001.tar/{key}: damaged, or not that of the index",
        "train-000001.tar: so are 3 pictures after that",
    ]


def test_check_decodes_if_asked(source: Path, tmp_path: Path) -> None:
    broken = source / "val/cat/deeper/1.x.png"
    broken.write_bytes(broken.read_bytes()[:60])
    code, lines = check(source)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"{broken}: ")
    make_shards(source, tmp_path / "shards", pictures=5, processes=1)
    assert check(tmp_path / "shards")[0] == 0
    code, lines = check(tmp_path / "shards", "--decode")
    assert (code, len(lines)) == (1, 1)
    assert "cat/deeper/1.x.png: " in lines[0]


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "png")
    return file.getvalue()


def test_shards_of_others_are_indexed(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("train", 10), ("val", 20)):
        files = {}
        for value in range(first, first + 10):
            files[f"./a/{value}.png"] = png(value)
            files[f"./a/{value}.cls"] = b"%d\n" % (value % 3)
            files[f"./a/{value}.json"] = b"{}"
        write_tar(tmp_path / f"my-{part}-{first:03d}.tar", files)
    index = index_shards(tmp_path, ["x", "y", "z"], processes=1)
    assert {part: len(shards) for part, shards in index.parts.items()} == {"train": 2, "val": 1}
    loaded = load(tmp_path)
    assert loaded.classes == ("x", "y", "z")
    values = [int(loaded.train.part.pixels(index)[0, 0, 0]) for index in range(20)]
    assert values == list(range(20))
    assert loaded.train.labels.tolist() == [value % 3 for value in values]
    known = DataConfig(source=str(tmp_path))
    test = load_test_pictures(known, 64, ["z", "y", "x", "w"], loaded.normalisation)
    assert test.labels.tolist() == [2 - value % 3 for value in range(20, 30)]
    with pytest.raises(UserError, match=r"has an index; remove .*index\.json to make another"):
        index_shards(tmp_path, None, processes=1)


GOOD = {"0.png": png(0), "0.cls": b"0", "1.png": png(1), "1.cls": b"1"}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no pictures"),
        ({**GOOD, "2.png": png(2)}, r"the sample 2 in .*a\.tar has no class \(\.cls\)"),
        ({**GOOD, "2.cls": b"1"}, "the sample 2 in .* has no picture that can be read here"),
        ({**GOOD, "1.jpg": b""}, r"two pictures under one key, 1\.png and 1\.jpg"),
        ({**GOOD, "1.cls": b"cat"}, r"1\.cls in .*a\.tar holds no number of a class"),
        ({**GOOD, "1.cls": b"2"}, r"a\.tar has the class 2, but only 2 are named"),
    ],
)
def test_shards_that_are_no_such_are_refused(
    tmp_path: Path, files: dict[str, bytes], sentence: str
) -> None:
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=sentence):
        index_shards(tmp_path, ["x", "y"], processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_so_are_compressed_and_truncated_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no shards"):
        index_shards(tmp_path, None, processes=1)
    path = tmp_path / "a.tar"
    write_tar(path, GOOD, "w:gz")
    with pytest.raises(UserError, match=r"a\.tar is no uncompressed tar file"):
        index_shards(tmp_path, None, processes=1)
    write_tar(path, {**GOOD, "2.cls": b"1", "2.png": png(2)})
    with tarfile.open(path) as archive:
        end = archive.getmember("2.png").offset_data + 10
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match=r"a\.tar (ends within 2\.png|is no uncompressed tar)"):
        index_shards(tmp_path, None, processes=1)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("imagenet-train-000000.tar", "train"),
        ("cats_VAL_01.tar", "val"),
        ("validation.tar", "val"),
        ("test7.tar", "test"),
        ("trainers.tar", "train"),
        ("latest.tar", "train"),
    ],
)
def test_parts_are_known_by_a_word(name: str, part: str) -> None:
    assert part_of(name) == part
    with pytest.raises(UserError, match="could be of train or val"):
        part_of("val-of-train.tar")


def test_class_names_are_read_from_a_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", GOOD)
    names = tmp_path / "names.txt"
    names.write_text("x\nx\n")
    arguments = ["data", "index", str(tmp_path), "--classes", str(names)]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, "a name twice" in result.stderr) == (1, True)
    names.write_text("x\ny\n")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads((tmp_path / "index.json").read_text())["classes"] == ["x", "y"]


def kill(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_one_sentence() -> None:
    with pytest.raises(InterruptionError, match="was killed, perhaps for want of memory"):
        list(side_by_side(kill, [0, 1], processes=2, label="shards"))
