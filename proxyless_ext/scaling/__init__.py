"""What a search takes on any number of devices, before any of them is rented."""

from .cluster import BACKWARD, Cluster, Estimate, estimate
from .figure import draw_estimates
from .step_costs import StepCosts, count_steps, measure_steps
from .work import SUPERNET_PARTS, PictureCounts, Work, list_work

__all__ = [
    "BACKWARD",
    "SUPERNET_PARTS",
    "Cluster",
    "Estimate",
    "PictureCounts",
    "StepCosts",
    "Work",
    "count_steps",
    "draw_estimates",
    "estimate",
    "list_work",
    "measure_steps",
]
