"""Predicts what the blocks of the ImageNet space take on GPUs, from counts alone.

    python -m benchmarks.cuda_predictions [--batch 256] [--operation k5e6] [--out FOLDER]

For every kernel of a training step of an edge it counts the bytes that pass through the GPU's
memory and the operations on tensor cores and others. A kernel is predicted to take as long as its
bytes do at 60 % of the memory's bandwidth. The peers are counted the same way: PyTorch's layers,
each of which reads and writes its tensors, and torch.compile, which fuses BatchNorm's normalisation
with ReLU6. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxyless_ext import _C
from proxyless_ext.bench.cases import Case, cases
from proxyless_ext.bench.text import table
from proxyless_ext.spaces import imagenet

SHARE = 0.6  # of its peak that a kernel is predicted to reach
BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Gpu:
    """Peak figures of a GPU, from its data sheet, dense.

    Attributes:
        bandwidth: bytes per second of its memory.
        tensor: operations per second of tensor cores, by type of numbers.
        other: float32 operations per second of other cores.
        l2_bytes: size of the L2 cache.
    """

    name: str
    bandwidth: float
    tensor: dict[str, float]
    other: float
    l2_bytes: int


# float32 products are three of TF32.
GPUS = [
    Gpu("A100", 2.039e12, {"bfloat16": 312e12, "float32": 156e12 / 3}, 19.5e12, 40 << 20),
    Gpu("H100", 3.35e12, {"bfloat16": 989e12, "float32": 495e12 / 3}, 67e12, 50 << 20),
]


@dataclass(frozen=True)
class Work:
    """What a kernel does in a step.

    Attributes:
        kernel: its name, or the layer's.
        bytes: through the GPU's memory.
        tensor: operations on tensor cores.
        other: operations on others.
    """

    kernel: str
    bytes: float
    tensor: float = 0
    other: float = 0

    def seconds(self, gpu: Gpu, dtype: str) -> float:
        """At SHARE of the bandwidth."""
        return self.bytes / (SHARE * gpu.bandwidth)

    def seconds_with_arithmetic(self, gpu: Gpu, dtype: str) -> float:
        """The same, or at SHARE of the arithmetic's peaks where that takes longer."""
        arithmetic = self.tensor / gpu.tensor[dtype] + self.other / gpu.other
        return max(self.seconds(gpu, dtype), arithmetic / SHARE)


