"""The search: gate steps, the latency target, warm-up and search phases, and whole runs."""

from .derive import derive_choices
from .model_search import Search
from .objective import Objective
from .plan import check_plannable, parse_budget, plan_search
from .run import check_ended, compare_again, derive_again, run_search
from .target import LatencyTarget
from .task import Task

__all__ = [
    "LatencyTarget",
    "Objective",
    "Search",
    "Task",
    "check_ended",
    "check_plannable",
    "compare_again",
    "derive_again",
    "derive_choices",
    "parse_budget",
    "plan_search",
    "run_search",
]
