"""What a machine can do at most."""

from __future__ import annotations

import statistics

import torch

from proxyless_ext.bench.timing import Run, alternate

MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}  # of the matrix product that is a roof
COPY_BYTES = 128 << 20


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
