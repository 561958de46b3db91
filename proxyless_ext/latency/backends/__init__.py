"""What can run and time a network: one class a file, listed here."""

from __future__ import annotations

from ..conditions import BackendName, Conditions
from .base import Backend, Run
from .eager import Eager
from .onnxruntime import OnnxRuntime

__all__ = ["BACKENDS", "Backend", "Run", "make_backend"]

BACKENDS: dict[BackendName, type[Backend]] = {"eager": Eager, "onnxruntime": OnnxRuntime}


def make_backend(conditions: Conditions) -> Backend:
    """The backend that the conditions name.

    Raises:
        UserError: it cannot run on this machine's devices.
    """
    return BACKENDS[conditions.backend](conditions)
