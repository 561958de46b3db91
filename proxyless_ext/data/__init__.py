"""Pictures: where they come from, how they are split, and batches as a function of the seed."""

from .bad_pictures import PictureError
from .batches import batches, batches_per_epoch, endless
from .checking import check_pictures
from .config import DataConfig, Distortions
from .device_decoding import check_decoder
from .indexing import index_shards
from .inventory import Inventory
from .pictures import Pictures, PictureSet, load_pictures, load_test_pictures
from .random_pictures import random_pictures
from .sharding import make_shards
from .shards import ShardIndex
from .sources import is_named_source, take_inventory
from .workers import WorkerError, worker_failures

__all__ = [
    "DataConfig",
    "Distortions",
    "Inventory",
    "PictureError",
    "PictureSet",
    "Pictures",
    "ShardIndex",
    "WorkerError",
    "batches",
    "batches_per_epoch",
    "check_decoder",
    "check_pictures",
    "endless",
    "index_shards",
    "is_named_source",
    "load_pictures",
    "load_test_pictures",
    "make_shards",
    "random_pictures",
    "take_inventory",
    "worker_failures",
]
