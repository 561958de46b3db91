"""The command line: ``proxyless search``, ``train``, ``latency`` and the others."""

from . import network, search  # noqa: F401  (they register their commands)
from .app import app


def main() -> None:
    """Entry point of the console script."""
    app()
