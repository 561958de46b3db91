"""ProxylessNAS as software: search a network directly on your own pictures and hardware."""

from . import spaces
from .errors import UserError
from .nn import Edges, Identity, MBConv, MixedOp, Network, SuperNet, Zero
from .spaces import Architecture, Space

__all__ = [
    "Architecture",
    "Edges",
    "Identity",
    "MBConv",
    "MixedOp",
    "Network",
    "Space",
    "SuperNet",
    "UserError",
    "Zero",
    "spaces",
]
