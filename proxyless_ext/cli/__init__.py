"""The command line: ``proxyless search``, ``train``, ``latency`` and the others."""

import warnings  # noqa: I001  (the imports below register commands, in this order)

from . import search, network, latency  # noqa: F401
from .app import app


def main() -> None:
    """Entry point of the console script."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    app()
