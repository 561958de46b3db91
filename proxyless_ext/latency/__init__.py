"""Latencies: tables of layers, measuring and checking them, and what a search does with them."""

from .backends import register_backend
from .check import Check, check_table
from .conditions import Conditions
from .costs import Costs
from .counting import COUNTS, CountName, count_table
from .design import plan_networks
from .fit import Fit, fit_networks, interval, measure_and_fit
from .given import read_measured, write_plan
from .journal import Journal
from .limited import most_probable_limited, sample_limited
from .limits import Limit, solve_prices
from .measure import measure_layers, measure_table
from .measured_costs import MeasuredCosts
from .models import CostName, StandingCandidates
from .readout import Readout
from .reference import Reference
from .regularizers import add_linear, mul_log
from .remote import Remote
from .sampling import most_probable_within, sample_within
from .table import Entry, LatencyTable
from .trials import open_journal
from .whole_networks import NetworkRow, compare, measure_network

__all__ = [
    "COUNTS",
    "Check",
    "Conditions",
    "CostName",
    "Costs",
    "CountName",
    "Entry",
    "Fit",
    "Journal",
    "LatencyTable",
    "Limit",
    "MeasuredCosts",
    "NetworkRow",
    "Readout",
    "Reference",
    "Remote",
    "StandingCandidates",
    "add_linear",
    "check_table",
    "compare",
    "count_table",
    "fit_networks",
    "interval",
    "measure_and_fit",
    "measure_layers",
    "measure_network",
    "measure_table",
    "most_probable_limited",
    "most_probable_within",
    "mul_log",
    "open_journal",
    "plan_networks",
    "read_measured",
    "register_backend",
    "sample_limited",
    "sample_within",
    "solve_prices",
    "write_plan",
]
