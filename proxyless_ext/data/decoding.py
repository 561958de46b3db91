"""From a picture file of any kind to RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional

from .bad_pictures import PictureError


def decode(path: Path) -> Tensor:
    """The picture as uint8 RGB [3, H, W], upright by its EXIF orientation, on white where clear.

    Raises:
        PictureError: the file cannot be read, is damaged, or is no picture that can become RGB.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return functional.pil_to_tensor(_rgb(image))
    except UnidentifiedImageError as error:
        raise PictureError(path, "it is not a picture of a known format") from error
    except Exception as error:  # Decoders meet damaged files with exceptions of many kinds.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PictureError(path, reason) from error


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
