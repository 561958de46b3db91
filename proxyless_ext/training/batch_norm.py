"""What BatchNorm needs of a batch."""

from __future__ import annotations

from ..errors import UserError
from ..spaces import Architecture


def check_batch(architecture: Architecture, key: str, batch_size: int, pictures: int) -> None:
    """Refuse batches that give a layer a single value per channel, whose variance is 0.

    Args:
        architecture: of the network, or of any of a space.
        key: the setting that `batch_size` is the value of.
        batch_size: pictures in a batch.
        pictures: how many there are.

    Raises:
        UserError: the smallest maps of the network have one pixel, and batches one picture.
    """
    smallest = min(layer.out_size for layer in architecture.layers())
    if smallest == 1 and min(batch_size, pictures) == 1:
        raise UserError(
            f"'{architecture.name}' ends at 1x1 pixels, where a batch of one picture has a single "
            f"value per channel, which BatchNorm makes nothing of; raise {key} or the resolution"
        )
