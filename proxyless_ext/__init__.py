"""ProxylessNAS as software: search a network directly on your own pictures and hardware."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import spaces
from .errors import UserError
from .spaces import Architecture, Space, operation

if TYPE_CHECKING:
    from .nn import Edges, Identity, MBConv, MixedOp, Network, SuperNet, Zero

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
    "operation",
    "spaces",
]


def __getattr__(name: str) -> Any:
    """Modules, imported when they are asked for: the program has things to set before torch."""
    if name in __all__:
        return getattr(import_module(".nn", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
