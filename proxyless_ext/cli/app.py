"""The command line's root."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="proxyless",
    help="Search a network directly on your own pictures and your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
