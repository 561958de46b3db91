"""Blocks and whole steps on a GPU, fused against PyTorch's layers: time and memory.

    python -m benchmarks.gpu --out build/bench-gpu
    python -m benchmarks.gpu --dtypes bfloat16 --edges 0 5 20 --rounds 30
    python -m benchmarks.gpu --quick

First whole steps of the supernet (see supernet_step.py), then forward and backward of a block at
the edges of the ImageNet space (see mbconv.py), in each type: float32 with products of TF32, and
bfloat16 and float16 under autocast. Peers:

    fused          proxyless_ext, channels-last
    plain          PyTorch's layers, contiguous, as published
    channels_last  the same layers, channels-last
    compiled       the same by torch.compile, channels-last (blocks only)

PyTorch gives every channels-last convolution of these types to cuDNN, also depthwise ones, so that
`channels_last` measures cuDNN's depthwise kernels; contiguous depthwise ones mostly run on
PyTorch's own. For blocks, cuDNN tries its kernels and takes the fastest (cudnn.benchmark). PyTorch
remembers one choice for each shape, so there is no peer beside it without that search. For whole
steps, whose many shapes would make the search take minutes, cuDNN's heuristics choose.

Every result is first compared with that of the layers in float64; an edge at which one is wrong is
not timed, and fails the benchmark in the end. Then the peers take turns; a time is the median of
all rounds between CUDA events. A run is several calls, so that starting kernels overlaps with
running them as in training. Edges for which the minutes do not suffice are left out, and named.
Writes gpu.json and gpu.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from proxyless_ext.bench.agreement import DisagreementError
from proxyless_ext.bench.blocks import PEERS, Edge, measure_block
from proxyless_ext.bench.cases import FLOAT_BYTES, Case, cases
from proxyless_ext.bench.records import COMPARED, Conditions, StepFigures
from proxyless_ext.bench.steps import check_steps, gpu_peaks
from proxyless_ext.bench.supernets import Batch, build
from proxyless_ext.ops import has_kernels
from proxyless_ext.spaces import imagenet

from .mbconv import edges_table, summarise
from .options import new_parser, parse
from .results import write
from .roofs import Roofs
from .supernet_step import memory_table, times, times_table

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOLERANCES = {"bfloat16": "bfloat16", "float16": "float16", "float32": "tf32"}
PEER_NAMES = [name for name in PEERS if name != "fused_bf16"]
CALLS = 5  # of a block in a timed run


def main() -> None:
    """Check, measure and write."""
    arguments = _arguments()
    if not torch.cuda.is_available():
        sys.exit("This needs a GPU, and torch finds none: run it on a machine that has one.")
    if not has_kernels(torch.device("cuda")):
        sys.exit("This needs the operators for GPUs, which are not built: run `make cuda`.")
    torch.set_float32_matmul_precision("high")  # TF32, which convolutions use anyway.
    results = measure(arguments)
    write(arguments.out, "gpu", results, [], _text(results))
    if results["failures"]:
        sys.exit("Some results are wrong: " + "; ".join(results["failures"]))


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.set_defaults(out=parser.get_default("out").with_name("bench-gpu"))
    parser.add_argument("--edges", type=int, nargs="+", help="indices of edges (default: all)")
    parser.add_argument("--peers", nargs="+", choices=PEER_NAMES, help="(default: all)")
    parser.add_argument("--operation", default="k5e6", help="of every edge (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="(default: all)")
    parser.add_argument("--paths", type=int, default=2, help="per round (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8, help="(default: %(default)s)")
    usual = {
        "edges": list(range(21)),
        "peers": PEER_NAMES,
        "dtypes": list(DTYPES),
        "rounds": 15,
    }
    fast = [name for name in PEER_NAMES if name != "compiled"]
    quick = {"edges": [0, 2], "peers": fast, "batch": 2, "resolution": 32, "rounds": 2}
    arguments = parse(parser, usual, quick)
    arguments.gates = ["recompute", "two_path"]
    return arguments


def measure(arguments: argparse.Namespace, device: str = "cuda") -> dict[str, Any]:
    """Everything that goes into gpu.json."""
    deadline = time.monotonic() + 60 * arguments.minutes
    failures: list[str] = []
    settings = ("operation", "batch", "resolution", "rounds", "paths", "gates", "minutes")
    results: dict[str, Any] = {
        "conditions": Conditions.here().model_dump(mode="json"),
        "settings": {name: getattr(arguments, name) for name in settings},
        "steps": {},
    }
    for name in arguments.dtypes:
        try:
            results["steps"][name] = _measure_steps(arguments, DTYPES[name], device)
        except DisagreementError as error:
            failures.append(f"{name}: {error}")
    return {**results, **_measure_blocks(arguments, deadline, failures, device)}


def _measure_steps(
    arguments: argparse.Namespace, dtype: torch.dtype, device: str
) -> dict[str, Any]:
    print(f"steps in {dtype}:", flush=True)
    space = imagenet()
    batch = Batch(space, arguments.batch, arguments.resolution, device)
    trainees = build(COMPARED, space, batch)
    for trainee in trainees.values():
        trainee.take(batch, dtype)
    errors = check_steps(trainees, space, batch, arguments.gates)
    figures = StepFigures(
        errors=errors,
        seconds=times(trainees, arguments, device),
        saved_bytes={name: trainee.saved_bytes(seed=0) for name, trainee in trainees.items()},
        peak_bytes=gpu_peaks(trainees),
    )
    return figures.model_dump(mode="json")


def _measure_blocks(
    arguments: argparse.Namespace, deadline: float, failures: list[str], device: str
) -> dict[str, Any]:
    torch.backends.cudnn.benchmark = True
    roofs = {name: Roofs(device, DTYPES[name]) for name in arguments.dtypes}
    edges: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.dtypes}
    left_out = []
    space = imagenet(resolution=arguments.resolution)
    for case in cases(space, arguments.operation, arguments.batch):
        case.edges = [index for index in case.edges if index in arguments.edges]
        if not case.edges:
            continue
        if time.monotonic() > deadline:
            left_out.append(case.name)
            continue
        print(f"measuring {case.name} ...", flush=True)
        edge = Edge(case, device=device)
        expected = edge.expected()
        for name in arguments.dtypes:
            roofs[name].sample()
            try:
                edges[name].append(_measure_edge(edge, expected, name, arguments))
            except DisagreementError as error:
                failures.append(f"{name}: {error}")
    blocks = {name: summarise(found, roofs[name]) for name, found in edges.items() if found}
    return {"blocks": blocks, "left_out": left_out, "failures": failures}


def _measure_edge(
    edge: Edge, expected: list[torch.Tensor], dtype_name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    dtype = DTYPES[dtype_name]
    kind = TOLERANCES[dtype_name]
    found = measure_block(edge, arguments.peers, arguments.rounds, dtype, kind, expected, CALLS)
    return {**found.model_dump(mode="json"), "least_bytes": _least_bytes(edge.case, dtype)}


def _least_bytes(case: Case, dtype: torch.dtype) -> int:
    return case.least_bytes * dtype.itemsize // FLOAT_BYTES


def _text(results: dict[str, Any]) -> str:
    parts = ["# On a GPU", Conditions(**results["conditions"]).describe()]
    for name, steps in results["steps"].items():
        parts += [f"## Whole steps, {name}", times_table(steps), memory_table(steps)]
    for name, blocks in results["blocks"].items():
        parts += [f"## Blocks, {name}", edges_table(blocks)]
    if results["left_out"]:
        parts.append("Left out for want of time: " + ", ".join(results["left_out"]) + ".")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
