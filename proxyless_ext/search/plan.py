"""How a search spends a given time, from what steps take on this machine, on all ranks together.

What is measured before it is chosen is what a search is worth (docs/search.md), so the finalists,
which begin the training of the network found, get up to twice the time of that training itself, and
the supernet about as much as half of both. Where several networks are searched, they share the
supernet's part and divide the rest.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import ranks
from ..config import Config
from ..data import batches_per_epoch
from ..errors import UserError
from .candidates import Band, Choices
from .finalists import begun, race
from .goals import objective_of
from .pace import Pace
from .sizes import Size, within_reach
from .task import Task

PLANNED = {
    "warmup": {"epochs", "lr", "batch_size"},
    "search": {"epochs", "lr", "batch_size"},
    "gates": {"every", "lr", "batch_size"},
    "derive": {"networks", "generations", "pictures", "finalists", "round"},
    "train": {"epochs", "lr", "batch_size", "ema_decay"},
}
"""The settings that a plan makes."""

SUPERNET, SHORT_LIST = 0.3, 0.06
"""Their parts of the time."""
OTHERS = 0.05
"""For figures and files, beside all else."""

WARM_UP = 0.2
"""Of the supernet's epochs."""
LEAST_EPOCHS = 3
"""Of the supernet."""
EVERY, GENERATIONS, PICTURES = 4, 2, 2000
LEAST_NETWORKS, MOST_NETWORKS = 8, 128
"""In a generation of the short list."""
TIMED_NETWORKS = 3
"""At least, of the target's latency."""
FINALISTS = (8, 4, 2, 1)
"""The first of these that leaves time for rounds of at least an epoch."""

_SPANS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_budget(text: str) -> float:
    """Seconds of a span such as ``90s``, ``20m``, ``1.5h`` or ``2d``.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|m|h|d)", text.strip())
    seconds = float(match[1]) * _SPANS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UserError(f"budget '{text}' is no span of time; write for example 20m, 1.5h or 2d")
    return seconds


@dataclass(frozen=True)
class Plan:
    """How long the parts of a search take, and the settings that make them so.

    Attributes:
        settings: values by section.
        seconds: of each part, by what it is.
    """

    settings: dict[str, dict[str, Any]]
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def apply(self, config: Config) -> Config:
        """The configuration with the plan's settings."""
        tree = config.model_dump(mode="json")
        for section, values in self.settings.items():
            tree[section] |= values
        return Config.model_validate(tree)


def check_plannable(config: Config) -> None:
    """Refuse a budget beside settings that it would overrule, or a device yet to be measured.

    Raises:
        UserError: names it.
    """
    given = [
        f"{section}.{name}"
        for section, names in PLANNED.items()
        for name in sorted(names & getattr(config, section).model_fields_set)
    ]
    if given:
        raise UserError(f"a budget plans {', '.join(given)}; leave these out, or the budget")
    elsewhere = [aim.latency.processor for aim in config.aims if aim.latency.is_remote]
    if elsewhere:
        raise UserError(
            f"a budget is planned before there is a folder to keep what {elsewhere[0]} measures; "
            "make its table by proxyless latency fit first, or leave out the budget"
        )


def plan_search(config: Config, task: Task, budget: float, spent: float = 0.0) -> tuple[Plan, Task]:
    """Measure latencies and steps, and spend what is left of the time.

    Args:
        config: of the search; its planned settings do not matter.
        task: of the search.
        budget: in seconds.
        spent: of it, before now.

    Returns:
        The plan, which fits into the time, and the task with its latencies.

    Raises:
        UserError: the time is too short; says how much would do. Or the target is out of reach.
    """
    started = time.monotonic()
    task = task.measured(config)
    planner = Planner(config, task, measure_pace(config, task))
    return _spend(planner, budget, spent + time.monotonic() - started), task


def plan_sizes(sizes: Sequence[Size], budget: float, spent: float = 0.0) -> tuple[Plan, list[Size]]:
    """One plan for the searches of all sizes, so that they are trained alike.

    Args:
        sizes: as `read_sizes` gives them.
        budget, spent: as of `plan_search`, for all together.

    Returns:
        The plan, and the sizes with their latencies.

    Raises:
        UserError: as of `plan_search`.
    """
    started = time.monotonic()
    sizes = within_reach([replace(size, task=size.task.measured(size.config)) for size in sizes])
    searched = [size for size in sizes if size.config.aims]
    pace = Pace.sum(measure_pace(size.config, size.task) for size in searched)
    dearest = max(searched, key=lambda size: len(size.config.aims))
    planner = Planner(dearest.config, dearest.task, pace)
    return _spend(planner, budget, spent + time.monotonic() - started), sizes


def _spend(planner: Planner, budget: float, spent: float) -> Plan:
    """The plan of the first rank, whose clock and pace count for all."""
    return ranks.of_first(planner.spend, budget - spent, budget)


def measure_pace(config: Config, task: Task) -> Pace:
    """What steps take with usual batches, and with networks of the targets' latencies.

    Raises:
        UserError: a target is out of reach.
    """
    networks: list[Choices] = []
    for aim in config.aims:
        band = Band.of(objective_of(aim, task.space, task.tables[aim.device]))
        networks += band.drawn(math.ceil(TIMED_NETWORKS / len(config.aims)), config.seed)
    usual = Plan(_batches(len(task.data.train)), {}).apply(config)
    return Pace.measure(usual, task, networks)


