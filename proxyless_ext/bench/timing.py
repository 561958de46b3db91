"""Times: peers take turns, and the median of all rounds counts."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..latency.backends.base import gpu_seconds

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of one thing: the median, the quartiles around it, how many runs."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        return (self.high - self.low) / 2 / self.median

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarise the times of at least one run."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, len(seconds))


def host_seconds(run: Run) -> float:
    """What a run takes that is over when it returns."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


# By the type of device.
CLOCKS = {"cpu": host_seconds, "cuda": gpu_seconds}


def alternate(
    runs: Mapping[str, Run],
    rounds: int,
    steps: int = 1,
    device: str = "cpu",
    limit: float = math.inf,
) -> dict[str, Timing]:
    """Time each of `runs` once in every one of `rounds` rounds, after a first run of each.

    They take turns, so that a disturbance hits all alike, and another one starts in each round.

    Args:
        runs: what to time, by name.
        rounds: how often.
        steps: that one run consists of; the result is the time of one step.
        device: where they run, one of `CLOCKS`.
        limit: seconds after which no round begins, but for the second.
    """
    clock = CLOCKS[device]
    for run in runs.values():
        run()
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        started = time.monotonic()
        for index in range(rounds):
            if index > 1 and time.monotonic() - started > limit:
                break
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