class Block:
    """An edge's tensors, as bytes in a type of numbers."""

    def __init__(self, case: Case, dtype: str, l2_bytes: int) -> None:
        layer, spec = case.layer, case.spec
        self.number = BYTES[dtype]
        self.shortcut = layer.shortcut
        self.mid = case.batch * layer.in_size**2  # pixels
        self.out = case.batch * layer.out_size**2
        self.channels, self.out_channels = layer.in_channels, layer.out_channels
        self.hidden = layer.in_channels * spec.expand_ratio
        self.taps = spec.kernel_size**2
        self.x = self.mid * self.channels * self.number
        self.p = self.out * self.out_channels * self.number
        self.expanded = self.mid * self.hidden * self.number
        self.filtered = self.out * self.hidden * self.number
        self.l2_bytes = l2_bytes
        sizes = (case.batch, layer.in_size, layer.in_size, self.channels, self.hidden)
        self.forward_chunk, self.backward_chunk = _C.cuda_mbconv_chunks(
            *sizes, self.out_channels, spec.kernel_size, layer.stride, dtype=dtype,
            l2_bytes=l2_bytes,
        )  # fmt: skip

    @property
    def forward_chunks(self) -> int:
        return -(-self.hidden // self.forward_chunk)

    @property
    def backward_chunks(self) -> int:
        return -(-self.hidden // self.backward_chunk)

    @property
    def saved(self) -> float:
        """Bytes that backward needs of the fused block: X and P."""
        return self.x + self.p

    @property
    def saved_by_layers(self) -> float:
        """The same of layers: every convolution's and every BatchNorm's input."""
        return self.x + 2 * (self.expanded + self.filtered) + self.p


def fused(block: Block) -> Iterator[Work]:
    """A training step of the fused block, kernel by kernel; see docs/kernels.md."""
    b = block
    pair = 2 * b.channels * b.hidden
    expand, depthwise = pair * b.mid, 2 * b.taps * b.out * b.hidden
    project = 2 * b.out * b.hidden * b.out_channels
    halo = 1.5  # of the expand product's pixels that two tiles both compute
    sums = 12 / 128 / b.number  # of a tensor: partial statistics, of 128 pixels each

    def cached(tensor: float, width: int, tensors: float) -> float:
        """A chunk's tensor costs nothing if the chunk's tensors fit into half of the L2 cache."""
        return 0 if width / b.hidden * tensors <= b.l2_bytes / 2 else tensor

    # Forward. A chunk has D.
    again = b.forward_chunks - 1
    d = cached(b.filtered, b.forward_chunk, b.filtered)
    running = 4 * b.out * b.out_channels
    covariance = 2 * b.mid * b.channels**2
    yield Work("column_sums of X", b.x)
    yield Work("pixel_products, covariance", b.x, tensor=covariance)
    yield Work("expand_depthwise", b.x * (1 + again) + d, tensor=halo * expand, other=depthwise)
    yield Work("combine_statistics of D", 2 * sums * b.filtered)
    yield Work("pointwise, project", d + b.p + 2 * again * running, tensor=project)
    yield Work("normalise", 2 * b.p + b.shortcut * b.x)
    # Backward. A chunk has D, dZ2 and dZ1.
    again = b.backward_chunks - 1
    tensors = 2 * b.filtered + b.expanded
    d = dz = cached(b.filtered, b.backward_chunk, tensors)
    dmid = cached(b.expanded, b.backward_chunk, tensors)
    running = 4 * b.mid * b.channels
    yield Work("column_sums of G, P", 2 * b.p)
    yield Work("normalise_backward", 3 * b.p)
    yield Work(
        "expand_depthwise again", b.x * (1 + again) + d, tensor=halo * expand, other=depthwise
    )
    yield Work("pointwise, project backward", b.p * (1 + again) + d + dz, tensor=project)
    yield Work("pixel_products, project weights", b.p * (1 + again) + d, tensor=project)
    yield Work(
        "depthwise_backward",
        b.x * (1 + again) + d + dz + dmid,
        tensor=expand,
        other=2 * depthwise,
    )
    yield Work("pixel_products, expand weights", b.x * (1 + again) + dmid, tensor=expand)
    yield Work(
        "pointwise, expand backward",
        dmid + 2 * b.x + b.shortcut * b.p + 2 * again * running,
        tensor=expand + covariance,
    )


def layers(block: Block, compiled: bool) -> Iterator[Work]:
    """A training step of PyTorch's layers: each reads its operands and writes its results.

    A convolution reads and writes one tensor each in forward; in backward it reads its output's
    gradient twice and its input once and writes its input's gradient. A BatchNorm reads twice and
    writes once, and in backward reads input and gradient twice and writes once. ReLU6 reads and
    writes, and in backward reads two and writes one; compiled, it is part of BatchNorm's passes.
    """
    b = block
    activated = 0 if compiled else 2 + 3
    products = 2 * b.mid * b.channels * b.hidden
    depthwise = 2 * b.taps * b.out * b.hidden
    project = 2 * b.out * b.hidden * b.out_channels
    yield Work("expand", 3 * b.x + 3 * b.expanded, tensor=3 * products)
    yield Work("BatchNorm, ReLU6", (3 + 5 + activated) * (b.expanded + b.filtered))
    yield Work("depthwise", 3 * b.expanded + 3 * b.filtered, other=3 * depthwise)
    yield Work("project", 3 * b.filtered + 3 * b.p, tensor=3 * project)
    yield Work("BatchNorm", (3 + 5) * b.p)
    yield Work("shortcut", b.shortcut * 3 * b.p)


def predict(found: list[Case], dtype: str, gpu: Gpu) -> dict[str, float]:
    """Milliseconds of all edges' blocks, by who computes them, and ratios."""
    totals: dict[str, float] = defaultdict(float)
    for case in found:
        block = Block(case, dtype, gpu.l2_bytes)
        peers = {
            "fused": list(fused(block)),
            "eager": list(layers(block, compiled=False)),
            "compiled": list(layers(block, compiled=True)),
        }
        for name, works in peers.items():
            for work in works:
                times = len(case.edges)
                totals[name] += 1e3 * times * work.seconds(gpu, dtype)
                arithmetic = 1e3 * times * work.seconds_with_arithmetic(gpu, dtype)
                totals[f"{name}, arithmetic too"] += arithmetic
        totals["saved"] += len(case.edges) * block.saved
        totals["saved by layers"] += len(case.edges) * block.saved_by_layers
    return dict(totals)


def kernels_table(found: list[Case], dtype: str, gpu: Gpu) -> str:
    """Every kernel's bytes and operations over all edges, and its share of the step."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for case in found:
        for work in fused(Block(case, dtype, gpu.l2_bytes)):
            counts = (work.bytes, work.tensor, work.other, work.seconds(gpu, dtype),
                      work.seconds_with_arithmetic(gpu, dtype))  # fmt: skip
            row = rows[work.kernel]
            for i, count in enumerate(counts):
                row[i] += len(case.edges) * count
    header = ["kernel", "GB", "tensor cores, GFLOP", "others, GFLOP", "ms by bytes", "ms by both"]
    cells = [
        [name, f"{row[0] / 1e9:.2f}", f"{row[1] / 1e9:.0f}", f"{row[2] / 1e9:.0f}",
         f"{1e3 * row[3]:.2f}", f"{1e3 * row[4]:.2f}"]
        for name, row in rows.items()
    ]  # fmt: skip
    return table(header, cells)


def edges_table(found: list[Case], dtype: str, gpu: Gpu) -> str:
    """Bytes, operations and predicted times by shape."""
    header = ["edge", "chunks", "MB", "GFLOP", "fused, ms", "eager, ms", "compiled, ms"]
    rows = []
    for case in found:
        block = Block(case, dtype, gpu.l2_bytes)
        works = list(fused(block))
        peers = [works, list(layers(block, False)), list(layers(block, True))]
        times = [sum(work.seconds(gpu, dtype) for work in peer) for peer in peers]
        operations = sum(work.tensor + work.other for work in works)
        count = f" ({len(case.edges)}x)" if len(case.edges) > 1 else ""
        rows.append([
            case.name + count,
            f"{block.forward_chunks}, {block.backward_chunks}",
            f"{sum(work.bytes for work in works) / 1e6:.0f}",
            f"{operations / 1e9:.1f}",
            *(f"{1e3 * time:.3f}" for time in times),
        ])  # fmt: skip
    return table(header, rows)


def summary_table(found: list[Case]) -> str:
    """Predicted times of all edges on every GPU and in every type."""
    header = ["GPU", "numbers", "fused, ms", "eager / fused", "compiled / fused",
              "eager / fused, arithmetic too", "saved, layers / fused"]  # fmt: skip
    rows = []
    for gpu in GPUS:
        for dtype in BYTES:
            found_totals = predict(found, dtype, gpu)
            both = ", arithmetic too"
            rows.append([
                gpu.name,
                dtype,
                f"{found_totals['fused']:.2f}",
                f"{found_totals['eager'] / found_totals['fused']:.2f}",
                f"{found_totals['compiled'] / found_totals['fused']:.2f}",
                f"{found_totals['eager' + both] / found_totals['fused' + both]:.2f}",
                f"{found_totals['saved by layers'] / found_totals['saved']:.1f}",
            ])  # fmt: skip
    return table(header, rows)


def main() -> None:
    """Print the tables, and write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256, help="pictures")
    parser.add_argument("--operation", default="k5e6", help="the block at every edge")
    parser.add_argument("--out", type=Path, help="folder for cuda_predictions.md")
    options = parser.parse_args()
    found = cases(imagenet(), options.operation, options.batch)
    gpu = GPUS[0]
    text = "\n\n".join([
        f"Predicted, not measured: blocks {options.operation} at all edges, forward and backward, "
        f"batch {options.batch}.",
        summary_table(found),
        f"By kernel, bfloat16, {gpu.name}:",
        kernels_table(found, "bfloat16", gpu),
        f"By shape, bfloat16, {gpu.name}:",
        edges_table(found, "bfloat16", gpu),
    ])  # fmt: skip
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "cuda_predictions.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
