"""Random pictures, to time steps with where the real ones are not at hand."""

from __future__ import annotations

import torch

from ..seeding import generator
from ..spaces import Normalisation
from .bad_pictures import BadPictures
from .inventory import Inventory
from .parts import MemoryReader, Part
from .pictures import Pictures, PictureSet
from .transforms import normalise


def random_pictures(classes: int, resolution: int, number: int) -> Pictures:
    """So many pictures uint8 [3, R, R] of noise, of classes in turn, which all parts share."""
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)
    shape = (number, 3, resolution, resolution)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator(0, "pictures"))
    part = Part.of(MemoryReader(images), torch.arange(number) % classes)
    pictures = PictureSet(part, torch.nn.Identity(), normalise(normalisation), BadPictures("fatal"))
    names = tuple(map(str, range(classes)))
    return Pictures(
        classes=names,
        train=pictures,
        train_weights=pictures,
        train_gates=pictures,
        val=pictures,
        normalisation=normalisation,
        inventory=Inventory.of(names, {}),
        left_out={},
    )
