"""Memory: what autograd keeps for backward, peaks on a GPU, and what is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .timing import Run


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


def available_bytes(device: str) -> int | None:
    """Memory that a ``cpu`` or ``cuda`` process can still get; None where the system does not say.

    Limits of a container are not seen.
    """
    if device == "cuda":
        free: int = torch.cuda.mem_get_info()[0]
        return free
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None
