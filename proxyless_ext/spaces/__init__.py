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
from .builtin import (
    BUILTIN,
    MBCONV_CANDIDATES,
    cifar_mbconv,
    imagenet,
    mobilenet_v3,
)
from .custom import CustomOperation, operation
from .layers import Layer
from .operations import (
    Activation,
    ConvSpec,
    IdentitySpec,
    Look,
    MBConvSpec,
    Operation,
    ProjectionSpec,
    ZeroSpec,
)
from .registry import load_plugins, parse_operation
from .space import Edge, EdgeGroup, FirstBlock, Resolutions, Space, Stage, WidthMults
from .validation import StrictModel, read_mapping, read_model, validate
from .widths import make_divisible

__all__ = [
    "BUILTIN",
    "MBCONV_CANDIDATES",
    "SMALL",
    "Activation",
    "Architecture",
    "BatchNorm",
    "BlockConfig",
    "ConvSpec",
    "CustomOperation",
    "Edge",
    "EdgeGroup",
    "FirstBlock",
    "IdentitySpec",
    "Layer",
    "Look",
    "MBConvSpec",
    "Normalisation",
    "Operation",
    "ProjectionSpec",
    "Resolutions",
    "Space",
    "Stage",
    "Stem",
    "StrictModel",
    "WidthMults",
    "ZeroSpec",
    "cifar_mbconv",
    "imagenet",
    "load_plugins",
    "make_divisible",
    "mobilenet_v3",
    "operation",
    "parse_operation",
    "read_mapping",
    "read_model",
    "short_side",
    "validate",
]
