"""What a backend is, and the clocks and threads that backends of this machine share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ..conditions import Conditions

Run = Callable[[], float]
"""Runs a network once and returns the milliseconds that took."""


class Backend(Protocol):
    """Something that runs networks: a runtime, or a device that a command can measure on.

    It takes the time itself, so that it may use the clock of its device.

    Args:
        conditions: of the measurement.
    """

    def __init__(self, conditions: Conditions) -> None: ...

    def build(self, module: nn.Module, example: Tensor) -> Run:
        """Prepare a module for runs on one input, in eval mode; the module is left as it is.

        Args:
            module: a function of one tensor.
            example: the input, on the CPU.

        Raises:
            UserError: the backend cannot run this module.
        """
        ...


def cpu_clock(threads: int) -> Callable[[], float]:
    """The clock in seconds for work that `threads` threads of this process do.

    A single thread is timed by the CPU time it gets, the latency on a core it has to itself: when
    other programs take the core in between, the clock stands still.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def gpu_seconds(run: Callable[[], object]) -> float:
    """What a run takes on the current GPU, between two CUDA events around it."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within it, torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
