"""Search spaces and networks as data: what can be chosen, and what was.

Nothing here imports torch.
"""

from .architecture import (
    SMALL,
    Architecture,
    BatchNorm,
    BlockConfig,
    Normalisation,
    Stem,
    short_side,
)
from .builtin import BUILTIN, MBCONV_CANDIDATES, cifar_mbconv, imagenet, make_divisible
from .layers import Layer
from .operations import MBConvSpec, Operation, parse_operation
from .space import Edge, FirstBlock, Space, Stage
from .validation import Data, read_mapping, read_model, validate

__all__ = [
    "BUILTIN",
    "MBCONV_CANDIDATES",
    "SMALL",
    "Architecture",
    "BatchNorm",
    "BlockConfig",
    "Data",
    "Edge",
    "FirstBlock",
    "Layer",
    "MBConvSpec",
    "Normalisation",
    "Operation",
    "Space",
    "Stage",
    "Stem",
    "cifar_mbconv",
    "imagenet",
    "make_divisible",
    "parse_operation",
    "read_mapping",
    "read_model",
    "short_side",
    "validate",
]
