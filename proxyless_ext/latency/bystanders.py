"""How busy other programs keep the machine while something is timed on it."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = (3, 4)
"""Columns of the times that no core worked: idle, and waiting for disks (proc(5))."""

SLACK = 0.15
"""Cores that the system's own housekeeping may take."""

SHORTEST = 1.0
"""Seconds that an average is taken over at least: the system counts in hundredths."""


class Bystanders:
    """What others do on this machine, from the creation of the object on."""

    def __init__(self) -> None:
        self._started = _now()

    def cores(self) -> float | None:
        """How many cores others have kept busy on average; None where the system does not say,
        or not exactly in so short a time.
        """
        before, after = self._started, _now()
        if before is None or after is None or after[0] - before[0] < SHORTEST:
            return None
        seconds, all_busy, own = (late - early for late, early in zip(after, before, strict=True))
        return max(0.0, (all_busy - own) / seconds)

    def problem(self, threads: int) -> str | None:
        """Why what was timed meanwhile on so many threads is not to be trusted; None if they left
        enough cores for them.
        """
        busy, cores = self.cores(), os.cpu_count() or 1
        if busy is None or busy + threads <= cores + SLACK:
            return None
        return (
            f"other programs kept {busy:.1f} of the {cores} cores busy meanwhile, so these "
            "times are not to be trusted; measure again when the machine is idle"
        )

    def warn(self, threads: int) -> None:
        """Warn if there is such a problem."""
        if sentence := self.problem(threads):
            warnings.warn(sentence, stacklevel=2)


def _now() -> tuple[float, float, float] | None:
    """Seconds: of the clock, worked by all cores for anybody, worked for this process."""
    try:
        first, *_ = _STAT.read_text().splitlines()
    except (OSError, ValueError):
        return None
    ticks = [int(column) for column in first.split()[1:9]]
    working = sum(each for place, each in enumerate(ticks) if place not in _IDLE)
    own = os.times()
    return (
        time.monotonic(),
        working / os.sysconf("SC_CLK_TCK"),
        own.user + own.system + own.children_user + own.children_system,
    )
