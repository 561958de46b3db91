"""Reports: the page about a run, drawings of networks, and charts that compare networks."""

from .compare import (
    SearchedPoint,
    draw_comparison,
    draw_fit,
    draw_pareto,
    draw_prediction,
)
from .network_drawing import draw_network, draw_networks
from .page import describe_verdict, write_report
from .plot import check_format
from .results import describe_results
from .status import describe_status

__all__ = [
    "SearchedPoint",
    "check_format",
    "describe_results",
    "describe_status",
    "describe_verdict",
    "draw_comparison",
    "draw_fit",
    "draw_network",
    "draw_networks",
    "draw_pareto",
    "draw_prediction",
    "write_report",
]
