"""Transforms to square pictures: deterministic, augmenting, normalising.

torchvision is imported when one is made, because that takes long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..spaces import SMALL, Normalisation, short_side
from .config import Augmentation

if TYPE_CHECKING:
    from torchvision.transforms import v2


def fit(resolution: int) -> v2.Transform:
    """uint8 [3, H, W] -> [3, R, R]: the short side resized, then the centre cropped."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(short_side(resolution)), v2.CenterCrop(resolution)])


def augment(augmentation: Augmentation, resolution: int, mirrors: bool) -> v2.Transform:
    """uint8 [3, H, W] -> [3, R, R] with randomness from torch's global generator.

    Up to `SMALL` the crop is one of the picture with a black border of R/8 (4 at 32 pixels), above
    it is of random size and aspect ratio: the usual recipes for CIFAR and ImageNet. Pictures are
    mirrored only if `mirrors`.
    """
    from torchvision.transforms import v2

    if augmentation == "none":
        return fit(resolution)
    if resolution <= SMALL:
        crop = [fit(resolution), v2.RandomCrop(resolution, padding=resolution // 8)]
    else:
        crop = [v2.RandomResizedCrop(resolution)]
    mirror = [v2.RandomHorizontalFlip()] if mirrors and augmentation == "standard" else []
    return v2.Compose([*crop, *mirror])


def normalise(normalisation: Normalisation) -> v2.Transform:
    """uint8 [..., 3, R, R] -> float32, normalised."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(normalisation.mean), list(normalisation.std)),
        ]
    )
