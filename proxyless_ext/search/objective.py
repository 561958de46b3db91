"""What a gate step minimises: the cross entropy, and what costs do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LatencyConfig
from ..errors import OutOfReachError, UserError
from ..latency import Costs, LatencyTable, Limit, add_linear, mul_log
from ..quantities import show, show_range
from ..runs import Run
from ..spaces import Space
from .limits import LimitPrices, read_limits
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
        limits: that networks keep beside.
        limiting: holds them.
    """

    name: str
    costs: Costs
    config: LatencyConfig
    pricing: LatencyTarget | None
    reference: float
    limits: tuple[Limit, ...] = ()
    limiting: LimitPrices | None = None

    @classmethod
    def build(
        cls, name: str, costs: Costs, config: LatencyConfig, limits: tuple[Limit, ...] = ()
    ) -> Objective:
        """Check the configuration against what the networks can reach.

        Raises:
            OutOfReachError: the target lies outside their reach.
            UserError: the target is of another unit, or ``mul#log`` is given costs or a reference
                of 1 or less.
        """
        cheapest, dearest = costs.bounds
        pricing = None
        if config.regularizer == "target":
            target = config.target_of(costs)
            rounding = 1e-9 * dearest  # 100% need not come out as the dearest to the last bit.
            if not cheapest - rounding <= target <= dearest + rounding:
                raise OutOfReachError(
                    f"the target of {show(target, costs.unit)} is out of reach: networks of "
                    f"'{name}' take {show_range(cheapest, dearest, costs.unit)} here"
                )
            pricing = LatencyTarget(costs.edges, costs.fixed, target)
        reference = config.reference or costs.uniform
        if config.regularizer == "mul#log" and min(cheapest, reference) <= 1:
            raise UserError(
                f"mul#log needs costs above {show(1, costs.unit)} and '{name}' reaches "
                f"{show(cheapest, costs.unit)}, its reference being {show(reference, costs.unit)}; "
                "use regularizer 'target' or 'add#linear'"
            )
        limiting = LimitPrices(limits) if limits else None
        aim = pricing.target if pricing else reference
        return cls(name, costs, config, pricing, aim, limits, limiting)

    @classmethod
    def of_space(
        cls, space: Space, table: LatencyTable, config: LatencyConfig, run: Run | None = None
    ) -> Objective:
        """The objective of a search in a space; `run` is as of `read_limits`.

        Raises:
            UserError: a table lacks a layer of the space, or what `build` or `read_limits` raise.
        """
        return cls.build(space.name, table.costs(space), config, read_limits(space, config, run))

    def correct(self, costs: Costs) -> None:
        """Take other costs of the same networks; a target stays what it is."""
        self.costs = costs
        if self.pricing:
            self.pricing.costs, self.pricing.fixed = costs.edges.double(), costs.fixed

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

    def charge(self, alpha: Tensor) -> Tensor | None:
        """What to add to alpha [E, N] for expected costs to be on the target and within the limits.

        Args:
            alpha: after the optimizer's step, padded with -inf.

        Returns:
            [E, N]; None where there are neither.
        """
        paid = self.limiting.charge(alpha, self.pricing) if self.limiting else None
        if self.pricing is None:
            return paid
        if paid is None:
            return self.pricing.charge(alpha)
        return paid + self.pricing.charge(alpha + paid)

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
