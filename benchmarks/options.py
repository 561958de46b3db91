"""The command line that the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark asks for; `parse` reads it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, help="pictures (default: 32)")
    parser.add_argument("--resolution", type=int, help="of the pictures (default: 224)")
    parser.add_argument("--rounds", type=int, help="timed runs of each peer")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="a folder")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to see it work")
    return parser


def parse(
    parser: argparse.ArgumentParser, usual: dict[str, Any], quick: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line and set torch's threads.

    Args:
        parser: made by `new_parser`.
        usual: values of options that were not given.
        quick: what ``--quick`` makes of them.
    """
    arguments = parser.parse_args()
    usual = {"batch": 32, "resolution": 224, **usual}
    for name, value in {**usual, **(quick if arguments.quick else {})}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    torch.set_num_threads(arguments.threads)
    return arguments
