"""What the driver says of a GPU: at which clocks it runs, and what it may draw."""

from __future__ import annotations

import subprocess

import torch

from ..spaces import StrictModel


class GpuState(StrictModel):
    """A GPU right after it was measured; None where the driver does not say.

    Attributes:
        power_state: from ``P0``, the fastest, to ``P15``.
        clock_mhz: of the multiprocessors.
        memory_clock_mhz: of the memory.
        power_w: drawn, averaged by the driver over up to a second.
        power_limit_w: that it may draw.
    """

    power_state: str | None
    clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    power_limit_w: float | None


QUERIES = {
    "power_state": "pstate",
    "clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
}
"""What nvidia-smi calls the fields of a `GpuState`."""

LONGEST = 10.0
"""Seconds that nvidia-smi may take."""


def read_gpu(device: str) -> GpuState | None:
    """The state of the current GPU; None of other devices, and where nvidia-smi tells nothing."""
    if device != "cuda":
        return None
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    asked = [
        *("nvidia-smi", f"--id=GPU-{uuid}"),
        *(f"--query-gpu={','.join(QUERIES.values())}", "--format=csv,noheader,nounits"),
    ]
    try:
        done = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=LONGEST)
        cells = (cell.strip() for cell in done.stdout.split(","))
        # What it does not know is [N/A], or [Not Supported] to older drivers.
        known = (None if cell.startswith("[") else cell for cell in cells)
        return GpuState.model_validate(dict(zip(QUERIES, known, strict=True)))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # What was measured counts without it.
