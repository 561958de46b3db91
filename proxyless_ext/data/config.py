"""What a user can choose about the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..spaces import StrictModel

Augmentation = Literal["none", "crop", "standard"]
AutoAugmentation = Literal["none", "autoaugment", "randaugment", "trivialaugment"]
BadPicturePolicy = Literal["fatal", "skip"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class DataConfig(StrictModel):
    """Which pictures, and how they are split and augmented.

    Attributes:
        source: a folder of class folders, in parts such as `train`, `val` and `test` or without, a
            folder of shards, or a name: `digits`, `cifar10`, `fashion_mnist`. A name wins over a
            folder called so; write `./digits` for the folder.
        root: the folder that holds `cifar10` or `fashion_mnist`, as torchvision lays them out.
        download: fetch those where `root` lacks them.
        limit: train on only so many pictures, drawn at random and evenly over the classes.
        gate_fraction: the part of the training pictures that a search holds out for gate steps.
        val_fraction: the part held out for validation, of sources without validation pictures.
        augment: `standard` crops at random and mirrors all but digits; `crop` only crops.
        bad_pictures: whether an unreadable picture ends the run or is left out with a warning.
        bad_limit: how many a rank may leave out before that ends the run, too.
        workers: processes that read pictures, at most 1,024; 0 reads them in the main process.
    """

    source: str = "digits"
    root: str = "data"
    download: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    gate_fraction: Fraction = 0.5
    val_fraction: Fraction = 0.2
    augment: Augmentation = "standard"
    bad_pictures: BadPicturePolicy = "fatal"
    bad_limit: int = Field(1000, ge=0)
    workers: int = Field(0, ge=0, le=1024)


class Distortions(StrictModel):
    """What is done to the pictures of a training beside cropping and mirroring, in this order.

    What is covered gets the mean colour, by which pictures are normalised.

    Attributes:
        auto_augment: colours and shapes, as torchvision has it: `autoaugment` by the policy learnt
            on CIFAR-10 or, for pictures above 64 pixels, on ImageNet (Cubuk et al., 2019),
            `randaugment` (Cubuk et al., 2020) or `trivialaugment` (Mueller and Hutter, 2021).
        cutout: side of a square that is covered, in pixels; around a random pixel, so that a part
            of it may lie outside (DeVries and Taylor, 2017).
        random_erasing: how probable it is that a rectangle is covered, of 2 to 33 % of the picture
            (Zhong et al., 2020).
    """

    auto_augment: AutoAugmentation = "none"
    cutout: int = Field(0, ge=0)
    random_erasing: float = Field(0.0, ge=0, le=1)
