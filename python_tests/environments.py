"""Environments of their own, for packages that the tests of a clone do not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with more in its environment."""
    return subprocess.run(
        [*map(str, command)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


def make_environment(folder: Path) -> Path:
    """An empty one: where its programs are."""
    made = run(sys.executable, "-m", "venv", folder)
    assert made.returncode == 0, made.stderr
    return folder / "bin"


def install(programs: Path, *packages: str) -> None:
    """Install packages, or skip the test with what pip says, as where there is no network."""
    installed = run(programs / "python", "-m", "pip", "install", *packages)
    if installed.returncode != 0:
        last = (installed.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"{' and '.join(packages)} cannot be installed: {last}")
