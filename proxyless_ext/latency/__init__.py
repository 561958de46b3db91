"""Latencies: tables of layers, measuring and checking them, and what a search does with them."""

from .check import Check, check_table
from .conditions import Conditions
from .costs import Costs
from .measure import measure_layers, measure_table
from .measured_costs import MeasuredCosts
from .models import CostName, StandingCandidates
from .reference import Reference
from .regularizers import add_linear, mul_log
from .sampling import most_probable_within, sample_within
from .table import Entry, LatencyTable
from .whole_networks import NetworkRow, compare, measure_network

__all__ = [
    "Check",
    "Conditions",
    "CostName",
    "Costs",
    "Entry",
    "LatencyTable",
    "MeasuredCosts",
    "NetworkRow",
    "Reference",
    "StandingCandidates",
    "add_linear",
    "check_table",
    "compare",
    "measure_layers",
    "measure_network",
    "measure_table",
    "most_probable_within",
    "mul_log",
    "sample_within",
]
