"""Warm-up and search: the two phases that train a supernet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .. import gates
from ..config import Config, OptimizerConfig
from ..data import Pictures, batches_per_epoch, endless
from ..errors import UserError
from ..nn import SuperNet
from ..seeding import generator
from ..training.phase import Meter
from ..training.weight_phase import WeightPhase
from .gate_steps import gate_learner
from .objective import Objective


class _SuperNetPhase(WeightPhase):
    """Weight steps: one sampled path per edge, trained alone."""

    def __init__(
        self,
        name: str,
        supernet: SuperNet,
        config: Config,
        schedule: OptimizerConfig,
        data: Pictures,
    ) -> None:
        super().__init__(
            name,
            supernet,
            supernet.edges.weights,
            data.train_weights,
            schedule,
            config,
            decay_norms=True,
        )
        self.supernet = supernet

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        self.supernet.edges.sample(generator(self.config.seed, self.name, "paths", step))
        super().step(step, pictures, labels, meter)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "space": self.supernet.space.model_dump_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_space(self.supernet, state, self.name)
        super().load_state_dict(state)


class WarmUp(_SuperNetPhase):
    """Trains the weights under paths drawn from the initial alphas, which stay as they are."""

    def __init__(self, supernet: SuperNet, config: Config, data: Pictures) -> None:
        super().__init__("warmup", supernet, config, config.warmup, data)


class Search(_SuperNetPhase):
    """Alternates weight steps with gate steps on held-out training pictures."""

    def __init__(
        self, supernet: SuperNet, config: Config, data: Pictures, objective: Objective
    ) -> None:
        super().__init__("search", supernet, config, config.search, data)
        self.data = data
        self.objective = objective
        self.learner = gate_learner(supernet, objective, config.gates)
        self.first_step, self.gate_steps = gate_schedule(config, len(data.train_weights))
        self.gate_batches: Iterator[tuple[Tensor, Tensor]] | None = None

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        super().step(step, pictures, labels, meter)
        every = self.config.gates.every
        done = step + 1 - self.first_step
        if done > 0 and done % every == 0:
            self._gate_step(done // every - 1, meter)

    def _gate_step(self, index: int, meter: Meter) -> None:
        """Gate step `index` of `gate_steps`."""
        config = self.config
        if self.gate_batches is None:
            self.gate_batches = endless(
                self.data.train_gates,
                config.gates.batch_size,
                config.seed,
                "gates",
                start=index,
                workers=config.data.workers,
            )
        pictures, labels = next(self.gate_batches)
        measures = self.learner.step(
            pictures.to(config.device),
            labels.to(config.device),
            generator(config.seed, "gates", "paths", index),
            progress=(index + 1) / self.gate_steps,
        )
        meter.add(len(labels), **measures)

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        edges = self.supernet.edges
        probabilities = edges.probabilities().detach().cpu()
        return {
            **super().end_epoch(epoch),
            "expected_ms": self.objective.expected_ms(probabilities).item(),
            "derived_ms": self.objective.predicted_ms(edges.choices()),
            "target_ms": self.objective.target_ms,
            "trade_off": self.objective.trade_off,
            "entropy": gates.entropy(probabilities).item(),
            "probabilities": [
                row[: len(edge.candidates)].tolist()
                for row, edge in zip(probabilities, self.supernet.space.edges, strict=True)
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "learner": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.learner.load_state_dict(state["learner"])
        self.gate_batches = None


def gate_schedule(config: Config, pictures: int) -> tuple[int, int]:
    """The weight step after which gate steps begin, and how many of them a search takes.

    Args:
        config: of the run.
        pictures: number of those that weights are trained on.

    Raises:
        UserError: there is not a single gate step, so that the search would not learn.
    """
    epochs, every = config.search.epochs, config.gates.every
    epoch_steps = batches_per_epoch(pictures, config.search.batch_size)
    # The first epoch has no gate steps, unless it is the only one.
    first_step = epoch_steps if epochs > 1 else 0
    weight_steps = epochs * epoch_steps - first_step
    if weight_steps < every:
        raise UserError(
            f"the search would not learn: it has a gate step every {every} weight steps and only "
            f"{weight_steps} of these; lower gates.every or raise search.epochs"
        )
    return first_step, weight_steps // every


def check_space(supernet: SuperNet, state: dict[str, Any], phase: str) -> None:
    """Refuse a phase's state that belongs to another space.

    Raises:
        UserError: it does.
    """
    if state["space"] != supernet.space.model_dump_json():
        raise UserError(
            f"the checkpoint of {phase} was made with another search space than this run's; "
            "start a new run or restore the space it was made with"
        )
