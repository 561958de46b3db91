"""What is imported when: modules that take long only by those who need them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import typer

from proxyless_ext.cli.app import SUMMARIES, commands

SLOW = {
    "matplotlib",
    "scipy.stats",
    "sklearn",
    "tensorboard",
    "torch._dynamo",
    "torchcodec",
    "torchvision",
}


def modules_after(code: str) -> set[str]:
    """All modules that are there after `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules)"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(printed.split("MODULES")[1].split())


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from proxyless_ext.__main__ import main; sys.argv = ['proxyless', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0"
    )
    assert not modules_after(code) & {*SLOW, "numpy", "torch", "proxyless_ext.ops"}


def test_the_package_imports_nothing_slow_but_torch() -> None:
    modules = modules_after("from proxyless_ext import *")
    assert {"torch", "proxyless_ext.search.run"} <= modules
    assert not modules & SLOW


def test_summaries_are_what_the_commands_say_themselves() -> None:
    for module, summaries in SUMMARIES.items():
        import_module(f"proxyless_ext.cli.{module}")
        for name, summary in summaries.items():
            assert inspect.cleandoc(typer.main.get_group(commands).commands[name].help) == summary
    assert typer.main.get_group(commands).commands.keys() == {
        name for summaries in SUMMARIES.values() for name in summaries
    }
