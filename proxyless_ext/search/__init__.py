"""The search: gate steps, the latency target, warm-up and search phases, and whole runs."""

from .derive import derive_choices
from .model_search import Search
from .objective import Objective
from .plan import Plan, check_plannable, parse_budget, plan_search, plan_sizes
from .run import check_ended, compare_again, derive_again, run_search
from .sizes import Size, begin_sizes, check_sizes, load_sizes, read_sizes
from .target import LatencyTarget
from .task import Task

__all__ = [
    "LatencyTarget",
    "Objective",
    "Plan",
    "Search",
    "Size",
    "Task",
    "begin_sizes",
    "check_ended",
    "check_plannable",
    "check_sizes",
    "compare_again",
    "derive_again",
    "derive_choices",
    "load_sizes",
    "parse_budget",
    "plan_search",
    "plan_sizes",
    "read_sizes",
    "run_search",
]
