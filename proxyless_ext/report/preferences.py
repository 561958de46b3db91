"""What devices prefer: the depth, kernels and expansions of the networks found for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..spaces import Layer
from .words import square

Network = Sequence[Layer]
"""The searched blocks of a network."""

NOTICED = 0.4
"""A difference of means, in blocks, pixels of a kernel's side, or ratios, that is worth a word."""


@dataclass(frozen=True)
class Preference:
    """Means over the searched blocks of some networks.

    Attributes:
        places: that a network has for blocks.
        blocks: that it has there, those not counted that are skipped.
        kernel_size, expand_ratio: of its MBConvs; None where there is none.
    """

    places: float
    blocks: float
    kernel_size: float | None
    expand_ratio: float | None

    @classmethod
    def of(cls, networks: Sequence[Network]) -> Preference:
        """Over at least one network."""
        done = [[layer.spec for layer in network if not layer.is_skipped] for network in networks]
        looks = [spec.look for specs in done for spec in specs]
        kernels = [look.kernel_size for look in looks if look.kernel_size is not None]
        ratios = [look.expand_ratio for look in looks if look.expand_ratio is not None]
        return cls(
            places=fmean(map(len, networks)),
            blocks=fmean(map(len, done)),
            kernel_size=fmean(kernels) if kernels else None,
            expand_ratio=fmean(ratios) if ratios else None,
        )


def by_resolution(networks: Sequence[Network]) -> dict[int, Preference]:
    """Preferences by the resolution of blocks' outputs, the largest first."""
    sizes = sorted({layer.out_size for network in networks for layer in network}, reverse=True)
    return {size: Preference.of([at(network, size) for network in networks]) for size in sizes}


def at(network: Network, size: int) -> Network:
    """The blocks of a network that give pictures of a size."""
    return [layer for layer in network if layer.out_size == size]


def describe_preferences(networks: Mapping[str, Sequence[Network]]) -> list[str]:
    """A sentence for each device: how its networks differ from those for the other devices.

    Args:
        networks: found for each device, at least one; all for the same targets.
    """
    if len(networks) < 2:
        return []
    return [
        _describe(
            device, own, [each for other in networks if other != device for each in networks[other]]
        )
        for device, own in networks.items()
    ]


def _describe(device: str, own: Sequence[Network], others: Sequence[Network]) -> str:
    mine, theirs = Preference.of(own), Preference.of(others)
    told = []
    if abs(difference := mine.blocks - theirs.blocks) >= NOTICED:
        told.append(
            f"{'deeper' if difference > 0 else 'shallower'} ({mine.blocks:.1f} of "
            f"{mine.places:.0f} blocks against {theirs.blocks:.1f})"
        )
    for what, name, (more, less) in (
        ("kernels", "kernel_size", ("larger", "smaller")),
        ("expansions", "expand_ratio", ("wider", "narrower")),
    ):
        here, there = getattr(mine, name), getattr(theirs, name)
        if here is not None and there is not None and abs(here - there) >= NOTICED:
            told.append(
                f"{more if here > there else less} {what} ({here:.1f} against {there:.1f} on "
                f"average{_where(own, others, name, here - there)})"
            )
    if not told:
        return f"Networks for {device} have about the depth, kernels and expansions of the others."
    return f"Networks for {device}, beside the others: {', '.join(told)}."


def _where(own: Sequence[Network], others: Sequence[Network], name: str, overall: float) -> str:
    """The resolution at which a difference is largest, if it stands out there."""
    mine, theirs = by_resolution(own), by_resolution(others)
    differences = {
        size: (here - there) * (1 if overall > 0 else -1)
        for size in mine.keys() & theirs.keys()
        if (here := getattr(mine[size], name)) is not None
        and (there := getattr(theirs[size], name)) is not None
    }
    size = max(differences, key=differences.__getitem__)
    return f", most so at {square(size)}" if differences[size] > abs(overall) else ""
