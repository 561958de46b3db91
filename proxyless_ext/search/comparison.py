"""The derived network beside others: random ones, those of its short list, and yardsticks."""

from __future__ import annotations

import warnings

from ..latency import sample_within
from ..nn import SuperNet
from ..runs import Comparison, Competitor, ShortListEpoch, read_metrics
from ..seeding import derive_seed
from ..zoo import YARDSTICKS, build
from .candidates import Choices
from .short_list import best_first
from .stages import Stages


def compare(stages: Stages, supernet: SuperNet, choices: Choices) -> None:
    """Train others alike, random ones and of the short list; measure the yardsticks.

    Those that were compared before stay.

    Args:
        stages: of the run.
        supernet: after the search.
        choices: the derived network.
    """
    before, wanted = stages.run.outcome.comparison, stages.config.comparison
    random = draw_random(stages, choices, max(wanted.random_networks, len(before.random)))
    listed = _listed(stages, choices, max(wanted.short_list, len(before.short_list)))
    yardsticks = []
    if wanted.yardsticks:
        for name in YARDSTICKS:
            yardstick = build(name, len(stages.data.classes))
            yardsticks.append(Competitor(name=name, **stages.costs(yardstick).model_dump()))
    comparison = Comparison(
        random=_train(stages, supernet, "random", random),
        short_list=_train(stages, supernet, "shortlist", listed),
        yardsticks=tuple(yardsticks),
    )
    stages.run.outcome.write_comparison(comparison)


def _train(
    stages: Stages, supernet: SuperNet, kind: str, networks: list[Choices]
) -> tuple[Competitor, ...]:
    competitors = []
    for index, choices in enumerate(networks):
        name = f"{kind}-{index}"
        network = stages.train(supernet, choices, name)
        figures = stages.figures(network, choices)
        competitors.append(Competitor(name=name, **figures.model_dump()))
    return tuple(competitors)


def _listed(stages: Stages, choices: Choices, wanted: int) -> list[Choices]:
    """The best of the short list but for the derived network; fewer where there are no more."""
    records = read_metrics(stages.run.metrics_path)
    lists = [record.networks for record in records if isinstance(record, ShortListEpoch)]
    scored = [network for networks in lists for network in networks]
    order = [network.choices for network in best_first(scored, stages.objective.network_loss)]
    return [each for each in order if each != choices][:wanted]


def draw_random(stages: Stages, choices: Choices, wanted: int) -> list[Choices]:
    """Random networks of the derived one's latency; fewer where there are no more."""
    if not wanted:
        return []
    latency = stages.objective.predicted_ms(choices)
    slack = stages.config.latency.tolerance * latency
    low, high = latency - slack, latency + slack
    seed = derive_seed(stages.config.seed, "random networks")
    drawn = map(tuple, sample_within(stages.objective.costs, low, high, wanted + 1, seed))
    found = [rival for rival in drawn if rival != choices][:wanted]
    if len(found) < wanted:
        warnings.warn(
            f"there are only {len(found)} networks of {low:.4g} to {high:.4g} ms to compare with, "
            f"not {wanted}",
            stacklevel=2,
        )
    return found
