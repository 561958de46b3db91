"""The command line: ``proxyless search``, ``train``, ``latency`` and the others."""

import io
import sys
import warnings

from .app import app, on_rank


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Paths need not be text.
    warnings.formatwarning = lambda message, *_, **__: f"warning{on_rank()}: {message}\n"
    app()
