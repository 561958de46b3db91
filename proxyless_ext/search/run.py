"""Whole search runs, and what can be had from one afterwards."""

from __future__ import annotations

from pathlib import Path

from ..config import Config
from ..errors import UserError
from ..latency import LatencyTable
from ..nn import SuperNet
from ..runs import Result, Run, load_checkpoint
from ..spaces import Architecture, Space
from .comparison import compare, draw_random
from .derivation import choose
from .derive import derive_choices
from .objective import Objective
from .phases import check_space
from .stages import Stages
from .task import Task


def run_search(run: Run, config: Config, task: Task) -> Result:
    """Measure, warm up, search, derive, train, publish, compare; what is done already is kept.

    Raises:
        UserError: the target is out of reach, the training diverged, or the run was stopped.
    """
    stages = Stages.prepare(run, config, task)
    supernet = stages.search()
    choices = choose(stages, supernet)
    network = stages.train(supernet, choices)
    result = stages.finish(network, choices)
    compare(stages, supernet, choices)
    return result


def compare_again(run: Run, config: Config, task: Task) -> None:
    """Compare the network of a finished search with others, as `config.comparison` says.

    Raises:
        UserError: the search has not ended, or the run was stopped.
    """
    check_ended(run, run.outcome.result_path)
    stages = Stages.prepare(run, config, task)
    choices = run.outcome.result.choices
    assert choices is not None
    if len(draw_random(stages, choices, 2)) < 2:
        raise UserError(
            f"the space has fewer than two other networks of the latency of that in {run.folder}, "
            "with which nothing can be decided; search with a wider latency.tolerance"
        )
    compare(stages, stages.search(), choices)


def check_ended(run: Run, *files: Path) -> None:
    """Refuse a run that is no search, or a search that has not come to these files.

    Raises:
        UserError: it is one of these.
    """
    if not run.space_path.exists():
        raise UserError(f"the run in {run.folder} is no search; give the folder of one")
    if not all(path.exists() for path in files):
        raise UserError(
            f"the search in {run.folder} has not ended; go on with it by {run.going_on}"
        )


def derive_again(run: Run, config: Config) -> tuple[Architecture, float]:
    """Derive from the alphas of a finished search, say under another target in `config.latency`.

    Returns:
        The architecture and its predicted latency in ms.

    Raises:
        UserError: the search has not ended, or the target is out of reach.
    """
    path = run.checkpoint("search")
    check_ended(run, path, run.outcome.architecture_path)
    supernet = SuperNet(Space.load(run.space_path))
    state = load_checkpoint(path)["phase"]
    check_space(supernet, state, "search")
    supernet.load_state_dict(state["model"])
    table = LatencyTable.load(run.latency_path)
    objective = Objective.of_space(supernet.space, table, config.latency)
    choices = derive_choices(supernet, objective)
    derived = Architecture.load(run.outcome.architecture_path)
    own = {name: getattr(derived, name) for name in ("classes", "normalisation", "dropout")}
    architecture = supernet.space.architecture(choices, "derived").model_copy(update=own)
    return architecture, objective.predicted_ms(choices)
