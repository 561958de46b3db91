"""Warm-up and search: the two phases that train a supernet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import gates, ranks
from ..config import Config, SupernetConfig
from ..data import Pictures, batches_per_epoch, endless
from ..errors import UserError
from ..nn import Slices, SuperNet
from ..runs import Epoch, SearchEpoch
from ..runtime import Runtime
from ..seeding import generator
from ..spaces import Space
from ..training.meter import Meter
from ..training.phase import Batch
from ..training.weight_phase import WeightPhase
from .gate_steps import gate_learner
from .goals import Goal
from .path_scores import PathScores


class _SuperNetPhase(WeightPhase):
    """Weight steps: drawn paths, each trained on its part of a batch.

    Args:
        path_scores: learns from the losses of uniform paths.
        paths: ``uniform``, or ``sampled`` from the alphas.
    """

    def __init__(
        self,
        name: str,
        supernet: SuperNet,
        path_scores: PathScores,
        config: Config,
        schedule: SupernetConfig,
        runtime: Runtime,
        data: Pictures,
        paths: str,
    ) -> None:
        super().__init__(
            name,
            supernet,
            supernet.edges.weights,
            data.train_weights,
            schedule,
            config,
            runtime,
            decay_norms=True,
        )
        self.supernet = supernet
        self.path_scores = path_scores
        self.is_uniform = paths == "uniform"
        self.paths_of_rank = schedule.paths_of_rank
        self.num_paths = schedule.paths_per_step
        self._paths: list[list[int]] = []

    def train_on(self, step: int, pictures: Tensor, labels: Tensor, weight: float) -> Tensor:
        edges = self.supernet.edges
        draws = generator(self.config.seed, self.name, "paths", step)
        if self.num_paths > 1:
            self._paths = edges.draw_apart(self.num_paths, draws)
        else:
            edges.sample(draws, self.is_uniform)
            self._paths = [edges.active]
        figures = super().train_on(step, pictures, labels, weight)
        if self.is_uniform:
            for path, (part, loss, _) in zip(self._paths, figures, strict=True):
                self.path_scores.add(path, loss / part)
        return figures

    def paths_of_parts(self, pictures: int) -> Sequence[int]:
        if self.num_paths == 1:
            return super().paths_of_parts(pictures)
        rank, world = ranks.place()
        first = rank * self.num_paths // world
        return range(first, first + self.paths_of_rank(world))

    def take_path(self, number: int) -> None:
        self.supernet.edges.activate(self._paths[number])

    def slices(self) -> Mapping[nn.Parameter, Slices]:
        edges = self.supernet.edges
        return edges.used(self._paths) if self.num_paths > 1 else edges.slices()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "path_scores": self.path_scores.state_dict(),
            "space": self.supernet.space.model_dump_json(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_space(self.supernet, state, self.name)
        super().load_state_dict(state)
        self.path_scores.load_state_dict(state["path_scores"])


class WarmUp(_SuperNetPhase):
    """Trains the weights under uniform paths; the alphas stay as they are."""

    section = "warmup"

    def __init__(
        self,
        supernet: SuperNet,
        path_scores: PathScores,
        config: Config,
        runtime: Runtime,
        data: Pictures,
    ) -> None:
        schedule = config.warmup
        super().__init__(
            "warmup", supernet, path_scores, config, schedule, runtime, data, "uniform"
        )

    def end_epoch(self, epoch: int, meter: Meter) -> tuple[Epoch]:
        return (Epoch(**self.measures(epoch, meter)),)


class Search(_SuperNetPhase):
    """Alternates weight steps with gate steps on held-out training pictures.

    The weights of uniform paths know nothing of alphas, so they serve any number of goals. Each
    goal has alphas of its own, and gate steps move those of the goals in turn.

    Args:
        goals: what is searched for; more than one only under uniform paths.
    """

    section = "search"
    batch_settings = ("search.batch_size", "gates.batch_size")

    def __init__(
        self,
        supernet: SuperNet,
        path_scores: PathScores,
        config: Config,
        runtime: Runtime,
        data: Pictures,
        goals: Sequence[Goal],
    ) -> None:
        schedule = config.search
        super().__init__(
            "search", supernet, path_scores, config, schedule, runtime, data, schedule.paths
        )
        self.data = data
        self.goals = goals
        self.learners = [
            gate_learner(supernet.edges, goal.objective, config.gates, runtime) for goal in goals
        ]
        for goal in goals:
            goal.take_alphas(supernet.edges)
        self.first_step = first_gate_step(config, len(data.train_weights))
        self.gate_batches: Iterator[Batch] | None = None
        self.gate_batch: Batch | None = None

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Takes the batch of a gate step together with that of the weight step before it."""
        first = epoch * self.num_batches + start
        for step, batch in enumerate(super().batches(epoch, start), first):
            index = self._gate_step_after(step)
            self.gate_batch = None if index is None else next(self._gate_batches(index))
            yield batch

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        super().step(step, pictures, labels, meter)
        index = self._gate_step_after(step)
        if index is not None:
            assert self.gate_batch is not None
            self._gate_step(index, self.gate_batch, meter)

    def _gate_step_after(self, step: int) -> int | None:
        """The number of the gate step that follows a weight step, if one does."""
        number, rest = divmod(step + 1 - self.first_step, self.config.gates.every)
        return number - 1 if number > 0 and rest == 0 else None

    def _gate_batches(self, index: int) -> Iterator[Batch]:
        """The batches of gate steps, from number `index` on if none was taken yet."""
        if self.gate_batches is None:
            self.gate_batches = endless(
                self.data.train_gates,
                self.config.gates.batch_size,
                self.config.seed,
                "gates",
                start=index,
                workers=self.config.data.workers,
                **self.runtime.reading,
            )
        return self.gate_batches

    def _gate_step(self, index: int, batch: Batch, meter: Meter) -> None:
        """Gate step number `index`."""
        pictures, labels = map(self.runtime.put, batch)
        share = ranks.share(len(labels))

        def run() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            logits = self.supernet(pictures)
            loss = share.weight * functional.cross_entropy(logits, labels)
            hits = share.weight * (logits.detach().argmax(dim=1) == labels).float().mean()
            whole, accuracy = ranks.mean(torch.stack([loss.detach(), hits])).to(loss.dtype)
            # The value is that of the whole batch, by which a latency term may be multiplied.
            loss = loss + (whole - loss).detach()
            return loss, accuracy, {"gate_loss": whole, "gate_accuracy": accuracy}

        number = index % len(self.goals)
        goal, edges = self.goals[number], self.supernet.edges
        edges.set_alphas(goal.alphas)
        draws = generator(self.config.seed, "gates", "paths", index)
        told = self.learners[number].step(run, draws)
        goal.take_alphas(edges)
        means = {name: torch.stack([each[name] for each in told]).mean() for name in told[0]}
        meter.add(share.total, **means)

    def end_epoch(self, epoch: int, meter: Meter) -> list[SearchEpoch]:
        return [self._record(goal, self.measures(epoch, meter)) for goal in self.goals]

    def _record(self, goal: Goal, measures: dict[str, Any]) -> SearchEpoch:
        probabilities = goal.probabilities
        objective = goal.objective
        return SearchEpoch(
            **{**measures, "phase": goal.phase(self.name)},
            expected=objective.expected(probabilities).item(),
            derived=objective.predicted(probabilities.argmax(dim=1).tolist()),
            target=objective.target,
            unit=objective.costs.unit,
            trade_off=objective.trade_off,
            entropy=gates.entropy(probabilities).item(),
            probabilities=tuple(
                tuple(row[:count].tolist())
                for row, count in zip(probabilities, self.supernet.space.counts, strict=True)
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "learners": [learner.state_dict() for learner in self.learners],
            "alphas": [goal.alphas for goal in self.goals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(saved)
        for goal, alphas in zip(self.goals, state["alphas"], strict=True):
            goal.alphas = list(map(self.runtime.put, alphas))
        self.gate_batches = None


def first_gate_step(config: Config, pictures: int) -> int:
    """The weight step after which gate steps begin.

    Args:
        config: of the run.
        pictures: number of those that weights are trained on.

    Raises:
        UserError: there is not a gate step for every network to be found, so that the search would
            not learn.
    """
    epochs, every = config.search.epochs, config.gates.every
    epoch_steps = batches_per_epoch(pictures, config.search.batch_size)
    # The first epoch has no gate steps, unless it is the only one.
    first_step = epoch_steps if epochs > 1 else 0
    weight_steps = epochs * epoch_steps - first_step
    if weight_steps < every * len(config.aims):
        several = f" for {len(config.aims)} networks" if config.devices else ""
        raise UserError(
            f"the search would not learn: it has a gate step every {every} weight steps and only "
            f"{weight_steps} of these{several}; lower gates.every or raise search.epochs"
        )
    return first_step


def check_space(supernet: SuperNet, state: dict[str, Any], phase: str) -> None:
    """Refuse a phase's state that belongs to another space.

    Raises:
        UserError: it does.
    """
    # Not as text, since other versions may write other keys.
    if Space.model_validate_json(state["space"]) != supernet.space:
        raise UserError(
            f"the checkpoint of {phase} was made with another search space than this run's; "
            "start a new run or restore the space it was made with"
        )