class Planner:
    """Knows what the parts of a search take.

    Args:
        config: of the search.
        task: of the search.
        pace: of this machine.
    """

    def __init__(self, config: Config, task: Task, pace: Pace) -> None:
        self.task = task
        self.pace = pace
        self.batches = _batches(len(task.data.train))
        self.pictures = min(PICTURES, len(task.data.train_gates))
        self.goals = len(config.aims)
        self.least_epochs = self._least_epochs()
        self.rivals = config.comparison.random_networks + config.comparison.short_list

    def spend(self, seconds: float, budget: float) -> Plan:
        """The plan that uses up to so many seconds of a budget.

        Raises:
            UserError: they are too few.
        """
        least = self.plan(self.least_epochs, LEAST_NETWORKS, 1, 1)
        if least.total > seconds:
            enough = math.ceil((least.total + budget - seconds) / 60)
            raise UserError(
                f"a budget of {_span(budget)} is too small for "
                f"{len(self.task.data.train)} pictures and space '{self.task.space.name}' on this "
                f"machine; give {enough} min or more, or set data.limit"
            )
        epochs = max(self.least_epochs, int(SUPERNET * seconds / self._supernet(1)))
        networks = int(SHORT_LIST * seconds / self._short_list(1))
        networks = min(max(LEAST_NETWORKS, networks), MOST_NETWORKS)
        for finalists in FINALISTS:
            fixed = self.plan(epochs, networks, finalists, 0).total
            epoch = self.plan(epochs, networks, finalists, 1).total - fixed
            train_epochs = int((seconds - fixed) / epoch)
            if train_epochs * _round(finalists) >= 1:
                return self.plan(epochs, networks, finalists, train_epochs)
        return self.plan(epochs, networks, 1, train_epochs) if train_epochs >= 1 else least

    def plan(self, epochs: int, networks: int, finalists: int, train_epochs: int) -> Plan:
        """The plan of these numbers.

        Args:
            epochs: of the supernet, warm-up included.
            networks: in a generation of a short list.
            finalists: of it.
            train_epochs: of a network found.
        """
        warm_up, first_round = _warm_up(epochs), _round(finalists)
        settings = {name: dict(values) for name, values in self.batches.items()}
        settings["warmup"]["epochs"] = warm_up
        settings["search"]["epochs"] = epochs - warm_up
        settings["derive"] = {
            "networks": networks,
            "generations": GENERATIONS,
            "pictures": self.pictures,
            "finalists": finalists,
            "round": first_round,
        }
        steps = train_epochs * len(self.task.data.train) / settings["train"]["batch_size"]
        settings["train"] |= {"epochs": train_epochs, "ema_decay": _ema_decay(steps)}
        training = self.goals * train_epochs * self._epoch
        seconds = {
            f"warm-up, {warm_up} epochs": warm_up * self._weight_epoch,
            f"search, {epochs - warm_up} epochs": self._supernet(epochs)
            - warm_up * self._weight_epoch,
            self._each(f"short list, {networks * (1 + GENERATIONS)} networks"): self._short_list(
                networks
            ),
            self._each(f"finalists, {finalists} networks"): race(finalists, first_round) * training,
            self._each(f"training, {train_epochs} epochs"): (1 - begun(finalists, first_round))
            * training,
            self._each(f"comparison, {self.rivals} networks"): self.rivals * training,
        }
        seconds["figures and files"] = OTHERS * sum(seconds.values())
        return Plan(settings, {part: each for part, each in seconds.items() if each > 0})

    def _least_epochs(self) -> int:
        """Of the supernet, with a gate step for every network; the first of a search has none."""
        steps = batches_per_epoch(
            len(self.task.data.train_weights), self.batches["search"]["batch_size"]
        )
        search = 1 + math.ceil(EVERY * self.goals / steps)
        return next(
            epochs
            for epochs in itertools.count(LEAST_EPOCHS)
            if epochs - _warm_up(epochs) >= search
        )

    @property
    def _weight_epoch(self) -> float:
        """Seconds of an epoch of the supernet without gate steps."""
        return len(self.task.data.train_weights) * self.pace.weight

    @property
    def _epoch(self) -> float:
        """Seconds of an epoch of a training."""
        data = self.task.data
        return len(data.train) * self.pace.train + len(data.val) * self.pace.score

    def _supernet(self, epochs: int) -> float:
        """Seconds of warm-up and search, whose first epoch has no gate steps."""
        gates = max(epochs - _warm_up(epochs) - 1, 0) * len(self.task.data.train_weights) / EVERY
        return epochs * self._weight_epoch + gates * self.pace.gate

    def _short_list(self, networks: int) -> float:
        scored = self.goals * networks * (1 + GENERATIONS)
        return scored * self.pictures * self.pace.score

    def _each(self, part: str) -> str:
        """What a part is called that every network searched has."""
        return part if self.goals == 1 else f"{self.goals} x {part}"


def _span(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else f"{seconds / 60:.3g} min"


def _batches(pictures: int) -> dict[str, dict[str, Any]]:
    """Batch sizes and rates for so many training pictures: for few those that docs/search.md was
    measured with, from 50,000 on those of the published warm-up.
    """
    batch_size = min(max(2 ** round(math.log2(pictures / 200)), 32), 256)
    weights = {"lr": 0.1 if batch_size <= 64 else 0.05, "batch_size": batch_size}
    gates = {"every": EVERY, "lr": 0.01, "batch_size": batch_size}
    return {"warmup": weights, "search": weights, "gates": gates, "train": weights}


def _warm_up(epochs: int) -> int:
    return max(1, round(WARM_UP * epochs))


def _round(finalists: int) -> float:
    """The part of a training that the first round takes: longer for few, whose order is harder to
    tell.
    """
    return 0.125 if finalists > 4 else 0.25


def _ema_decay(steps: float) -> float:
    """Averages over the last fiftieth of a training, and no longer than published ones."""
    return min(0.999, 1 - 50 / max(steps, 50))
