"""From the alphas of a search to one network."""

from __future__ import annotations

from ..latency.sampling import most_probable_within
from ..nn import SuperNet
from .objective import Objective


def derive_choices(supernet: SuperNet, objective: Objective) -> list[int]:
    """The most probable network: argmax at every edge.

    Under a latency target it is the most probable one within the tolerance. The search ends with
    its argmax held at the target, so that the two are the same unless the space's steps are
    coarse. Where no network lies within the tolerance, the nearest ones count.

    Returns:
        One candidate index per edge.
    """
    edges = supernet.edges
    choices = edges.choices()
    if (target := objective.target) is None:
        return choices
    slack = objective.config.tolerance * target.target_ms
    if abs(objective.predicted_ms(choices) - target.target_ms) <= slack:
        return choices
    log_probabilities = edges.alpha_matrix().detach().double().cpu().log_softmax(dim=1)
    searched_ms = target.target_ms - target.fixed_ms
    while True:
        nearest = most_probable_within(
            log_probabilities, target.latencies, searched_ms - slack, searched_ms + slack
        )
        if nearest is not None:
            return nearest
        slack *= 1.05
