"""From the alphas of a search to one network, without measuring any."""

from __future__ import annotations

from ..nn import SuperNet
from .candidates import Band, Choices
from .objective import Objective


def derive_choices(supernet: SuperNet, objective: Objective) -> Choices:
    """The most probable network: argmax at every edge.

    Under a latency target it is the most probable one within the tolerance. Where no network lies
    within the tolerance, the nearest ones count.
    """
    log_probabilities = supernet.edges.log_probabilities()
    (choices,) = Band.of(objective).likeliest(log_probabilities, 1)
    return choices
