"""The kernels for GPUs as NVRTC and CuPy compile them: headers, options, names of instances."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
FOLDER = "kernels/cuda/device"
TYPES = ("float", "__half", "__nv_bfloat16")
TYPES_OF_GATES = (*TYPES, "double")
NAMESPACE = "proxyless::cuda::"

# Each header's kernels with their template arguments behind the type of numbers; None for kernels
# that are no templates.
_SIZES = [f"{kernel}, {stride}" for kernel, stride in product((3, 5, 7), (1, 2))]
_OPERATIONS = [
    f"{NAMESPACE}{name}<{{T}}>" for name in ("Project", "ProjectBackward", "ExpandBackward")
]
_FACTORS = [f"{NAMESPACE}Factors::{name}" for name in ("kPlain", "kActivated", "kCentred")]
KERNELS: dict[str, dict[str, list[str] | None]] = {
    "expand_depthwise.cuh": {"expand_depthwise": _SIZES},
    "depthwise_backward.cuh": {"depthwise_backward": _SIZES},
    "pointwise.cuh": {"pointwise": _OPERATIONS},
    "pixel_products.cuh": {"pixel_products": _FACTORS},
    "gates.cuh": {"alpha_gradients": [""]},
    "norms.cuh": {
        "fold_norm": None,
        "combine_statistics": None,
        "combine_sums": None,
        "normalise": [""],
        "normalise_backward": [""],
        "column_sums": [""],
        "combine_probe": None,
        "sum_products": None,
    },
    "expand_norm.cuh": {"expand_statistics": [""], "expand_gradients": [""], "input_matrix": [""]},
    "layout.cuh": {
        "unfold": [""],
        "fold": [""],
        "arrange": [""],
        "sum_slices": [""],
        "finish_mean": None,
        "finish_covariance": None,
    },
}


def instances(header: str) -> Iterator[str]:
    """The C++ names of a header's kernels, one for each type and size."""
    types = TYPES_OF_GATES if header == "gates.cuh" else TYPES
    for kernel, arguments in KERNELS[header].items():
        if arguments is None:
            yield NAMESPACE + kernel
            continue
        for number, rest in product(types, arguments):
            behind = f", {rest.format(T=number)}" if rest else ""
            yield f"{NAMESPACE}{kernel}<{number}{behind}>"


def source(header: str) -> str:
    """What to compile for the kernels of a header."""
    return f'#include "{FOLDER}/{header}"\n'


def options(include: Path) -> list[str]:
    """Of NVRTC, given the folder of CUDA's own headers."""
    return ["-std=c++17", f"-I{CSRC}", f"-I{include}"]
