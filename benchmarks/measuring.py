"""How the benchmarks measure: times, roofs, agreement and memory."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxyless_ext import _C
from proxyless_ext.environment import describe_environment

Run = Callable[[], object]

MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}  # of the matrix product that is a roof
COPY_BYTES = 128 << 20


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of one thing: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarise the times of at least one run."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high)


def host_seconds(run: Run) -> float:
    """What a run takes that is over when it returns."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def gpu_seconds(run: Run) -> float:
    """What a run takes on the current GPU, between two CUDA events around it."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


# By the type of device.
CLOCKS = {"cpu": host_seconds, "cuda": gpu_seconds}


def alternate(
    runs: Mapping[str, Run], rounds: int, steps: int = 1, device: str = "cpu"
) -> dict[str, Timing]:
    """Time each of `runs` once in every one of `rounds` rounds, after a first run of each.

    They take turns, so that a disturbance hits all alike, and another one starts in each round.

    Args:
        runs: what to time, by name.
        rounds: how often.
        steps: that one run consists of; the result is the time of one step.
        device: where they run, one of `CLOCKS`.
    """
    clock = CLOCKS[device]
    for run in runs.values():
        run()
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        for index in range(rounds):
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                seconds[name].append(clock(runs[name]) / steps)
    return {name: Timing.of(each) for name, each in seconds.items()}


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Roofs:
    """What the machine can do at most, to be measured between other things.

    Each sample is a square matrix product in `dtype`, and a copy too large for any cache.
    """

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._device = device
        self._size = MATRIX_SIZES[device]
        square = (self._size, self._size)
        self._a = torch.randn(square, device=device, dtype=dtype)
        self._b = torch.randn(square, device=device, dtype=dtype)
        self._product = torch.empty_like(self._a)
        self._source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        self._matmul: list[float] = []
        self._copy: list[float] = []

    def sample(self) -> None:
        """Measure once more."""
        runs: dict[str, Run] = {
            "matmul": lambda: torch.mm(self._a, self._b, out=self._product),
            "copy": lambda: self._target.copy_(self._source),
        }
        times = alternate(runs, rounds=3, device=self._device)
        self._matmul.append(times["matmul"].median)
        self._copy.append(times["copy"].median)

    @property
    def flops_per_second(self) -> float:
        """Of the matrix product, the median of all samples."""
        return 2 * self._size**3 / statistics.median(self._matmul)

    @property
    def bytes_per_second(self) -> float:
        """Read plus written by the copy, the median of all samples."""
        return 2 * COPY_BYTES / statistics.median(self._copy)


class DisagreementError(SystemExit):
    """A result that rounding does not explain."""


def relative_difference(result: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """||result - expected|| / ||expected|| over all the tensors together, in float64."""
    difference = norm = 0.0
    for one, other in zip(result, expected, strict=True):
        difference += (one.double() - other.double()).square().sum().item()
        norm += other.double().square().sum().item()
    return float((difference / norm) ** 0.5)


class SavedTensors:
    """Bytes that autograd keeps for backward within it, without parameters.

    Tensors that share their memory count once.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda kept: kept)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._parameters:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # The tensor itself would keep the graph it is part of alive.

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())


def gpu_peak_bytes(run: Run) -> int:
    """How far a run makes the memory that PyTorch has allocated on the current GPU grow."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def resident_bytes(field: str) -> int:
    """A field of /proc/self/status: ``VmRSS``, the memory in use, or ``VmHWM``, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def describe_conditions() -> dict[str, Any]:
    """The machine, the versions and how busy it was: what a time depends on."""
    return {
        **describe_environment(),
        "isa": _C.selected_isa(),
        "load_average": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
