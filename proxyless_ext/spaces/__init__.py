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
    TREE_CANDIDATES,
    cifar_mbconv,
    cifar_tree,
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
    PoolSpec,
    ProjectionSpec,
    SeparableSpec,
    ZeroSpec,
)
from .registry import load_plugins, parse_operation
from .space import (
    Edge,
    EdgeGroup,
    FirstBlock,
    Resolutions,
    SearchedBlock,
    Space,
    Stage,
    WidthMults,
)
from .tree import TreeSpec
from .validation import StrictModel, read_mapping, read_model, validate
from .widths import make_divisible

__all__ = [
    "BUILTIN",
    "MBCONV_CANDIDATES",
    "SMALL",
    "TREE_CANDIDATES",
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
    "PoolSpec",
    "ProjectionSpec",
    "Resolutions",
    "SearchedBlock",
    "SeparableSpec",
    "Space",
    "Stage",
    "Stem",
    "StrictModel",
    "TreeSpec",
    "WidthMults",
    "ZeroSpec",
    "cifar_mbconv",
    "cifar_tree",
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
