"""JPEG files that a device decodes. Here the device is the CPU, by TorchCodec as on GPUs."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from proxyless_ext.config import RuntimeConfig
from proxyless_ext.data import (
    DataConfig,
    Distortions,
    PictureError,
    Pictures,
    batches,
    endless,
    load_pictures,
    make_shards,
)
from proxyless_ext.errors import UserError
from proxyless_ext.runtime import Runtime

CPU = torch.device("cpu")
RESOLUTION = 72
"""Above it, pictures are not kept in memory."""

DISTORTIONS = Distortions(auto_augment="randaugment", cutout=20, random_erasing=0.5)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def photographs() -> dict[str, bytes]:
    """A picture of every kind that a folder of photographs may have."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(noise).resize((120, 90))
    upright = Image.Exif()
    files = {
        "plain.jpg": jpeg(image),
        "odd.jpg": jpeg(image.crop((0, 0, 75, 77)), subsampling=2),
        "progressive.jpg": jpeg(image, progressive=True),
        "grey.jpg": jpeg(image.convert("L")),
        "cmyk.jpg": jpeg(image.convert("CMYK")),
    }
    for orientation in range(1, 9):
        upright[ExifTags.Base.Orientation] = orientation
        files[f"turned{orientation}.jpg"] = jpeg(image, exif=upright)
    png = io.BytesIO()
    image.save(png, "PNG")
    return {**files, "other.png": png.getvalue()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        for file, content in photographs().items():
            (tmp_path / name / file).write_bytes(content)
    return tmp_path


def load(folder: Path, policy: str = "fatal") -> Pictures:
    config = DataConfig(source=str(folder), bad_pictures=policy)
    return load_pictures(config, RESOLUTION, seed=0, distortions=DISTORTIONS)


def equal(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(a, b)
        for pair, other in zip(some, others, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


@pytest.mark.parametrize("is_sharded", [False, True])
def test_pictures_are_those_that_readers_decode(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, is_sharded: bool
) -> None:
    if is_sharded:
        folder, source = tmp_path_factory.mktemp("shards"), folder
        make_shards(source, folder, pictures=9, processes=1)
    for dataset in (load(folder).train, load(folder).val):
        expected = list(batches(dataset, 7, 0, "train", 1))
        before = torch.random.get_rng_state()
        for workers in (0, 2):
            found = batches(dataset, 7, 0, "train", 1, workers=workers, decoding=CPU)
            assert equal(list(found), expected)
        assert torch.equal(torch.random.get_rng_state(), before)
    slices = [
        next(endless(load(folder).train, 9, 0, "train", 2, decoding=CPU, rank=rank, world=2))
        for rank in (0, 1)
    ]
    pictures, labels = map(torch.cat, zip(*slices, strict=True))
    assert equal([(pictures, labels)], [next(endless(load(folder).train, 9, 0, "train", 2))])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_are_left_out_or_fatal(folder: Path, workers: int) -> None:
    damaged = folder / "train/a/plain.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    (folder / "train/b/other.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(PictureError, match="cannot read picture"):
        list(batches(load(folder).train, 28, 0, "train", 0, workers=workers, decoding=CPU))
    found = []
    for decoding in (None, CPU):
        dataset = load(folder, "skip").train
        made = batches(dataset, 13, 0, "train", 0, workers=workers, decoding=decoding)
        with pytest.warns(UserWarning, match="left out") as met:
            found.append(list(made))
        assert {str(each.message).split(":")[0] for each in met} == {
            f"left out picture {folder / 'train' / name}" for name in ("a/plain.jpg", "b/other.png")
        }
    assert equal(*found)


def test_what_the_device_refuses_the_cpu_decodes_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU knows fewer kinds of JPEG than a CPU does."""
    from torchcodec.decoders import decode_jpeg

    refused = photographs()["progressive.jpg"]

    def decode(source: Tensor | list[Tensor], device: torch.device) -> object:
        files = source if isinstance(source, list) else [source]
        if any(file.numpy().tobytes() == refused for file in files):
            raise RuntimeError("nvJPEG cannot")
        return decode_jpeg(source, device=device)

    monkeypatch.setitem(
        sys.modules, "torchcodec.decoders", types.SimpleNamespace(decode_jpeg=decode)
    )
    dataset = load(folder).train
    expected = list(batches(dataset, 28, 0, "train", 0))
    with pytest.warns(UserWarning, match="progressive.jpg: decoded on the CPU.*nvJPEG cannot"):
        found = list(batches(dataset, 28, 0, "train", 0, decoding=CPU))
    assert equal(found, expected)


def test_decoding_needs_the_device_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"decoding is cuda, but runtime.device is cpu"):
        Runtime.set_up(RuntimeConfig(decoding="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("proxyless_ext.data.device_decoding.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package torchcodec"):
        Runtime.set_up(RuntimeConfig(device="cuda", decoding="cuda"))
