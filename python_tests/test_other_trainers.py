"""Searches in the training loops of accelerate and Lightning, in an environment of their own."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
from environments import install, make_environment, run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has both, and for the rest what is installed here."""
    programs = make_environment(tmp_path_factory.mktemp("environment"))
    python = programs / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(packages.stdout.strip()) / "installed.pth").write_text(sysconfig.get_path("purelib"))
    install(programs, "accelerate>=1.10", "lightning>=2.5")
    return python


@pytest.mark.slow
def test_searches_in_their_loops_are_those_in_ones_own(python: Path) -> None:
    path = os.pathsep.join(map(str, (HERE.parent, HERE)))
    done = run(python, HERE / "other_trainers.py", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
