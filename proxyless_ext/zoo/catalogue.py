"""Building the networks of the zoo by name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..errors import UserError
from ..nn import Network
from ..spaces import Architecture, validate

IMAGENET = ("proxyless_gpu", "proxyless_cpu", "proxyless_mobile", "proxyless_mobile_14")
NETWORKS = (*IMAGENET, "proxyless_cifar")
YARDSTICKS = ("mobilenet_v2", "mnasnet1_0")
WIDTHS = (0.35, 0.5, 0.75, 1.0)
"""Multipliers of their channels, to compare networks of different latencies with."""


def names() -> list[str]:
    """All names that `build` knows: the published networks (`NETWORKS`), then the `YARDSTICKS`."""
    return [*NETWORKS, *YARDSTICKS]


def architecture(name: str, num_classes: int | None = None) -> Architecture:
    """The architecture of a published network, for pictures of 224 pixels, or 32 of CIFAR-10.

    Source: the configurations in the ProxylessNAS release (arXiv 1812.00332).

    Args:
        name: one of `NETWORKS`.
        num_classes: as published if None, by name where that is CIFAR-10.

    Raises:
        UserError: it is not one of `NETWORKS`, or `num_classes` is below 1.
    """
    if name in YARDSTICKS:
        raise UserError(
            f"'{name}' comes from torchvision and has no architecture file; "
            "take the network itself from zoo.build"
        )
    _check_name(name)
    published = Architecture.load(Path(__file__).with_name(f"{name}.json"))
    if num_classes is None:
        return published
    fields = {**dict(published), "num_classes": num_classes, "classes": None}
    return validate(Architecture, fields, name)


def build(name: str, num_classes: int | None = None) -> nn.Module:
    """A network of the zoo with fresh weights, a `Network` unless it is a yardstick.

    Args:
        name: one of `names`.
        num_classes: as published if None.

    Shape:
        [N, 3, H, W] -> logits [N, num_classes]; any H and W, those published being 224, or 32 for
        CIFAR-10.

    Raises:
        UserError: no network of the zoo has this name, or `num_classes` is below 1.
    """
    _check_name(name)
    if name in NETWORKS:
        return Network(architecture(name, num_classes))
    if num_classes is None:
        num_classes = 1000
    if num_classes < 1:
        raise UserError(f"{name} needs at least 1 class, not {num_classes}")
    from torchvision import models  # Here, because it takes long to import.

    network: nn.Module = models.get_model(name, num_classes=num_classes)
    return network


def build_yardstick(name: str, num_classes: int, width_mult: float) -> nn.Module:
    """One of the `YARDSTICKS` with its channels times `width_mult`, and fresh weights."""
    from torchvision import models  # Here, because it takes long to import.

    if name == "mobilenet_v2":
        network: nn.Module = models.mobilenet_v2(num_classes=num_classes, width_mult=width_mult)
    else:
        network = models.MNASNet(width_mult, num_classes=num_classes)
    return network


def _check_name(name: str) -> None:
    if name not in names():
        raise UserError(
            f"no network of the zoo is called '{name}'; choose from {', '.join(names())}"
        )
