"""The spaces that come with the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import UserError
from .architecture import BatchNorm, Stem
from .space import FirstBlock, Space, Stage
from .validation import validate

MBCONV_CANDIDATES = ("k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6", "zero")
TREE_CANDIDATES = ("identity", "sep3", "sep5", "sep7", "sep3d2", "avgpool3", "maxpool3")


def imagenet(num_classes: int = 1000, width_mult: float = 1.0, resolution: int = 224) -> Space:
    """The space of the paper: 21 edges, 2.2e17 networks, a supernet of 16.034 M parameters at width
    1.
    """
    return _mbconv_space(
        name="imagenet",
        num_classes=num_classes,
        width_mult=width_mult,
        resolution=resolution,
        stem_stride=2,
        stages=[(24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)],
        feature_mix=1280,
    )


def cifar_mbconv(num_classes: int = 10, width_mult: float = 1.0, resolution: int = 32) -> Space:
    """The same candidates for 32x32 pictures: 16 edges in 6 stages, total stride 8."""
    return _mbconv_space(
        name="cifar_mbconv",
        num_classes=num_classes,
        width_mult=width_mult,
        resolution=resolution,
        stem_stride=1,
        stages=[(24, 3, 1), (40, 3, 2), (80, 3, 2), (96, 3, 1), (160, 3, 2), (240, 1, 1)],
        feature_mix=640,
    )


def _mbconv_space(
    name: str,
    num_classes: int,
    width_mult: float,
    resolution: int,
    stem_stride: int,
    stages: Sequence[tuple[int, int, int]],
    feature_mix: int,
) -> Space:
    """`stages` are (channels, cells, stride) at width 1."""
    fields = {
        "name": name,
        "resolution": resolution,
        "num_classes": num_classes,
        "stem": Stem(out_channels=32, stride=stem_stride),
        "first_block": FirstBlock(channels=16),
        "candidates": MBCONV_CANDIDATES,
        "stages": [
            Stage(channels=channels, cells=cells, stride=stride)
            for channels, cells, stride in stages
        ],
        "feature_mix": feature_mix,
    }
    return validate(Space, fields, f"space '{name}'").resized(width_mult)


def mobilenet_v3(num_classes: int = 1000, width_mult: float = 1.0, resolution: int = 224) -> Space:
    """The space of once-for-all (Cai et al., 2020): 20 searched edges, 3.5e19 networks.

    Each of five stages has two blocks to four, since the last two can be left out. Their kernels
    are 3, 5 or 7 and their expansion ratios 3, 4 or 6; activations and squeeze-and-excitation are
    those of MobileNetV3.
    """
    # Of each stage: channels at width 1, stride, and what its blocks have besides.
    stages = [
        (24, 2, "_relu"),
        (40, 2, "_se_relu"),
        (80, 2, "_hswish"),
        (112, 1, "_se_hswish"),
        (160, 2, "_se_hswish"),
    ]
    blocks = [Stage(channels=16, cells=1, candidates=("k3e1_relu",))]
    for channels, stride, features in stages:
        names = tuple(f"k{kernel}e{ratio}{features}" for kernel in (3, 5, 7) for ratio in (3, 4, 6))
        blocks.append(Stage(channels=channels, cells=2, stride=stride, candidates=names))
        blocks.append(Stage(channels=channels, cells=2, candidates=(*names, "zero")))
    fields = {
        "name": "mobilenet_v3",
        "resolution": resolution,
        "num_classes": num_classes,
        "stem": Stem(out_channels=16),
        "stages": blocks,
        "activation": "hswish",
        "feature_mix": 960,
        "pooled_mix": 1280,
        "dropout": 0.1,
        "batch_norm": BatchNorm(eps=1e-5),
    }
    return validate(Space, fields, "space 'mobilenet_v3'").resized(width_mult)


def cifar_tree(
    num_classes: int = 10,
    width_mult: float = 1.0,
    resolution: int = 32,
    blocks: int = 18,
    growth: float = 336,
    tree: str = "tree_split2_copy2_copy2",
    candidates: Sequence[str] = TREE_CANDIDATES,
) -> Space:
    """The paper's space for CIFAR-10 (section 4.1): 54 blocks around trees, 756 edges, 7^756
    networks.

    Args:
        num_classes: of the pictures.
        width_mult: multiplies all widths.
        resolution: of the pictures, in pixels.
        blocks: of each of the three stages.
        growth: channels that the last block has more than 64, those between growing evenly.
        tree: the operation of every block: ``split`` or ``copy``, then ``copy`` for every other
            level, each with its number of branches.
        candidates: of every edge.

    Raises:
        UserError: a width or number cannot be, the tree is none, or a candidate does not fit.
    """
    if blocks < 1 or not (0 <= growth < math.inf):
        raise UserError(
            f"blocks is {blocks} and growth {growth}; give at least one block a stage, and a "
            "growth that is not negative"
        )
    last = 3 * blocks
    stages = [
        Stage(
            channels=_pyramid_width(64 + growth * number / last),
            cells=1,
            stride=2 if number in (blocks + 1, 2 * blocks + 1) else 1,
        )
        for number in range(1, last + 1)
    ]
    fields = {
        "name": "cifar_tree",
        "resolution": resolution,
        "num_classes": num_classes,
        "stem": Stem(out_channels=16, stride=1),
        "candidates": tuple(candidates),
        "block": tree,
        "stages": stages,
        "activation": "relu",
        "pre_activation": True,
        "batch_norm": BatchNorm(eps=1e-5),
    }
    return validate(Space, fields, "space 'cifar_tree'").resized(width_mult)


def _pyramid_width(channels: float) -> int:
    """By the rule of the published widths: a quarter of it is rounded, then made even."""
    return round(channels / 4) // 2 * 8


BUILTIN: dict[str, Callable[..., Space]] = {
    "imagenet": imagenet,
    "cifar_mbconv": cifar_mbconv,
    "cifar_tree": cifar_tree,
    "mobilenet_v3": mobilenet_v3,
}
