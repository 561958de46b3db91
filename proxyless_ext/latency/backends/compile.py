"""PyTorch's compiler, torch.compile, on the CPU or a CUDA device."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import FunctionType
from typing import cast

import torch
from torch import Tensor, nn

from ...compilers import cxx
from ...errors import UserError
from ..conditions import Conditions
from .base import Run, torch_threads
from .eager import Eager


class Compile(Eager):
    """Compiles the module, plain layers in one graph for inputs of one shape, and calls that.

    Raises:
        UserError: there is no C++ compiler, which the CPU's code needs.
    """

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        if conditions.device == "cpu" and shutil.which(cxx()) is None:
            raise UserError(
                f"torch.compile needs a C++ compiler, and there is no program '{cxx()}'; install "
                "it, name another in the environment variable CXX, or use backend eager"
            )
        self.threads = conditions.threads

    def build(self, module: nn.Module, example: Tensor) -> Run:
        network, batch = self.prepare(module, example)
        compiled = torch.compile(_with_own_code(network), fullgraph=True, dynamic=False)
        # Compiled by the first call, for as many threads as there are then.
        with torch_threads(self.threads), torch.inference_mode():
            try:
                compiled(batch)
            except Exception as error:
                raise UserError(
                    f"torch.compile fails on {type(module).__name__}: {_reason(error)}; measure it "
                    "with backend eager"
                ) from error
        return self.timed(compiled, batch)


def _with_own_code(network: nn.Module) -> Callable[[Tensor], object]:
    """A function that calls a network.

    The compiler keeps what it compiles with the code of a function and gives up after eight
    modules, each of which slows the calls of all others: so each gets a function of its own.
    """

    def call(x: Tensor) -> object:
        return network(x)

    own = FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)
    return cast(Callable[[Tensor], object], own)


def _reason(error: Exception) -> str:
    """What went wrong, in a line, without what the compiler says of itself."""
    inner = getattr(error, "inner_exception", error)
    said = str(inner).strip().splitlines() or [type(inner).__name__]
    return said[0]
