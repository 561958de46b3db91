"""The command line: ``proxyless search``, ``train``, ``latency`` and the others."""

from . import search  # noqa: F401  (registers its commands)
from .app import app


def main() -> None:
    """Entry point of the console script."""
    app()
