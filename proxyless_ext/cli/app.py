"""The command line's root, which knows its commands without importing them."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

SUMMARIES = {
    "search": {
        "search": "Search a network on your pictures and this machine, train it, and report.",
        "verify": "Find out whether a search was worth it: train random networks of the same "
        "latency alike.",
        "derive": "Derive what a finished search holds likeliest, unmeasured, say for another "
        "latency target.",
        "status": "Where a run stands, and its curves so far.",
        "report": "Write the report of a run again.",
    },
    "plan": {
        "plan": "What a search takes on one device or many: time, memory, bytes sent, hours, cost.",
    },
    "specialise": {
        "specialise": "Search a network for every device, target and size, and report.",
    },
    "network": {
        "train": "Train one network from fresh weights.",
        "evaluate": "Accuracy of a run's network on pictures that it was not trained on.",
        "export": "Write a run's network as ONNX, checked against ONNX Runtime.",
    },
    "latency": {
        "latency": "Latencies of this machine or any device: measure, fit, show, check, compare."
    },
    "data": {"data": "Pictures in shards, for many machines: shard, index, check."},
    "bench": {"bench": "Measure speed and memory of fused blocks here, beside PyTorch's layers."},
}
"""What every command does, by the module beside this one that it is in: a list of them needs
neither these modules nor torch, which take seconds to import.
"""

commands = typer.Typer()
"""The commands of the modules that are imported."""


class _Imported(TyperGroup):
    """A group that imports a command when it is to run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _import(name), rest


def on_rank() -> str:
    """What marks the words of another rank than the first."""
    rank = os.environ.get("RANK", "0")  # As it is, since what is wrong may be this.
    return f" on rank {rank}" if rank != "0" else ""


def _import(name: str) -> Any:
    (module,) = (module for module, summaries in SUMMARIES.items() if name in summaries)
    # Meanwhile nothing has begun, so that Ctrl-C need not say anything.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import_module(f".{module}", __package__)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return typer.main.get_group(commands).commands[name]


app = typer.Typer(
    name="proxyless",
    cls=_Imported,
    help="Search a network directly on your own pictures and your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _summaries in SUMMARIES.values():
    for _name, _summary in _summaries.items():
        app.command(_name, help=_summary)(lambda: None)
