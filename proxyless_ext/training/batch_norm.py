"""What BatchNorm needs of a batch."""

from __future__ import annotations

from ..errors import UserError
from ..runtime import Runtime
from ..spaces import Architecture


def check_batch(
    architecture: Architecture,
    key: str,
    batch_size: int,
    pictures: int,
    runtime: Runtime,
    parts: int = 1,
) -> None:
    """Refuse batches that give a layer a single value per channel, whose variance is 0, or a rank
    nothing.

    Args:
        architecture: of the network, or of any of a space.
        key: the setting that `batch_size` is the value of.
        batch_size: pictures in a batch.
        pictures: how many there are.
        runtime: whose ranks share a batch.
        parts: that a rank computes one after the other.

    Raises:
        UserError: there are more ranks than pictures in a batch; or the smallest maps of the
            network have one pixel, and batches, or parts of a rank's slices of them, one picture.
    """
    pictures, world = min(batch_size, pictures), runtime.world
    if 1 < parts > pictures // world:
        shared = f" on {world} ranks" if world > 1 else ""
        raise UserError(
            f"a batch of {pictures} pictures{shared} cannot be divided into {parts} parts each; "
            f"raise {key} or lower parts or paths_per_step beside it"
        )
    if pictures < world:
        raise UserError(
            f"{world} ranks cannot share a batch of {pictures} pictures; raise {key} or start fewer"
        )
    smallest = min(layer.out_size for layer in architecture.layers())
    normalised = (pictures if runtime.sync_batch_norm else pictures // world) // parts
    if smallest == 1 and normalised == 1:
        raise UserError(
            f"'{architecture.name}' ends at 1x1 pixels, where a batch of one picture has a single "
            f"value per channel, which BatchNorm makes nothing of; raise {key} or the resolution"
        )
