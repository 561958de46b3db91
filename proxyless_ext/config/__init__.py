"""What can be set: the configuration of a run, by YAML files and options."""

from .config import Aim, Config
from .latency import LatencyConfig
from .reading import load_config, parse_override, read_devices
from .sections import (
    ComparisonConfig,
    DeriveConfig,
    GatesConfig,
    OptimizerConfig,
    RuntimeConfig,
    SearchConfig,
    SpaceConfig,
    SupernetConfig,
    TrainConfig,
    WarmupConfig,
)

__all__ = [
    "Aim",
    "ComparisonConfig",
    "Config",
    "DeriveConfig",
    "GatesConfig",
    "LatencyConfig",
    "OptimizerConfig",
    "RuntimeConfig",
    "SearchConfig",
    "SpaceConfig",
    "SupernetConfig",
    "TrainConfig",
    "WarmupConfig",
    "load_config",
    "parse_override",
    "read_devices",
]
