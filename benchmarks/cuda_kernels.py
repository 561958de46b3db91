"""Single kernels on a GPU, without torch: compiled by NVRTC and timed through CuPy.

    python -m benchmarks.cuda_kernels [--batch 32] [--out build/bench-gpu]

For blocks k5 of stride 1 at shapes of the ImageNet space, in bfloat16 and float32, says what each
kernel takes, and what it reaches of the device's own copy and matrix product, which are measured in
the same run. Bytes and operations are those of cuda_predictions.py, with nothing left in the cache.
Before it is timed, `normalise` is checked against NumPy. Needs the extra `gpu`, which brings CuPy.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxyless_ext.bench.cases import Case, cases
from proxyless_ext.bench.text import table
from proxyless_ext.spaces import imagenet

from . import cuda_predictions, cuda_sources, results

INCLUDE = Path(torch.__file__).parents[1] / "nvidia" / "cu13" / "include"
NUMBERS = {"bfloat16": "__nv_bfloat16", "float32": "float"}
THREADS = 128
TILE_ROWS, TILE_COLUMNS = 8, 16  # of the depthwise kernels with stride 1
COPY_BYTES, MATRIX = 1 << 28, 4096

_Pointer, _Int, _Long, _Bool = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_bool


def _struct(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# The kernels' arguments, as csrc/kernels/cuda/device declares them for every type of numbers.
Rows = _struct("Rows", data=_Pointer, pitch=_Long)
DenseRows = _struct("DenseRows", data=_Pointer, channels=_Int)
Statistics = _struct("Statistics", data=_Pointer, pitch=_Long)
Norm = _struct("Norm", slope=_Pointer, offset=_Pointer, mean=_Pointer, inv_std=_Pointer)
Normalise = _struct("Normalise", p=Rows, norm=Norm, x=Rows, y=DenseRows, pixels=_Long)
Expand = _struct(
    "Expand", x=Rows, weight=Rows, patch=_Int, slope=_Pointer, offset=_Pointer, channels=_Int,
    height=_Int, width=_Int, tf32=_Bool,
)  # fmt: skip
ExpandDepthwise = _struct(
    "ExpandDepthwise", expand=Expand, depthwise=_Pointer, d=_Pointer, pitch=_Long,
    statistics=Statistics, out_height=_Int, out_width=_Int, tiles_y=_Int, tiles_x=_Int,
)  # fmt: skip
NormBackward = _struct(
    "NormBackward", slope=_Pointer, of_value=_Pointer, constant=_Pointer, batch_statistics=_Bool
)
DepthwiseBackward = _struct(
    "DepthwiseBackward", expand=Expand, depthwise=_Pointer, d=Rows, dz=Rows, norm=NormBackward,
    dmid=_Pointer, pitch=_Long, tap_sums=_Pointer, out_height=_Int, out_width=_Int, tiles=_Long,
    tiles_y=_Int, tiles_x=_Int, tiles_per_slice=_Int,
)  # fmt: skip
Factor = _struct("Factor", rows=Rows, weight=Rows, depth=_Int)
PointwiseProduct = _struct(
    "PointwiseProduct", first=Factor, second=Factor, pixels=_Long, columns=_Int, tf32=_Bool
)
Running = _struct("Running", data=_Pointer, pitch=_Long, first=_Bool, last=_Bool)
Project = _struct(
    "Project", slope=_Pointer, offset=_Pointer, running=Running, p=DenseRows,
    statistics=Statistics, grad=Rows, probe=_Pointer,
)  # fmt: skip
PixelProducts = _struct(
    "PixelProducts", a=Rows, b=Rows, slope=_Pointer, offset=_Pointer, sums=_Pointer,
    row_sums=_Pointer, pixels=_Long, slice_pixels=_Long, rows=_Int, columns=_Int, pitch=_Int,
    tf32=_Bool,
)  # fmt: skip
STRUCTS = {
    "norms.cuh": [Rows, DenseRows, Statistics, Norm, Normalise],
    "depthwise_backward.cuh": [Expand, ExpandDepthwise, NormBackward, DepthwiseBackward],
    "pointwise.cuh": [Factor, PointwiseProduct, Running, Project],
    "pixel_products.cuh": [PixelProducts],
}


def by_value(struct: ctypes.Structure) -> np.ndarray:
    """A struct as CuPy passes it to a kernel."""
    return np.frombuffer(bytes(struct), dtype=f"V{ctypes.sizeof(struct)}")


@dataclass
class Run:
    """A kernel with its arguments.

    Attributes:
        name: as cuda_predictions.py calls the work.
        launch: starts it.
    """

    name: str
    launch: Callable[[], None]


class Device:
    """CuPy, the kernels it has compiled, and the arrays that they work on."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self._multiprocessors: int = properties["multiProcessorCount"]
        self.arrays: list[Any] = []
        self._modules: dict[str, Any] = {}

    def kernel(self, header: str, name: str) -> Any:
        """A kernel by its C++ name without namespace."""
        if header not in self._modules:
            self._modules[header] = self.cupy.RawModule(
                code=cuda_sources.source(header),
                options=tuple(cuda_sources.options(INCLUDE)),
                name_expressions=list(cuda_sources.instances(header)),
            )
        return self._modules[header].get_function(cuda_sources.NAMESPACE + name)

    def normal(self, count: int, dtype: str = "float32") -> Any:
        """Random numbers; bfloat16, which CuPy does not know, as the upper bits of float32."""
        values = self.cupy.random.standard_normal(count, dtype=self.cupy.float32)
        if dtype == "bfloat16":
            values = (values.view(self.cupy.uint32) >> 16).astype(self.cupy.uint16)
        self.arrays.append(values)
        return values

    def pointer(self, count: int, dtype: str = "float32") -> int:
        """The address of that many random numbers."""
        return int(self.normal(count, dtype).data.ptr)

    def slices(self, pixels: int, blocks: int) -> int:
        """Parts that `pixels` are cut into if each takes `blocks` blocks, as in plan.cpp."""
        return max(1, min(-(-4 * self._multiprocessors // blocks), pixels // 256))

    def seconds(self, call: Callable[[], Any]) -> float:
        """The median of what a call takes on the GPU."""
        from cupyx.profiler import benchmark

        times = benchmark(call, n_repeat=30, n_warmup=3).gpu_times
        return float(np.median(times))


def kernels_of(device: Device, case: Case, dtype: str) -> Iterator[Run]:
    """The larger kernels of one edge."""
    layer, number = case.layer, NUMBERS[dtype]
    size, batch, k = layer.in_size, case.batch, case.spec.kernel_size
    channels, outputs = layer.in_channels, layer.out_channels
    pixels = batch * size * size
    group = 64 // cuda_predictions.BYTES[dtype]
    hidden = channels * case.spec.expand_ratio
    pitch = -(-hidden // group) * group
    tiles_y, tiles_x = -(-size // TILE_ROWS), -(-size // TILE_COLUMNS)
    tiles, groups = batch * tiles_y * tiles_x, pitch // group

    def rows(width: int, count: int = pixels) -> Any:
        return Rows(device.pointer(count * width, dtype), width)

    vectors = [device.pointer(pitch) for _ in range(4)]
    x, d = rows(channels), rows(pitch)
    expand = Expand(
        x, rows(channels, hidden), channels, vectors[0], vectors[1], hidden, size, size, False
    )
    taps = device.pointer(hidden * k * k, dtype)
    statistics = Statistics(device.pointer(tiles * 3 * pitch), pitch)
    forward = ExpandDepthwise(
        expand, taps, d.data, pitch, statistics, size, size, tiles_y, tiles_x
    )  # fmt: skip
    kernel = device.kernel("expand_depthwise.cuh", f"expand_depthwise<{number}, {k}, 1>")
    yield Run("expand_depthwise", _launch(kernel, (tiles, groups), forward))

    blocks = -(-pixels // 64)
    product = PointwiseProduct(
        Factor(d, rows(pitch, outputs), hidden), Factor(), pixels, outputs, False
    )
    project = Project(
        vectors[0], vectors[1], Running(None, 0, True, True),
        DenseRows(device.pointer(pixels * outputs, dtype), outputs),
        Statistics(device.pointer(blocks * 3 * outputs), outputs), Rows(), None,
    )  # fmt: skip
    name = f"pointwise<{number}, {cuda_sources.NAMESPACE}Project<{number}>>"
    kernel = device.kernel("pointwise.cuh", name)
    yield Run("pointwise, project", _launch(kernel, (blocks, -(-outputs // 64)), product, project))

    tiles_per_slice = -(-tiles // device.slices(tiles * TILE_ROWS * TILE_COLUMNS, groups))
    slices = -(-tiles // tiles_per_slice)
    backward = DepthwiseBackward(
        expand, taps, d, rows(pitch), NormBackward(*vectors[:3], True),
        device.pointer(pixels * pitch, dtype), pitch, device.pointer(slices * k * k * pitch),
        size, size, tiles, tiles_y, tiles_x, tiles_per_slice,
    )  # fmt: skip
    kernel = device.kernel("depthwise_backward.cuh", f"depthwise_backward<{number}, {k}, 1>")
    yield Run("depthwise_backward", _launch(kernel, (slices, groups), backward))

    grid = (-(-channels // 64), -(-pitch // 64))
    slices = device.slices(pixels, grid[0] * grid[1])
    weights = PixelProducts(
        Rows(backward.dmid, pitch), x, None, None, device.pointer(slices * pitch * channels),
        device.pointer(slices * pitch), pixels, -(-pixels // slices), pitch, channels, channels,
        False,
    )  # fmt: skip
    name = f"pixel_products<{number}, {cuda_sources.NAMESPACE}Factors::kPlain>"
    kernel = device.kernel("pixel_products.cuh", name)
    yield Run("pixel_products, expand weights", _launch(kernel, (*grid, slices), weights))


def _launch(kernel: Any, grid: tuple[int, ...], *structs: ctypes.Structure) -> Callable[[], None]:
    arguments = tuple(by_value(struct) for struct in structs)
    return lambda: kernel(grid, (THREADS,), arguments)


def check_normalise(device: Device) -> None:
    """Compare one kernel with NumPy, so that wrong layouts of arguments do not go unnoticed."""
    pixels, channels = 1000, 24
    p, slope, offset = (device.normal(count) for count in (pixels * channels, channels, channels))
    y = device.cupy.zeros(pixels * channels, dtype=device.cupy.float32)
    addresses = (int(array.data.ptr) for array in (slope, offset, slope, slope))
    arguments = Normalise(
        Rows(int(p.data.ptr), channels), Norm(*addresses), Rows(),
        DenseRows(int(y.data.ptr), channels), pixels,
    )  # fmt: skip
    kernel = device.kernel("norms.cuh", "normalise<float>")
    _launch(kernel, (-(-pixels * channels // 4 // THREADS),), arguments)()
    host = [array.get() for array in (p, slope, offset)]
    expected = host[0].reshape(pixels, channels) * host[1] + host[2]
    if not np.allclose(y.get().reshape(pixels, channels), expected, atol=1e-5):
        sys.exit("normalise gives something else than NumPy: nothing was timed.")


def measure(device: Device, found: list[Case], dtype: str) -> str:
    """The table of one type of numbers."""
    cupy = device.cupy
    copied = device.normal(COPY_BYTES // 4)
    copy = 2 * COPY_BYTES / device.seconds(lambda: copied.copy())
    matrix = cupy.ones((MATRIX, MATRIX), cupy.float16 if dtype == "bfloat16" else cupy.float32)
    multiply = 2 * MATRIX**3 / device.seconds(lambda: cupy.matmul(matrix, matrix))
    rows = [
        ["copy", "", f"{copy / 1e9:.0f}", "", "100 %", ""],
        ["matrix product", "", "", f"{multiply / 1e12:.1f}", "", "100 %"],
    ]
    for case in found:
        block = cuda_predictions.Block(case, dtype, l2_bytes=1)
        works = {work.kernel: work for work in cuda_predictions.fused(block)}
        for run in kernels_of(device, case, dtype):
            work, seconds = works[run.name], device.seconds(run.launch)
            arithmetic = (work.tensor + work.other) / seconds
            bandwidth = work.bytes / seconds
            rows.append([
                f"{run.name}, {case.name}", f"{1e6 * seconds:.0f}", f"{bandwidth / 1e9:.0f}",
                f"{arithmetic / 1e12:.1f}",
                f"{bandwidth / copy:.0%}", f"{arithmetic / multiply:.0%}",
            ])  # fmt: skip
        device.arrays.clear()
    header = ["kernel", "us", "GB/s", "TFLOP/s", "of a copy", "of a matrix product"]
    return f"{dtype}:\n\n{table(header, rows)}"


def main() -> None:
    """Check, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="pictures (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-gpu"), help="a folder")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This needs a GPU, and torch finds none: run it on a machine that has one.")
    try:
        device = Device()
    except ImportError:
        sys.exit("This needs CuPy: run `pip install '.[gpu]'`.")
    check_normalise(device)
    found = [case for case in cases(imagenet(), "k5e6", options.batch) if case.layer.stride == 1]
    text = "\n\n".join(measure(device, found, dtype) for dtype in NUMBERS)
    results.write(options.out, "cuda_kernels", {"batch": options.batch}, [], text)


if __name__ == "__main__":
    main()
