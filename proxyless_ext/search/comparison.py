"""Derived networks beside others: random ones, those of their short lists, and yardsticks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from .. import ranks
from ..nn import SuperNet
from ..quantities import show_range
from ..runs import Comparison, Competitor, read_metrics
from ..seeding import derive_seed
from ..zoo import WIDTHS, YARDSTICKS, build, build_yardstick
from .candidates import Band, Choices
from .goals import Device, Goal
from .short_list import best_first, scored_networks
from .stages import Stages


def compare(stages: Stages, supernet: SuperNet, chosen: Sequence[Choices]) -> None:
    """Train others alike, random ones and of the short list; measure the yardsticks.

    Those that were compared before stay.

    Args:
        stages: of the run.
        supernet: after the search.
        chosen: the derived network of every goal.
    """
    yardsticks = {device.name: _measure_yardsticks(stages, device) for device in stages.devices}
    wanted = stages.config.comparison
    for goal, choices in zip(stages.goals, chosen, strict=True):
        before: Comparison = ranks.of_first(getattr, goal.outcome, "comparison")
        random = draw_random(stages, goal, choices, max(wanted.random_networks, len(before.random)))
        listed = _listed(stages, goal, choices, max(wanted.short_list, len(before.short_list)))
        comparison = Comparison(
            random=_train(stages, supernet, goal, "random", random),
            short_list=_train(stages, supernet, goal, "shortlist", listed),
            yardsticks=yardsticks[goal.device.name],
        )
        ranks.of_first(goal.outcome.write_comparison, comparison)


def _measure_yardsticks(stages: Stages, device: Device) -> tuple[Competitor, ...]:
    """As published; beside networks of several latencies, of several widths."""
    if not stages.config.comparison.yardsticks:
        return ()
    classes = len(stages.data.classes)
    if stages.config.devices:
        networks = {
            f"{name} x {width}": build_yardstick(name, classes, width)
            for name in YARDSTICKS
            for width in WIDTHS
        }
    else:
        networks = {name: build(name, classes) for name in YARDSTICKS}
    return tuple(
        Competitor(name=name, **stages.costs(device, network).model_dump())
        for name, network in networks.items()
    )


def _train(
    stages: Stages, supernet: SuperNet, goal: Goal, kind: str, networks: list[Choices]
) -> tuple[Competitor, ...]:
    competitors = []
    for index, choices in enumerate(networks):
        name = f"{kind}-{index}"
        network = stages.train(supernet, choices, goal.phase(name))
        figures = stages.figures(goal, network, choices)
        competitors.append(Competitor(name=name, **figures.model_dump()))
    return tuple(competitors)


def _listed(stages: Stages, goal: Goal, choices: Choices, wanted: int) -> list[Choices]:
    """The best of the short list but for the derived network; fewer where there are no more."""
    records = ranks.of_first(read_metrics, stages.run.metrics_path)
    scored = scored_networks(records, goal)
    order = [network.choices for network in best_first(scored, goal.objective.network_loss)]
    return [each for each in order if each != choices][:wanted]


def draw_random(stages: Stages, goal: Goal, choices: Choices, wanted: int) -> list[Choices]:
    """Random networks of the derived one's latency; fewer where there are no more."""
    if not wanted:
        return []
    latency = goal.objective.predicted(choices)
    slack = goal.objective.config.tolerance * latency
    low, high = latency - slack, latency + slack
    seed = derive_seed(stages.config.seed, "random networks")
    drawn = Band(goal.objective, low, high).drawn(wanted + 1, seed)
    found = [rival for rival in drawn if rival != choices][:wanted]
    if len(found) < wanted:
        warnings.warn(
            f"there are only {len(found)} networks of "
            f"{show_range(low, high, goal.objective.costs.unit)} to compare with, not {wanted}",
            stacklevel=2,
        )
    return found
