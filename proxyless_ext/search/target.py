"""Hitting a target: the price of a unit, such as a millisecond, that keeps the search on it.

Each gate step learns from the cross entropy alone; then the alphas pay for what they cost: alpha_i
-= price * cost_i, the same price at every edge. In the probabilities this is p_i ~ p_i exp(-price *
cost_i), the projection (in KL divergence) onto the networks of an expected cost, so the price is
the Lagrange multiplier of the constraint, solved for exactly instead of being tuned. That the
network which is handed over meets the target is the work of `derive`.
"""

from __future__ import annotations

from torch import Tensor

DOUBLINGS = 16
"""Of the price, at most: a target at the very end of the reach is only met in the limit."""
BISECTIONS = 60


class LatencyTarget:
    """Keeps a search at a target.

    Args:
        costs: of every candidate [E, N], padded with 0.
        fixed: of the layers that all networks have.
        target: to be held.

    Attributes:
        price: the sum of all prices paid, in log-odds per unit; negative where the target asks
            for dearer networks than accuracy alone would choose.
    """

    def __init__(self, costs: Tensor, fixed: float, target: float) -> None:
        self.costs = costs.double()
        self.fixed = fixed
        self.target = target
        self.price = 0.0

    def charge(self, alpha: Tensor) -> Tensor:
        """What to add to alpha [E, N] for the expected cost to be back on the target.

        Args:
            alpha: after the optimizer's step, padded with -inf.

        Returns:
            [E, N]
        """
        price = self._solve(alpha.detach().double().cpu())
        self.price += price
        return (-price * self.costs).to(alpha)

    def _solve(self, alpha: Tensor) -> float:
        """The price at which the expected cost, which falls with the price, is the target."""
        if self._expected(alpha) > self.target:
            low, high = 0.0, self._bracket(alpha, 1.0)
        else:
            low, high = -self._bracket(alpha, -1.0), 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self._expected(alpha - middle * self.costs) > self.target:
                low = middle
            else:
                high = middle
        return high

    def _bracket(self, alpha: Tensor, sign: float) -> float:
        """A price, without its `sign`, that takes the cost to the target or past it."""
        spread = (self.costs.amax(dim=1) - self.costs.amin(dim=1)).max().item()
        if spread == 0:
            return 0.0
        price = 1 / spread
        for _ in range(DOUBLINGS):
            expected = self._expected(alpha - sign * price * self.costs)
            if sign * (expected - self.target) <= 0:
                break
            price *= 2
        return price

    def _expected(self, alpha: Tensor) -> float:
        return self.fixed + (alpha.softmax(dim=1) * self.costs).sum().item()
