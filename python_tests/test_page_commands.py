"""The commands in the README and the guides: all are understood, and run where that is possible."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import ROOT, Block, blocks, run_shell
from PIL import Image
from tiny_runs import SPACE, begin, search, tiny_config
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.cli.options import configuration
from proxyless_ext.config import read_devices
from proxyless_ext.documents import write_document
from proxyless_ext.search import parse_budget


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which what the pages name is there, and is small: a run, pictures, configs/."""
    for part, name, index in itertools.product(("train", "val"), "ab", range(40)):
        folder = tmp_path / "FOLDER" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index, 200 * (name == "b"), 0)).save(folder / f"{index}.png")
    inputs, spaces = tmp_path / "inputs", tmp_path / "configs" / "spaces"
    inputs.mkdir()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tiny_config(inputs, {"latency.table": None})
    SPACE.save(spaces / "small.yaml")
    for name in ("digits", "cifar10_hour"):
        text = write_document(config.model_dump(mode="json", exclude_unset=True))
        (tmp_path / "configs" / f"{name}.yaml").write_text(text)
    search(begin(tmp_path / "RUN", config))
    (tmp_path / "runs").mkdir()
    shutil.copytree(tmp_path / "RUN", tmp_path / "runs" / "...")
    (tmp_path / ".venv").mkdir()
    programs = Path(sys.executable).parent
    (tmp_path / ".venv" / "bin").symlink_to(programs)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "page", sorted({b.page for b in blocks("sh") if b.is_run} - {"docs/deploy.md"})
)
def test_commands_run(page: str) -> None:
    run_shell(page)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_are_understood(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command names what is there and has options that its program has, run or not."""
    monkeypatch.chdir(ROOT)
    for words in block.commands:
        words = list(itertools.dropwhile(lambda word: re.match(r"\w+=", word), words))
        program, *arguments = words
        UNDERSTAND[Path(program).name](arguments, monkeypatch)
        for path in arguments:
            if path.startswith(("benchmarks/", "configs/")):
                assert Path(path).exists(), path


def understand_proxyless(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line take the arguments, and the configuration what they set."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        typer.core.TyperCommand, "invoke", lambda _, context: given.update(context.params)
    )
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert given
    if "device" in given and "target" in given:
        devices, targets = read_devices(given["device"] or ()), given["target"]
        aims: dict[str, Any] = {"devices": devices or None, "targets": targets}
    else:
        aims = {"latency__target": given.get("target")}
    config = configuration(given.get("config"), given.get("assignments"), **aims)
    if "budget" in given and given["budget"] is not None:
        parse_budget(given["budget"])
    if str(given.get("space")).startswith("configs/"):
        settings = config.space.model_copy(update={"name": given["space"]})
        assert settings.build().num_networks > 1


def understand_torchrun(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchrun take its arguments, and the command line the rest."""
    parsed = get_args_parser().parse_args(arguments)
    assert (parsed.module, parsed.training_script) == (True, "proxyless_ext")
    understand_proxyless(parsed.training_script_args, monkeypatch)


def understand_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a benchmark take its arguments, and stop there."""

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        _, unknown = parser.parse_known_args()
        assert not unknown
        raise Parsed

    option, module, *_ = arguments
    assert option == "-m"
    monkeypatch.setattr(sys, "argv", arguments[1:])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__")


class Parsed(Exception):  # noqa: N818
    """The arguments were understood."""


def understand_make(arguments: list[str], _: pytest.MonkeyPatch) -> None:
    subprocess.run(["make", "--dry-run", *arguments], check=True, capture_output=True)


def understand_pip(arguments: list[str], _: pytest.MonkeyPatch) -> None:
    """The extras that are asked for exist."""
    extras = metadata("proxyless_ext").get_all("Provides-Extra") or []
    asked = re.findall(r"\.\[(.+?)\]", " ".join(arguments))
    assert set(asked) <= set(extras)


UNDERSTAND = {
    "proxyless": understand_proxyless,
    "python": understand_python,
    "torchrun": understand_torchrun,
    "make": understand_make,
    "pip": understand_pip,
    **dict.fromkeys(("wait", "g++", "classify"), lambda *_: None),
}
"""By program; what stands last has nothing to be understood, or is run by a test."""
