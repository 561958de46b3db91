"""Run folders: what a search or a training leaves behind, whole and exact after any kill."""

from .checkpoint import load_checkpoint, save_checkpoint
from .metrics import read_metrics
from .run import Run

__all__ = ["Run", "load_checkpoint", "read_metrics", "save_checkpoint"]
