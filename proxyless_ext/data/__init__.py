"""Pictures: where they come from, how they are split, and batches as a function of the seed."""

from .bad_pictures import PictureError
from .batches import batches, batches_per_epoch, endless
from .config import DataConfig
from .pictures import Pictures, PictureSet, load_pictures

__all__ = [
    "DataConfig",
    "PictureError",
    "PictureSet",
    "Pictures",
    "batches",
    "batches_per_epoch",
    "endless",
    "load_pictures",
]
