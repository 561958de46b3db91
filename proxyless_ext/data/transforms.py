"""Transforms to square pictures: deterministic, augmenting, normalising.

torchvision is imported when one is made, because that takes long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..spaces import SMALL, Normalisation, short_side
from .config import Augmentation, Distortions

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


def distort(
    augment: v2.Transform, distortions: Distortions, resolution: int, normalisation: Normalisation
) -> v2.Transform:
    """uint8 [3, H, W] -> [3, R, R] with randomness from torch's global generator.

    Args:
        augment: comes before the distortions.
        distortions: of what it makes.
        resolution: R.
        normalisation: has the colour of what is covered.

    Raises:
        UserError: the cutout is no smaller than the picture.
    """
    from torchvision.transforms import v2

    colour = [round(255 * mean) for mean in normalisation.mean]
    steps = [augment]
    if distortions.auto_augment == "autoaugment":
        policies = v2.AutoAugmentPolicy
        learnt_on = policies.CIFAR10 if resolution <= SMALL else policies.IMAGENET
        steps.append(v2.AutoAugment(learnt_on))
    elif distortions.auto_augment == "randaugment":
        steps.append(v2.RandAugment())
    elif distortions.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide())
    if (side := distortions.cutout) >= resolution:
        raise UserError(
            f"train.cutout is {side}, and pictures have {resolution} pixels a side; lower it"
        )
    if side:
        steps.append(Cutout(side, torch.tensor(colour, dtype=torch.uint8)))
    if distortions.random_erasing:
        steps.append(v2.RandomErasing(distortions.random_erasing, value=colour))
    return v2.Compose(steps)


@dataclass(frozen=True)
class Cutout:
    """Covers a square, as much of it as lies inside (DeVries and Taylor, 2017).

    Attributes:
        side: of the square, in pixels; any pixel is equally probable as its centre.
        colour: that it gets, [C].
    """

    side: int
    colour: Tensor

    def __call__(self, picture: Tensor) -> Tensor:
        """[C, H, W] -> another picture, [C, H, W]."""
        from torchvision.transforms.v2 import functional

        height, width = picture.shape[-2:]
        top, bottom = self._span(height)
        left, right = self._span(width)
        colour = self.colour[:, None, None]
        covered: Tensor = functional.erase(picture, top, left, bottom - top, right - left, colour)
        return covered

    def _span(self, size: int) -> tuple[int, int]:
        start = int(torch.randint(size, ())) - self.side // 2
        return max(start, 0), min(start + self.side, size)


def normalise(normalisation: Normalisation) -> v2.Transform:
    """uint8 [..., 3, R, R] -> float32, normalised."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(normalisation.mean), list(normalisation.std)),
        ]
    )
