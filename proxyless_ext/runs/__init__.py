"""Run folders: what a search or a training leaves behind, whole and exact after any kill."""

from .checkpoint import digest, load_checkpoint, save_checkpoint
from .checkpoints import Checkpoints
from .metrics import read_metrics
from .outcome import Outcome
from .records import (
    Beginning,
    Comparison,
    Competitor,
    Derivation,
    DeviceCosts,
    Epoch,
    Figures,
    Finalist,
    FinalistFigures,
    FinalistsEpoch,
    LimitFigures,
    Position,
    Result,
    ScoredNetwork,
    SearchEpoch,
    ShortListEpoch,
    TrainEpoch,
    network_name,
    phase_kind,
    phase_name,
    size_name,
)
from .run import Run, check_free, check_output, new_folder

__all__ = [
    "Beginning",
    "Checkpoints",
    "Comparison",
    "Competitor",
    "Derivation",
    "DeviceCosts",
    "Epoch",
    "Figures",
    "Finalist",
    "FinalistFigures",
    "FinalistsEpoch",
    "LimitFigures",
    "Outcome",
    "Position",
    "Result",
    "Run",
    "ScoredNetwork",
    "SearchEpoch",
    "ShortListEpoch",
    "TrainEpoch",
    "check_free",
    "check_output",
    "digest",
    "load_checkpoint",
    "network_name",
    "new_folder",
    "phase_kind",
    "phase_name",
    "read_metrics",
    "save_checkpoint",
    "size_name",
]
