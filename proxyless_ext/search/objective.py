"""What a gate step minimises: the cross entropy, and what latency does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LatencyConfig
from ..errors import OutOfReachError, UserError
from ..latency import Costs, LatencyTable, add_linear, mul_log
from ..spaces import Space
from .target import LatencyTarget


@dataclass
class Objective:
    """The objective of a search.

    Attributes:
        name: of what is searched, for messages.
        costs: of the candidates [E, N] and of what all networks have.
        config: which regularizer, and its values.
        pricing: holds a target, for regularizer ``target``.
        reference: of ``add#linear``, ``mul#log`` and REINFORCE's reward.
    """

    name: str
    costs: Costs
    config: LatencyConfig
    pricing: LatencyTarget | None
    reference: float

    @classmethod
    def build(cls, name: str, costs: Costs, config: LatencyConfig) -> Objective:
        """Check the configuration against what the networks can reach.

        Raises:
            OutOfReachError: the target lies outside their reach.
            UserError: ``mul#log`` is given latencies or a reference of 1 ms or less.
        """
        cheapest, dearest = costs.bounds
        pricing = None
        if config.regularizer == "target":
            target = config.target_within(cheapest, dearest)
            rounding = 1e-9 * dearest  # 100% need not come out as the dearest to the last bit.
            if not cheapest - rounding <= target <= dearest + rounding:
                raise OutOfReachError(
                    f"the target of {target:.4g} {costs.unit} is out of reach: networks of "
                    f"'{name}' take {cheapest:.4g} to {dearest:.4g} {costs.unit} here"
                )
            pricing = LatencyTarget(costs.edges, costs.fixed, target)
        reference = config.reference or costs.uniform
        if config.regularizer == "mul#log" and min(cheapest, reference) <= 1:
            raise UserError(
                f"mul#log needs latencies above 1 ms and '{name}' reaches {cheapest:.3g} ms, "
                f"its reference being {reference:.3g} ms; use regularizer 'target' or "
                "'add#linear'"
            )
        return cls(name, costs, config, pricing, pricing.target if pricing else reference)

    @classmethod
    def of_space(cls, space: Space, table: LatencyTable, config: LatencyConfig) -> Objective:
        """The objective of a search in a space.

        Raises:
            UserError: the table lacks a layer of the space or holds no times, or what `build`
                raises.
        """
        if table.unit != "ms":
            raise UserError(
                f"{table.source} holds {table.unit}, and a search in a space takes times; give a "
                "table of latencies, or search over a model of your own with costs of any kind"
            )
        return cls.build(space.name, table.costs(space), config)

    def correct(self, costs: Costs) -> None:
        """Take other costs of the same networks; a target stays what it is."""
        self.costs = costs
        if self.pricing:
            self.pricing.latencies, self.pricing.fixed = costs.edges.double(), costs.fixed

    @property
    def target(self) -> float | None:
        """What networks are to cost, if there is a target."""
        return self.pricing.target if self.pricing else None

    @property
    def trade_off(self) -> float:
        """How much the cost weighs: the target's price (log-odds per unit), or the regularizer's
        lambda.
        """
        if self.pricing:
            return self.pricing.price
        return self.config.trade_off if self.config.regularizer == "add#linear" else 0.0

    def expected(self, probabilities: Tensor) -> Tensor:
        """Expected cost of p [E, N], differentiable."""
        self.costs = self.costs.to(probabilities.device)
        return self.costs.expected(probabilities)

    def predicted(self, choices: Sequence[int]) -> float:
        """What one network costs."""
        return self.costs.network(choices)

    def loss(self, cross_entropy: Tensor, probabilities: Tensor) -> Tensor:
        """The loss of a gradient gate step."""
        if self.config.regularizer in ("target", "none"):
            return cross_entropy
        return self._regularised(cross_entropy, self.expected(probabilities))

    def network_loss(self, cross_entropy: float, choices: Sequence[int]) -> float:
        """The same of one network, by which networks are compared."""
        if self.config.regularizer in ("target", "none"):
            return cross_entropy
        latency = torch.tensor(self.predicted(choices), dtype=torch.float64)
        return self._regularised(torch.tensor(cross_entropy), latency).item()

    def _regularised(self, cross_entropy: Tensor, cost: Tensor) -> Tensor:
        config = self.config
        if config.regularizer == "add#linear":
            return add_linear(cross_entropy, cost, self.reference, config.trade_off)
        return mul_log(cross_entropy, cost, self.reference, config.mul_alpha, config.mul_beta)

    def reward(self, accuracy: float, choices: Sequence[int]) -> float:
        """R of a sampled network: acc (reference / latency)^0.1, or acc alone where latency is held
        otherwise.
        """
        if self.config.regularizer in ("target", "none"):
            return accuracy
        return accuracy * (self.reference / self.predicted(choices)) ** 0.1
