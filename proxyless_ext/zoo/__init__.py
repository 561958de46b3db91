"""Networks to compare with: the published ProxylessNAS networks, and yardsticks beside them."""

from .catalogue import (
    IMAGENET,
    NETWORKS,
    WIDTHS,
    YARDSTICKS,
    architecture,
    build,
    build_yardstick,
    names,
)
from .published import import_config
from .results import RESULTS, PublishedResult

__all__ = [
    "IMAGENET",
    "NETWORKS",
    "RESULTS",
    "WIDTHS",
    "YARDSTICKS",
    "PublishedResult",
    "architecture",
    "build",
    "build_yardstick",
    "import_config",
    "names",
]
