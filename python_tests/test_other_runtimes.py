"""A table of another runtime, by the command of the guide, in an environment of its own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from environments import install, make_environment, run
from pages import blocks
from tiny_runs import SPACE

from proxyless_ext.latency import LatencyTable

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where benchmark_app is."""
    programs = make_environment(tmp_path_factory.mktemp("environment"))
    install(programs, "openvino>=2025")
    return programs


@pytest.mark.slow
def test_openvino_measures_by_the_command_of_the_guide(programs: Path, tmp_path: Path) -> None:
    (block,) = (b for b in blocks("sh", "docs/devices.md") if "benchmark_app" in b.code)
    (words,) = block.commands
    SPACE.save(tmp_path / "space.yaml")
    options = ["space.yaml", *words[words.index("--name") :]]
    command = [sys.executable, "-m", "proxyless_ext", "latency", "fit", *options]
    # A busy machine spreads more than the guide's would, and the error is not what is tested.
    command += ["--networks", "12", "--max-spread", "3", "--pause", "0.1"]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = run("env", "-C", tmp_path, *command, PATH=path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert re.search(r"openvino\.yaml: \d+ layers\nnetworks: +12\n", done.stdout)
    table = LatencyTable.load(tmp_path / "openvino.yaml")
    assert table.conditions is not None
    assert table.conditions.processor == "this CPU, OpenVINO"
    cheapest, dearest = table.bounds(SPACE)
    assert 0.001 < cheapest < dearest < 10  # In ms; benchmark_app prints microseconds.
    lines = (tmp_path / "openvino.measurements.jsonl").read_text().splitlines()
    assert len(lines) >= 1 + 3 * 12
