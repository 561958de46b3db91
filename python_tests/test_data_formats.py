"""Pictures of every kind that Pillow can write, and whatever a camera may say beside them."""

from __future__ import annotations

import os
import random
import struct
import warnings
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image, features

from proxyless_ext.data import PictureError
from proxyless_ext.data.decoding import decode
from proxyless_ext.data.folder import suffixes

SIZE = (16, 8)
"""Width and height, different so that turning shows."""


def picture(mode: str = "RGB") -> Image.Image:
    """Red at the top left, blue elsewhere; light and dark in modes without colours."""
    image = Image.new("RGB", SIZE, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 8, 4))
    return image.convert(mode)


def corner(pixels: torch.Tensor) -> tuple[int, int]:
    """Where the red (or, in grey, the lighter) quarter is: (row, column), each 0 or -1."""
    redness = pixels[0].float() - pixels[2].float()
    if redness.abs().max() < 40:
        redness = pixels.float().mean(0)
    rows, columns = (redness.amax(dim).argmax().item() for dim in (1, 0))
    height, width = redness.shape
    return (0 if rows < height // 2 else -1), (0 if columns < width // 2 else -1)


# By EXIF's definition: where the stored top left comes to lie, and whether sides are exchanged.
ORIENTATIONS = {
    1: ((0, 0), False),
    2: ((0, -1), False),
    3: ((-1, -1), False),
    4: ((-1, 0), False),
    5: ((0, 0), True),
    6: ((0, -1), True),
    7: ((-1, -1), True),
    8: ((-1, 0), True),
}


def exif(entries: list[tuple[int, int, int, bytes]], little: bool) -> bytes:
    """An EXIF block of (tag, type, count, 4 bytes of value or offset)."""
    order = "<" if little else ">"
    head = (b"II" if little else b"MM") + struct.pack(f"{order}HI", 42, 8)
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + value
    return b"Exif\0\0" + head + body + struct.pack(f"{order}I", 0) + bytes(64)


def random_exif(rng: random.Random) -> tuple[bytes, int]:
    """A block with an orientation among other tags of any type and value, many of them broken."""
    little = rng.random() < 0.5
    order = "<" if little else ">"
    orientation = rng.randint(1, 8)
    odd = [
        (
            rng.choice([0x010F, 0x011A, 0x011B, 0x0128, 0x8769, 0x8825, 0x9286, 0xC4A5, 0x0001]),
            rng.randint(0, 13),
            rng.choice([0, 1, 2, 5, 2**16, 2**31]),
            rng.randbytes(4),
        )
        for _ in range(rng.randint(0, 5))
    ]
    entry = (0x0112, 3, 1, struct.pack(f"{order}H", orientation) + b"\0\0")
    return exif([*odd, entry], little), orientation


@pytest.mark.parametrize("seed", range(4))
def test_the_orientation_counts_whatever_stands_beside_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for index in range(50):
        block, orientation = random_exif(rng)
        path = tmp_path / f"{index}.jpg"
        picture().save(path, exif=block, quality=95)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = decode(path)
        where, is_turned = ORIENTATIONS[orientation]
        assert tuple(pixels.shape[1:]) == (SIZE if is_turned else SIZE[::-1])
        assert corner(pixels) == where, (seed, index, orientation)


def test_a_signed_resolution_is_no_reason_to_refuse(tmp_path: Path) -> None:
    resolution = (0x011A, 10, 1, struct.pack("<I", 26 + 24))
    entry = (0x0112, 3, 1, struct.pack("<H", 6) + b"\0\0")
    block = exif([resolution, entry], little=True)[:-64] + struct.pack("<ii", -1, 0) + bytes(64)
    picture().save(tmp_path / "a.jpg", exif=block, quality=95)
    assert corner(decode(tmp_path / "a.jpg")) == (0, -1)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_every_format_turns_pictures_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    picture().save(path, exif=tags, **({"quality": 95} if suffix in (".jpg", ".webp") else {}))
    assert corner(decode(path)) == ORIENTATIONS[orientation][0]


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]
SUFFIXES = [
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".tga", ".pcx", ".ico", ".jp2", ".avif", ".sgi", ".im", ".apng",
]  # fmt: skip


def writable() -> list[tuple[str, str]]:
    """Suffixes and modes that Pillow can write here, and read again."""
    return [
        (suffix, mode)
        for suffix in SUFFIXES
        for mode in MODES
        if suffix in suffixes() and _writes(suffix, mode)
    ]


def _writes(suffix: str, mode: str) -> bool:
    image = picture("L").convert("I").convert(mode) if mode == "I;16" else None
    try:
        file = BytesIO()
        (image or picture(mode)).save(file, Image.registered_extensions()[suffix])
        Image.open(file).load()
    except (OSError, ValueError, KeyError, SystemError):
        return False
    return True


PAIRS = writable()


def test_enough_formats_are_tried() -> None:
    assert len(PAIRS) >= 60
    assert {".jfif", ".gif", ".jpe"} <= suffixes()
    assert (".avif" in suffixes()) == features.check("avif")
    assert suffixes().isdisjoint({".pdf", ".eps", ".mpg", ".h5", ".txt"})


@pytest.mark.parametrize(("suffix", "mode"), PAIRS)
def test_a_picture_of_any_format_and_mode_is_right_or_one_sentence(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    path = tmp_path / f"a{suffix}"
    image = picture("L").convert("I").convert(mode) if mode == "I;16" else picture(mode)
    image.save(path, **({"quality": 95} if suffix in (".jpg", ".avif") else {}))
    with Image.open(path) as written:
        is_float = written.mode == "F"
    if is_float:
        with pytest.raises(PictureError, match="floating-point pixels have no known range"):
            decode(path)
        return
    pixels = decode(path)
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    if suffix != ".ico":  # Whose sizes are those of icons.
        assert tuple(pixels.shape[1:]) == SIZE[::-1]
    # 16-bit grey of values up to 255 is black.
    assert corner(pixels) == (0, 0) or mode in ("I", "I;16", "1")


def test_what_needs_other_programs_or_waits_is_not_opened(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(PictureError, match="it is not a picture of a known format"):
        decode(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(PictureError, match="it is no file"):
        decode(tmp_path / "b.png")


def test_of_several_frames_the_first_counts(tmp_path: Path) -> None:
    frames = [picture(), Image.new("RGB", SIZE, "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corner(decode(tmp_path / "a.gif")) == (0, 0)


def test_what_a_decoder_warns_of_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.warns(UserWarning, match=r"large\.png: Image size \(128 pixels\) exceeds limit"):
        decode(tmp_path / "large.png")
