"""Whole search runs, and what can be had from one afterwards."""

from __future__ import annotations

from pathlib import Path

from .. import ranks
from ..config import Config
from ..errors import UserError
from ..latency import LatencyTable
from ..nn import SuperNet
from ..runs import Result, Run, load_checkpoint
from ..spaces import Architecture, Space
from ..training.continuity import is_done, keep_end
from .comparison import compare, draw_random
from .derivation import choose
from .derive import derive_choices
from .goals import objective_of
from .phases import check_space
from .stages import Stages
from .task import Task


def run_search(run: Run, config: Config, task: Task) -> list[Result]:
    """Measure, warm up, search, derive, train, publish, compare; what is done already is kept.

    Returns:
        What was found for each of `config.aims`.

    Raises:
        UserError: a target is out of reach, a training diverged, or the run was stopped.
    """
    if ranks.of_first(is_done, run, config):
        return [ranks.of_first(getattr, run.outcome_of(aim.name), "result") for aim in config.aims]
    stages = Stages.prepare(run, config, task)
    supernet = stages.search()
    chosen = choose(stages, supernet)
    results = []
    for goal, choices in zip(stages.goals, chosen, strict=True):
        # A network that several goals chose is trained once.
        first = stages.goals[chosen.index(choices)]
        training = first.phase("train")
        network = stages.train(supernet, choices, training)
        results.append(stages.finish(goal, network, choices, training))
    compare(stages, supernet, chosen)
    ranks.of_first(keep_end, run)
    return results


def compare_again(run: Run, config: Config, task: Task) -> None:
    """Compare the networks of a finished search with others, as `config.comparison` says.

    Raises:
        UserError: the search has not ended, or the run was stopped.
    """
    check_ended(run, *(run.outcome_of(aim.name).result_path for aim in config.aims))
    stages = Stages.prepare(run, config, task)
    chosen = []
    for goal in stages.goals:
        choices = goal.outcome.result.choices
        assert choices is not None
        if len(draw_random(stages, goal, choices, 2)) < 2:
            raise UserError(
                "the space has fewer than two other networks of the latency of that in "
                f"{goal.outcome.folder}, with which nothing can be decided; search with a wider "
                "latency.tolerance"
            )
        chosen.append(choices)
    compare(stages, stages.search(), chosen)
    ranks.of_first(keep_end, run)


def check_ended(run: Run, *files: Path) -> None:
    """Refuse a run that is no search, or a search that has not come to these files.

    Raises:
        UserError: it is one of these.
    """
    if not (run.space_path.exists() or run.sizes):
        raise UserError(f"the run in {run.folder} is no search; give the folder of one")
    if not all(path.exists() for path in files):
        raise UserError(
            f"the search in {run.folder} has not ended; go on with it by {run.going_on}"
        )


def derive_again(run: Run, config: Config) -> tuple[Architecture, float, str]:
    """Derive from the alphas of a finished search, say under another target in `config.latency`.

    Returns:
        The architecture, what it costs by the run's table, and the unit of that.

    Raises:
        UserError: the search has not ended or was for several networks, or target or limits are
            impossible.
    """
    if config.devices:
        raise UserError(
            f"the run in {run.folder} searched {len(config.aims)} networks; give the folder of a "
            "search for one"
        )
    path = run.checkpoint("search")
    check_ended(run, path, run.outcome.architecture_path)
    supernet = SuperNet(Space.load(run.space_path))
    state = load_checkpoint(path)["phase"]
    check_space(supernet, state, "search")
    supernet.load_state_dict(state["model"])
    table = LatencyTable.load(run.latency_path)
    (aim,) = config.aims
    objective = objective_of(aim, supernet.space, table, run)
    choices = derive_choices(supernet, objective)
    derived = Architecture.load(run.outcome.architecture_path)
    own = {name: getattr(derived, name) for name in ("classes", "normalisation", "dropout")}
    architecture = supernet.space.architecture(choices, "derived").model_copy(update=own)
    return architecture, objective.predicted(choices), table.unit
