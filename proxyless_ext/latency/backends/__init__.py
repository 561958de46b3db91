"""What can run and time a network: one class a file, listed here, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...errors import UserError
from ..conditions import Conditions
from .base import Backend, Run
from .command import Command
from .compile import Compile
from .eager import Eager
from .onnxruntime import OnnxRuntime

__all__ = ["BACKENDS", "Backend", "Run", "make_backend", "register_backend"]

BACKENDS: dict[str, type[Backend]] = {
    "eager": Eager,
    "compile": Compile,
    "onnxruntime": OnnxRuntime,
    "command": Command,
}

Registered = TypeVar("Registered", bound=type[Backend])


def register_backend(name: str) -> Callable[[Registered], Registered]:
    """Add a backend under a name, by which ``--backend`` finds it: a decorator of its class.

    What it measures counts as that of a remote device: it is run in turn, again where it fails or
    spreads, and kept in a journal.

    Raises:
        UserError: there is one of this name.
    """
    if name in BACKENDS:
        raise UserError(f"backend '{name}' is registered twice; rename one of the two")

    def register(backend: Registered) -> Registered:
        BACKENDS[name] = backend
        return backend

    return register


def make_backend(conditions: Conditions) -> Backend:
    """The backend that the conditions name.

    Raises:
        UserError: there is none, or it cannot run on this machine's devices.
    """
    if conditions.backend not in BACKENDS:
        raise UserError(
            f"there is no backend '{conditions.backend}'; use one of {', '.join(BACKENDS)}, or "
            "give the file that registers it with --plugin"
        )
    return BACKENDS[conditions.backend](conditions)
