"""Networks to compare with: the published ProxylessNAS networks, and yardsticks beside them."""

from .catalogue import NETWORKS, YARDSTICKS, architecture, build, names
from .published import import_config
from .results import RESULTS, PublishedResult

__all__ = [
    "NETWORKS",
    "RESULTS",
    "YARDSTICKS",
    "PublishedResult",
    "architecture",
    "build",
    "import_config",
    "names",
]
