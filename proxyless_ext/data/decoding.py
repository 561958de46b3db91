"""From a picture file of any kind to RGB pixels."""

from __future__ import annotations

import io
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from .bad_pictures import PictureError
from .workers import WorkerError

Image.init()
FORMATS = sorted(set(Image.OPEN) - {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS"})
"""The formats that are read: not those that need other programs, or are no pictures."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF orientation, how a picture comes to stand upright."""

_SHORT = 3
"""EXIF's type of 16-bit numbers."""


def read(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        PictureError: the file cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError(path, "it is no file")  # Opening a pipe would wait for ever.
        return path.read_bytes()
    except OSError as error:
        raise PictureError(path, error.strerror or str(error)) from error


def is_plain_jpeg(content: bytes) -> bool:
    """Whether a file is a JPEG of grey or YCbCr pixels, which decoders besides Pillow know."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            return image.mode in ("L", "RGB")
    except Exception:  # `decode` says what is wrong with it.
        return False


def decode(path: Path, content: bytes | None = None) -> Tensor:
    """The picture as uint8 RGB [3, H, W], upright by its EXIF orientation, on white where clear.

    Of several frames the first counts. What the decoder warns of is said with the file's name.

    Args:
        path: of the file.
        content: of the file, where it is known; `path` is then only what messages call it.

    Raises:
        PictureError: the file cannot be read, is damaged, or is no picture that can become RGB.
        WorkerError: it may be, but there is too little memory.
    """
    if content is None:
        content = read(path)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                pixels = torch.from_numpy(np.array(_rgb(_upright(image)))).permute(2, 0, 1)
        except MemoryError as error:
            raise WorkerError(
                f"there is too little memory to decode {path}; lower data.workers or free some"
            ) from error
        except UnidentifiedImageError as error:
            raise PictureError(path, "it is not a picture of a known format") from error
        except Exception as error:  # Decoders meet damaged files with exceptions of many kinds.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PictureError(path, reason) from error
    for warning in met:
        # What is wrong with a camera's notes, which Pillow reads like a TIFF, does not matter.
        if image.format == "TIFF" or not warning.filename.endswith("TiffImagePlugin.py"):
            warnings.warn(f"{path}: {warning.message}", stacklevel=2)
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    """By the orientation alone: what else a camera wrote beside it is nobody's business here."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        orientation = _orientation(block.removeprefix(b"Exif\0\0"))
    else:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _orientation(block: bytes) -> int | None:
    """The orientation in an EXIF block, whose other entries may be broken; None if it has none.

    Pillow gives up at the first entry that it cannot read.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
        if (tag, kind) == (ExifTags.Base.Orientation, _SHORT):
            return int(value)
    return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow itself would clip it at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values lie outside 16 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
