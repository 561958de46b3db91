"""The one door to the compiled code: loads it, and says how to build it where it is missing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from ._C import BuildInfo

_OPS = Path(__file__).with_name("_ops.so")
CUDA_OPS = Path(__file__).with_name("_ops_cuda.so")


def native() -> ModuleType:
    """Return the compiled module `proxyless_ext._C`."""
    try:
        import proxyless_ext._C
    except ImportError as error:
        raise _missing(error) from error
    return proxyless_ext._C


def load_ops() -> None:
    """Load the operators, which are then in `torch.ops.proxyless`.

    Those for GPUs are loaded where they were built, if torch is a build with CUDA.
    """
    import torch

    try:
        torch.ops.load_library(_OPS)
        if _has_cuda_ops():
            torch.ops.load_library(CUDA_OPS)
    except OSError as error:
        raise _missing(error) from error


def cuda_ops_loaded() -> bool:
    """Whether `load_ops` has loaded operators for GPUs, too."""
    import torch

    # Which holds resolved paths.
    return str(CUDA_OPS.resolve()) in torch.ops.loaded_libraries


def _has_cuda_ops() -> bool:
    import torch

    return torch.version.cuda is not None and CUDA_OPS.exists()


def _missing(error: Exception) -> UserError:
    return UserError(
        f"The compiled part of proxyless_ext cannot be loaded ({error}): build it with "
        "`pip install --no-build-isolation .` in the source folder."
    )


def build_info() -> BuildInfo:
    """Say how the compiled module was built: version, compiler, flags and target system."""
    return native().build_info()


def supported_isas() -> list[str]:
    """List the instruction sets that this CPU can use, best first."""
    return native().supported_isas()


def selected_isa() -> str:
    """Name the instruction set that CPU kernels use.

    It is the best one this CPU has, or the one that the environment variable PROXYLESS_CPU_ISA
    names.
    """
    try:
        return native().selected_isa()
    except ValueError as error:
        raise UserError(str(error)) from None
