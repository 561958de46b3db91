"""The command line: ``proxyless search``, ``train``, ``latency`` and the others."""

from . import search, network, latency  # noqa: F401, I001  (registers commands, in this order)
from .app import app


def main() -> None:
    """Entry point of the console script."""
    app()
