"""ProxylessNAS as software: search a network directly on your own pictures and hardware."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import spaces
from .errors import UserError
from .spaces import Architecture, Space, operation

if TYPE_CHECKING:
    from . import ops, zoo
    from .latency import Costs, LatencyTable
    from .nn import Edges, Identity, MBConv, MixedOp, Network, SuperNet, Zero, derive, wrap
    from .search import Search

    __version__: str

__all__ = [
    "Architecture",
    "Costs",
    "Edges",
    "Identity",
    "LatencyTable",
    "MBConv",
    "MixedOp",
    "Network",
    "Search",
    "Space",
    "SuperNet",
    "UserError",
    "Zero",
    "__version__",
    "derive",
    "operation",
    "ops",
    "spaces",
    "wrap",
    "zoo",
]

_HOMES = {"Costs": ".latency", "LatencyTable": ".latency", "Search": ".search"}
"""Where names are that are not in `nn`."""


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is asked for: the program has things to set before."""
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name in ("ops", "zoo"):
        return import_module(f".{name}", __name__)
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, ".nn"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
