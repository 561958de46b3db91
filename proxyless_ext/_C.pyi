from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

# Pictures, weights and per-channel vectors of a call have one dtype, float32 or float64.
_Float = TypeVar("_Float", np.float32, np.float64)

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cxx_standard: int
    build_type: str
    flags: str
    system: str
    architecture: str

class MBConvPlan(TypedDict):
    chunk: int
    chunks: int
    slices: int
    moments_bytes: int
    forward_bytes: int
    backward_bytes: int
    probe_bytes: int

__version__: str

def build_info() -> BuildInfo: ...
def supported_isas() -> list[str]: ...
def selected_isa() -> str: ...
def mbconv_plan(
    batch: int,
    height: int,
    width: int,
    in_channels: int,
    hidden: int,
    out_channels: int,
    kernel: int,
    stride: int,
    expand_kernel: int = 1,
    expand_stride: int = 1,
    dtype: str = "float32",
    isa: str | None = None,
) -> MBConvPlan: ...
def cuda_mbconv_chunks(
    batch: int,
    height: int,
    width: int,
    in_channels: int,
    hidden: int,
    out_channels: int,
    kernel: int,
    stride: int,
    expand_kernel: int = 1,
    expand_stride: int = 1,
    dtype: str = "float32",
    l2_bytes: int = ...,
) -> tuple[int, int]: ...
def mbconv_moments(
    x: NDArray[_Float],
    kernel: int,
    stride: int,
    threads: int = 1,
    isa: str | None = None,
) -> NDArray[np.float64]: ...
def mbconv_forward(
    x: NDArray[_Float],
    expand: NDArray[_Float] | None,
    depthwise: NDArray[_Float],
    project: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    mean: NDArray[_Float] | None = None,
    var: NDArray[_Float] | None = None,
    eps: float = 1e-3,
    stride: int = 1,
    expand_stride: int = 1,
    residual: bool = False,
    save: bool = True,
    threads: int = 1,
    isa: str | None = None,
) -> tuple[
    NDArray[_Float],  # y
    NDArray[_Float] | None,  # p
    NDArray[_Float],  # mean
    NDArray[_Float],  # var
    NDArray[np.float64] | None,  # moments
]: ...
def mbconv_gate_probe(
    grad: NDArray[_Float],
    x: NDArray[_Float],
    expand: NDArray[_Float] | None,
    depthwise: NDArray[_Float],
    project: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    mean: NDArray[_Float] | None = None,
    var: NDArray[_Float] | None = None,
    moments: NDArray[np.float64] | None = None,
    eps: float = 1e-3,
    stride: int = 1,
    expand_stride: int = 1,
    threads: int = 1,
    isa: str | None = None,
) -> float: ...
def mbconv_backward(
    grad: NDArray[_Float],
    x: NDArray[_Float],
    expand: NDArray[_Float] | None,
    depthwise: NDArray[_Float],
    project: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    p: NDArray[_Float],
    mean: NDArray[_Float],
    var: NDArray[_Float],
    moments: NDArray[np.float64] | None = None,
    eps: float = 1e-3,
    stride: int = 1,
    expand_stride: int = 1,
    residual: bool = False,
    batch_statistics: bool = True,
    input_grad: bool = True,
    weight_grads: bool = True,
    threads: int = 1,
    isa: str | None = None,
) -> tuple[
    NDArray[_Float] | None,  # dx
    NDArray[_Float] | None,  # dexpand
    NDArray[_Float] | None,  # ddepthwise
    NDArray[_Float] | None,  # dproject
    NDArray[_Float] | None,  # dscale
    NDArray[_Float] | None,  # dshift
]: ...
def separable_statistics(
    x: NDArray[_Float],
    threads: int = 1,
    isa: str | None = None,
) -> tuple[NDArray[_Float], NDArray[_Float]]: ...
def separable_forward(
    x: NDArray[_Float],
    depthwise: NDArray[_Float],
    pointwise: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    mean: NDArray[_Float],
    var: NDArray[_Float],
    eps: float = 1e-3,
    stride: int = 1,
    dilation: int = 1,
    batch_statistics: bool = True,
    threads: int = 1,
    isa: str | None = None,
) -> NDArray[_Float]: ...
def separable_gate_probe(
    grad: NDArray[_Float],
    x: NDArray[_Float],
    depthwise: NDArray[_Float],
    pointwise: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    mean: NDArray[_Float],
    var: NDArray[_Float],
    eps: float = 1e-3,
    stride: int = 1,
    dilation: int = 1,
    threads: int = 1,
    isa: str | None = None,
) -> float: ...
def separable_backward(
    grad: NDArray[_Float],
    x: NDArray[_Float],
    depthwise: NDArray[_Float],
    pointwise: NDArray[_Float],
    scale: NDArray[_Float],
    shift: NDArray[_Float],
    mean: NDArray[_Float],
    var: NDArray[_Float],
    eps: float = 1e-3,
    stride: int = 1,
    dilation: int = 1,
    batch_statistics: bool = True,
    input_grad: bool = True,
    weight_grads: bool = True,
    threads: int = 1,
    isa: str | None = None,
) -> tuple[
    NDArray[_Float] | None,  # dx
    NDArray[_Float] | None,  # ddepthwise
    NDArray[_Float] | None,  # dpointwise
    NDArray[_Float] | None,  # dscale
    NDArray[_Float] | None,  # dshift
]: ...
