"""The program: ``proxyless``, or ``python -m proxyless_ext``."""

from __future__ import annotations

import os

SPINS = "1000"
"""How often a waiting OpenMP thread looks before it sleeps (docs/results.md has the figures)."""


def main() -> None:
    """Prepare the process for sharing its cores, and hand over to the command line."""
    # Read once, when torch loads OpenMP. By default a thread that waits keeps its core for itself,
    # and where other programs want it, every step waits for a thread that was put aside.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from .cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
