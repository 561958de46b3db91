"""From the alphas of a search to one network, without measuring any."""

from __future__ import annotations

from torch import Tensor

from ..nn import SuperNet
from .candidates import Band, Choices
from .objective import Objective


def derive_choices(supernet: SuperNet, objective: Objective) -> Choices:
    """The most probable network: argmax at every edge.

    Under a latency target it is the most probable one within the tolerance. Where no network lies
    within the tolerance, the nearest ones count.
    """
    return likeliest(supernet.edges.log_probabilities(), objective)


def likeliest(log_probabilities: Tensor, objective: Objective) -> Choices:
    """The same by the log-probabilities [E, N] of the candidates."""
    band = Band.of(objective)
    # Draws find a network even where the most probable ones of a widened band all lie outside.
    (choices,) = band.likeliest(log_probabilities, 1) or band.some(1)
    return choices
