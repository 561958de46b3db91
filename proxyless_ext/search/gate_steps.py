"""Gate steps: how the alphas of any model learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .. import gates, ranks
from ..config import GatesConfig
from ..nn import Edges, GateMode, frozen_statistics
from ..runtime import Runtime
from ..training.optim import load_optimizer_state, optimizer_state
from .objective import Objective

Measured = TypeVar("Measured")
"""What a run of the model tells beside its loss."""

RunModel = Callable[[], tuple[Tensor, float | Tensor, Measured]]
"""Runs the active paths: the loss [], the reward (of which more is better), and whatever else."""


class GateLearner(ABC, Generic[Measured]):
    """Updates the alphas of a model with Adam, betas (0, 0.999), no weight decay.

    Betas (0, .) keep alphas whose gradient is zero where they are, so a two-path step moves two per
    edge.
    """

    def __init__(
        self, edges: Edges, objective: Objective, config: GatesConfig, runtime: Runtime
    ) -> None:
        self.edges = edges
        self.objective = objective
        self.config = config
        self.runtime = runtime
        self.scaler = runtime.scaler()
        self.optimizer = torch.optim.Adam(
            edges.alphas, lr=config.lr, betas=(0.0, 0.999), weight_decay=0.0
        )

    def step(self, run: RunModel[Measured], generator: torch.Generator) -> list[Measured]:
        """One update of the alphas.

        Args:
            run: of the model, on the same batch each time.
            generator: draws the paths.

        Returns:
            What the runs told.
        """
        self.optimizer.zero_grad(set_to_none=True)
        told = self.update(run, generator)
        with torch.no_grad():
            paid = self.objective.charge(self.edges.alpha_matrix())
            if paid is not None:
                self.edges.add_to_alphas(paid)
        return told

    @abstractmethod
    def update(self, run: RunModel[Measured], generator: torch.Generator) -> list[Measured]:
        """Compute the alphas' gradients and take the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }
        if pricing := self.objective.pricing:
            state["price"] = pricing.price
        if limiting := self.objective.limiting:
            state["limit_prices"] = limiting.prices
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimizer_state(self.optimizer, state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if pricing := self.objective.pricing:
            pricing.price = state["price"]
        if limiting := self.objective.limiting:
            limiting.prices = state["limit_prices"]


class GradientLearner(GateLearner[Measured]):
    """Full or two-path gradient (paper, section 3.2)."""

    def __init__(
        self,
        edges: Edges,
        objective: Objective,
        config: GatesConfig,
        runtime: Runtime,
        mode: GateMode,
    ) -> None:
        super().__init__(edges, objective, config, runtime)
        self.mode = mode

    def update(self, run: RunModel[Measured], generator: torch.Generator) -> list[Measured]:
        with self.edges.gate_step(self.mode, generator) as step:
            with self.runtime.autocast():
                plain_loss, _, told = run()
            loss = self.objective.loss(plain_loss, step.probabilities)
            self.scaler.scale(loss).backward()
        step.update(lambda: self.scaler.step(self.optimizer))
        self.scaler.update()
        return [told]


class ReinforceLearner(GateLearner[Measured]):
    """REINFORCE over sampled networks (paper, section 3.3.2).

    Its baseline is a moving average of rewards.
    """

    baseline: float | None = None

    @torch.no_grad()
    def update(self, run: RunModel[Measured], generator: torch.Generator) -> list[Measured]:
        alpha = self.edges.alpha_matrix()
        host = alpha.cpu()
        samples = torch.stack([gates.sample(host, generator) for _ in range(self.config.networks)])
        results = []
        with frozen_statistics(self.edges.model), self.runtime.autocast():
            for paths in samples.tolist():
                self.edges.activate(paths)
                results.append(run())
        plain = torch.stack([torch.as_tensor(reward) for _, reward, _ in results]).to(alpha.device)
        samples = samples.to(alpha.device)
        plain = ranks.mean(plain, samples, alpha.nan_to_num(neginf=0))
        rewards = [
            self.objective.reward(reward, paths)
            for reward, paths in zip(plain.tolist(), samples.tolist(), strict=True)
        ]
        mean = sum(rewards) / len(rewards)
        if self.baseline is None:
            self.baseline = mean
        advantages = alpha.new_tensor(rewards) - self.baseline
        self.edges.add_gradients(
            gates.reinforce_gradient(alpha.softmax(dim=1), samples, advantages)
        )
        self.optimizer.step()
        decay = self.config.baseline_decay
        self.baseline = decay * self.baseline + (1 - decay) * mean
        return [told for _, _, told in results]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.baseline = state["baseline"]


def gate_learner(
    edges: Edges, objective: Objective, config: GatesConfig, runtime: Runtime
) -> GateLearner[Any]:
    """The learner of the configured mode."""
    if config.mode == "reinforce":
        return ReinforceLearner(edges, objective, config, runtime)
    return GradientLearner(edges, objective, config, runtime, config.mode)
