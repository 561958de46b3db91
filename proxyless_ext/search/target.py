"""Hitting a latency target: the price of a millisecond that keeps the search on it.

Each gate step learns from the cross entropy alone; then the alphas pay for latency: alpha_i -=
price * latency_i, the same price at every edge. In the probabilities this is p_i ~ p_i exp(-price *
latency_i), the projection (in KL divergence) onto the networks of an expected latency, so the price
is the Lagrange multiplier of the constraint, solved for exactly instead of being tuned. What is
held at the target moves from the expected latency of the probabilities to the latency of the
derived network while the search goes on, because that network is what the user asked for.
"""

from __future__ import annotations

from torch import Tensor

DOUBLINGS = 16
"""Of the price, at most: a target at the very end of the reach is only met in the limit."""
BISECTIONS = 60


class LatencyTarget:
    """Keeps a search at a target latency.

    Args:
        latencies: of every candidate [E, N] in ms, padded with 0.
        fixed_ms: of the layers that all networks have.
        target_ms: to be held.

    Attributes:
        price: the sum of all prices paid, in log-odds per ms; negative where the target asks for
            slower networks than accuracy alone would choose.
    """

    def __init__(self, latencies: Tensor, fixed_ms: float, target_ms: float) -> None:
        self.latencies = latencies.double()
        self.fixed_ms = fixed_ms
        self.target_ms = target_ms
        self.price = 0.0

    def charge(self, alpha: Tensor, progress: float) -> Tensor:
        """What to add to alpha [E, N] to be back on the target.

        Args:
            alpha: after the optimizer's step, padded with -inf.
            progress: of the search, from 0 (hold the expected latency) to 1 (hold the derived
                network's).

        Returns:
            [E, N]
        """
        host = alpha.detach().double().cpu()
        price = self._solve(host, progress)
        self.price += price
        return (-price * self.latencies).to(alpha)

    def _solve(self, alpha: Tensor, progress: float) -> float:
        """The price at which the held latency, which falls with the price, meets the target."""
        if self._held_ms(alpha, progress) > self.target_ms:
            low, high = 0.0, self._bracket(alpha, progress, 1.0)
        else:
            low, high = -self._bracket(alpha, progress, -1.0), 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self._held_ms(alpha - middle * self.latencies, progress) > self.target_ms:
                low = middle
            else:
                high = middle
        # The derived network's latency falls in steps: take the side of the step that is nearer.
        return min(low, high, key=lambda price: self._miss_ms(alpha, price, progress))

    def _miss_ms(self, alpha: Tensor, price: float, progress: float) -> float:
        """How far from the target the held latency is at a price."""
        held_ms = self._held_ms(alpha - price * self.latencies, progress)
        return abs(held_ms - self.target_ms)

    def _bracket(self, alpha: Tensor, progress: float, sign: float) -> float:
        """A price, without its `sign`, that takes the held latency to the target or past it."""
        spread = (self.latencies.amax(dim=1) - self.latencies.amin(dim=1)).max().item()
        if spread == 0:
            return 0.0
        price = 1 / spread
        for _ in range(DOUBLINGS):
            held_ms = self._held_ms(alpha - sign * price * self.latencies, progress)
            if sign * (held_ms - self.target_ms) <= 0:
                break
            price *= 2
        return price

    def _held_ms(self, alpha: Tensor, progress: float) -> float:
        expected = (alpha.softmax(dim=1) * self.latencies).sum()
        derived = self.latencies.gather(1, alpha.argmax(dim=1, keepdim=True)).sum()
        return self.fixed_ms + ((1 - progress) * expected + progress * derived).item()
