"""A whole search run."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..runs import Run
from .stages import Stages


def run_search(run: Run, config: Config) -> dict[str, Any]:
    """Measure, warm up, search, derive, train, evaluate, export, compare; what is done already is
    kept.

    Returns:
        What result.json holds.

    Raises:
        UserError: something in the configuration or the data is impossible, or the run was stopped.
    """
    stages = Stages.prepare(run, config)
    supernet = stages.search()
    choices = stages.derive(supernet)
    network = stages.train(supernet, choices)
    result = stages.finish(network, choices)
    stages.compare(supernet, choices)
    return result
