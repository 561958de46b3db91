"""The processor by a name that tells it from others: a latency table is of one, and of no other."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BOARDS = (
    Path("/sys/firmware/devicetree/base/model"),
    Path("/sys/class/dmi/id/product_name"),
)

_IDENTITY = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
"""What Linux on ARM says of a core instead of a name."""


def cpu_name() -> str:
    """The processor as its maker calls it; where the system has no name for it, all that tells it
    apart: architecture, kinds of cores with their number, and the board.
    """
    cores = _read_cores(_text(_CPUINFO))
    for core in cores:
        if name := core.get("model name"):
            return name
    if cores:
        return _describe(cores)
    if platform.system() == "Darwin":
        return _ask("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _read_cores(text: str) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo that are about a core."""
    cores = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in fields:
            cores.append(fields)
    return cores


def _describe(cores: list[dict[str, str]]) -> str:
    kinds: dict[str, int] = {}
    for core in cores:
        parts = (core[key].removeprefix("0x") for key in _IDENTITY if key in core)
        kind = "/".join(parts) or "core"
        kinds[kind] = kinds.get(kind, 0) + 1
    listed = " + ".join(f"{count}x {kind}" for kind, count in kinds.items())
    board = next(filter(None, map(_text, _BOARDS)), "")
    return ", ".join(filter(None, (platform.machine(), listed, board)))


def _text(path: Path) -> str:
    """The text of a file of the system's; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
