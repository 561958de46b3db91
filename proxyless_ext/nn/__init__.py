"""Modules: candidates, MixedOp, the supernet and the networks derived from it."""

from .derivation import derive
from .drop_path import set_drop_rates
from .edges import Edges, GateMode, GateStep
from .layers import ConvBNAct, Zero
from .mbconv import MBConv
from .mixed_op import MixedOp
from .network import Classifier, Network, SuperNet, build_block
from .pools import Identity
from .pre_activated import Separable
from .profile import count_macs, count_parameters
from .sharing import SharedWeights, share_weights
from .sliced import Slices
from .statistics import batch_statistics, frozen_statistics
from .synchronised import SynchronisedBatchNorm, synchronise
from .wrapping import wrap

__all__ = [
    "Classifier",
    "ConvBNAct",
    "Edges",
    "GateMode",
    "GateStep",
    "Identity",
    "MBConv",
    "MixedOp",
    "Network",
    "Separable",
    "SharedWeights",
    "Slices",
    "SuperNet",
    "SynchronisedBatchNorm",
    "Zero",
    "batch_statistics",
    "build_block",
    "count_macs",
    "count_parameters",
    "derive",
    "frozen_statistics",
    "set_drop_rates",
    "share_weights",
    "synchronise",
    "wrap",
]
