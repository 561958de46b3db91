"""What torch.compile is told or needs, without its import: that takes a second, and few processes
compile.

The marks are what `torch.compiler.disable` and `torch.compiler.assume_constant_result` do once
torch's compiler is there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled(
    function: Callable[Arguments, Result], recursive: bool = True
) -> Callable[Arguments, Result]:
    """The function, which compilers leave as it is.

    Args:
        function: what to call.
        recursive: whether what it calls is left as it is, too.
    """
    return torch._disable_dynamo(function, recursive)


def constant(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, which compilers call once, and take its result as given from then on."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def cxx() -> str:
    """The C++ compiler that torch.compile calls for a CPU, whether or not it is there."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
