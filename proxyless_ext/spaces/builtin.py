"""The spaces that come with the package."""

from __future__ import annotations

from collections.abc import Sequence

from .architecture import BatchNorm, Stem
from .space import FirstBlock, Space, Stage
from .validation import validate

MBCONV_CANDIDATES = ("k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6", "zero")


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


BUILTIN = {"imagenet": imagenet, "cifar_mbconv": cifar_mbconv, "mobilenet_v3": mobilenet_v3}
