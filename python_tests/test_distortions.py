"""What is done to pictures that networks are trained on, beside cropping and mirroring."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from proxyless_ext.config import load_config
from proxyless_ext.data import DataConfig, Distortions, PictureSet, batches, load_pictures
from proxyless_ext.data.sources import CIFAR10
from proxyless_ext.data.transforms import Cutout, distort
from proxyless_ext.errors import UserError

MEAN = [round(255 * mean) for mean in CIFAR10.mean]
EVERYTHING = {"cutout": 3, "random_erasing": 0.5}


def distortion(resolution: int, **settings: Any) -> v2.Transform:
    return distort(v2.Identity(), Distortions(**settings), resolution, CIFAR10)


def covered(before: Tensor, after: Tensor) -> np.ndarray:
    """Where a picture was covered; the rest is as it was."""
    mask = (after == torch.tensor(MEAN, dtype=torch.uint8)[:, None, None]).all(dim=0)
    assert torch.equal(before[:, ~mask], after[:, ~mask])
    return mask.numpy()


def train_pictures(**settings: Any) -> PictureSet:
    config = DataConfig(limit=40)
    return load_pictures(config, 8, 0, distortions=Distortions(**settings)).train


@given(
    side=st.integers(1, 12),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_cutout_is_the_published_square(side: int, height: int, width: int, seed: int) -> None:
    """Pixel by pixel: those at most half a side from a centre drawn inside the picture."""
    picture = torch.full((3, height, width), 9, dtype=torch.uint8)
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8)
    torch.manual_seed(seed)
    found = Cutout(side, colour)(picture)
    torch.manual_seed(seed)
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    for y in range(height):
        for x in range(width):
            offsets = (y - row + side // 2, x - column + side // 2)
            expected = [1, 2, 3] if all(0 <= each < side for each in offsets) else [9, 9, 9]
            assert found[:, y, x].tolist() == expected
    assert (picture == 9).all()


def test_every_pixel_is_a_centre_as_often() -> None:
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    transform = distortion(4, cutout=1)
    torch.manual_seed(0)
    hits = sum(covered(picture, transform(picture)).astype(int) for _ in range(800))
    assert hits.sum() == 800
    assert ((hits > 20) & (hits < 85)).all()  # 50 expected, sd 6.8.


def test_random_erasing_covers_a_rectangle_as_often_as_it_is_told() -> None:
    picture = torch.zeros(3, 24, 24, dtype=torch.uint8)
    transform = distortion(24, random_erasing=0.25)
    torch.manual_seed(0)
    masks = [covered(picture, transform(picture)) for _ in range(400)]
    erased = [mask for mask in masks if mask.any()]
    assert 70 < len(erased) < 130
    for mask in erased:
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == rows * columns
        assert 0.01 < mask.mean() < 0.36


def test_covered_pixels_are_the_mean_after_normalisation() -> None:
    pictures = train_pictures(cutout=7)
    torch.manual_seed(0)
    normalised, _ = pictures[0]
    step = torch.tensor([1 / 255]) / min(pictures.normalise.transforms[1].std)
    assert (normalised.abs() <= step / 2).float().mean() > 0.1


@pytest.mark.parametrize(
    ("name", "resolution", "reference"),
    [
        ("autoaugment", 32, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
        ("autoaugment", 72, v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)),
        ("randaugment", 32, v2.RandAugment()),
        ("trivialaugment", 32, v2.TrivialAugmentWide()),
    ],
)
def test_policies_are_those_of_torchvision(
    name: str, resolution: int, reference: v2.Transform
) -> None:
    picture = torch.randint(256, (3, resolution, resolution), dtype=torch.uint8)
    results = []
    for transform in (distortion(resolution, auto_augment=name), reference):
        torch.manual_seed(0)
        results.append([transform(picture) for _ in range(10)])
    assert all(map(torch.equal, *results))
    assert not all(torch.equal(picture, each) for each in results[0])


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_they_depend_on_seed_phase_epoch_and_index_alone(policy: str) -> None:
    pictures = train_pictures(auto_augment=policy, **EVERYTHING)
    pictures = pickle.loads(pickle.dumps(pictures))  # As spawned workers get it.

    def read(*key: Any, **settings: Any) -> list[Tensor]:
        return [each for each, _ in batches(pictures, 10, *key, **settings)]

    alone = read(0, "train", 1)
    assert all(map(torch.equal, alone, read(0, "train", 1, workers=2)))
    assert all(map(torch.equal, alone[2:], read(0, "train", 1, start=2)))
    first, second = (read(0, "train", 1, rank=rank, world=2) for rank in (0, 1))
    assert all(map(torch.equal, alone, map(torch.cat, zip(first, second, strict=True))))
    for other in ((1, "train", 1), (0, "finalists", 1), (0, "train", 2)):
        assert not any(map(torch.equal, alone, read(*other)))


def test_only_trainings_have_them() -> None:
    plain = load_pictures(DataConfig(limit=40), 8, 0)
    given = load_pictures(DataConfig(limit=40), 8, 0, distortions=Distortions(cutout=7))
    for name in ("train", "train_weights", "train_gates", "val"):
        before, after = ([*batches(getattr(each, name), 5, 0, "a", 0)] for each in (plain, given))
        same = all(torch.equal(a, b) for (a, _), (b, _) in zip(before, after, strict=True))
        assert same == (name != "train")


@pytest.mark.parametrize("cutout", [8, 16])
def test_a_cutout_that_does_not_fit(cutout: int) -> None:
    with pytest.raises(UserError, match=f"train.cutout is {cutout}, and pictures have 8 pixels"):
        train_pictures(cutout=cutout)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("cutout", -1, "greater than or equal to 0"),
        ("random_erasing", 1.5, "less than or equal to 1"),
        ("auto_augment", "augmix", "'trivialaugment'"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, key: str, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"'train\.{key}' is .*{says}"):
        load_config(None, {f"train.{key}": value})
