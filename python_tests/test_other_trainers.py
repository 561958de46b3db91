"""Searches in the training loops of accelerate and Lightning, in an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has both, and for the rest what is installed here."""
    folder = tmp_path_factory.mktemp("environment")
    made = run(sys.executable, "-m", "venv", folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(packages.stdout.strip()) / "installed.pth").write_text(sysconfig.get_path("purelib"))
    installed = run(python, "-m", "pip", "install", "accelerate>=1.10", "lightning>=2.5")
    if installed.returncode != 0:
        last = (installed.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"accelerate and Lightning cannot be installed: {last}")
    return python


@pytest.mark.slow
def test_searches_in_their_loops_are_those_in_ones_own(python: Path) -> None:
    path = os.pathsep.join(map(str, (HERE.parent, HERE)))
    done = run(python, HERE / "other_trainers.py", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
