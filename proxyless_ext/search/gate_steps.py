"""Gate steps: how the alphas learn from a batch of held-out training pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import gates
from ..config import GatesConfig
from ..nn import GateMode, SuperNet, frozen_statistics
from ..runtime import Runtime
from ..training.optim import load_momenta, momenta
from .objective import Objective


class GateLearner(ABC):
    """Updates the alphas of a supernet with Adam, betas (0, 0.999), no weight decay.

    Betas (0, .) keep alphas whose gradient is zero where they are, so a two-path step moves two per
    edge.
    """

    def __init__(
        self, supernet: SuperNet, objective: Objective, config: GatesConfig, runtime: Runtime
    ) -> None:
        self.supernet = supernet
        self.objective = objective
        self.config = config
        self.runtime = runtime
        self.scaler = runtime.scaler()
        self.optimizer = torch.optim.Adam(
            supernet.edges.alphas, lr=config.lr, betas=(0.0, 0.999), weight_decay=0.0
        )

    def step(
        self, pictures: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One update of the alphas.

        Args:
            pictures: [B, 3, R, R].
            labels: [B].
            generator: draws the paths.

        Returns:
            Plain cross entropy and accuracy of the paths that ran: ``gate_loss``,
                ``gate_accuracy``.
        """
        self.optimizer.zero_grad(set_to_none=True)
        measures = self.update(pictures, labels, generator)
        if target := self.objective.target:
            edges = self.supernet.edges
            with torch.no_grad():
                edges.add_to_alphas(target.charge(edges.alpha_matrix()))
        return measures

    @abstractmethod
    def update(
        self, pictures: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the alphas' gradients and take the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "momenta": momenta(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }
        if target := self.objective.target:
            state["price"] = target.price
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_momenta(self.optimizer, state["momenta"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if target := self.objective.target:
            target.price = state["price"]


class GradientLearner(GateLearner):
    """Full or two-path gradient (paper, section 3.2)."""

    def __init__(
        self,
        supernet: SuperNet,
        objective: Objective,
        config: GatesConfig,
        runtime: Runtime,
        mode: GateMode,
    ) -> None:
        super().__init__(supernet, objective, config, runtime)
        self.mode = mode

    def update(
        self, pictures: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        with self.supernet.edges.gate_step(self.mode, generator) as step:
            with self.runtime.autocast():
                logits = self.supernet(pictures)
                cross_entropy = functional.cross_entropy(logits, labels)
            loss = self.objective.loss(cross_entropy, step.probabilities)
            self.scaler.scale(loss).backward()
        step.update(lambda: self.scaler.step(self.optimizer))
        self.scaler.update()
        return _measures(logits, labels)


class ReinforceLearner(GateLearner):
    """REINFORCE over sampled networks (paper, section 3.3.2).

    Its baseline is a moving average of rewards.
    """

    baseline: float | None = None

    @torch.no_grad()
    def update(
        self, pictures: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        edges = self.supernet.edges
        alpha = edges.alpha_matrix()
        host = alpha.cpu()
        samples = torch.stack([gates.sample(host, generator) for _ in range(self.config.networks)])
        measures = []
        with frozen_statistics(self.supernet), self.runtime.autocast():
            for paths in samples.tolist():
                edges.activate(paths)
                measures.append(_measures(self.supernet(pictures), labels))
        accuracies = torch.stack([each["gate_accuracy"] for each in measures]).tolist()
        rewards = [
            self.objective.reward(accuracy, paths)
            for accuracy, paths in zip(accuracies, samples.tolist(), strict=True)
        ]
        mean = sum(rewards) / len(rewards)
        if self.baseline is None:
            self.baseline = mean
        advantages = alpha.new_tensor(rewards) - self.baseline
        edges.add_gradients(
            gates.reinforce_gradient(alpha.softmax(dim=1), samples.to(alpha.device), advantages)
        )
        self.optimizer.step()
        decay = self.config.baseline_decay
        self.baseline = decay * self.baseline + (1 - decay) * mean
        return {name: torch.stack([each[name] for each in measures]).mean() for name in measures[0]}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.baseline = state["baseline"]


def gate_learner(
    supernet: SuperNet, objective: Objective, config: GatesConfig, runtime: Runtime
) -> GateLearner:
    """The learner of the configured mode."""
    if config.mode == "reinforce":
        return ReinforceLearner(supernet, objective, config, runtime)
    return GradientLearner(supernet, objective, config, runtime, config.mode)


def _measures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {
        "gate_loss": functional.cross_entropy(logits.detach(), labels),
        "gate_accuracy": (logits.argmax(dim=1) == labels).float().mean(),
    }
