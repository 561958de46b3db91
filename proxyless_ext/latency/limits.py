"""What networks may cost at most beside their target, and the prices that keep them to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..quantities import show
from .costs import Costs

DEAREST = 100.0
"""The highest price, in log-odds between the candidates that differ most in what is paid for."""

NEWTON_STEPS = 20
"""At most, after the quasi-Newton ones."""

REGULAR = 1e-13
"""Of the curvature's trace: added where costs are the same up to rounding."""


@dataclass(frozen=True)
class Limit:
    """What networks may cost at most, by costs of its own.

    Attributes:
        name: of what is limited.
        costs: of the candidates.
        most: that a network may cost.
    """

    name: str
    costs: Costs
    most: float

    @property
    def room(self) -> float:
        """What the choices of a network may cost together."""
        return self.most - self.costs.fixed

    def holds(self, choices: Sequence[int]) -> bool:
        """Whether a network keeps it."""
        return self.costs.network(choices) <= self.most

    def __str__(self) -> str:
        return f"limit of {show(self.most, self.costs.unit)} ({self.name})"


def solve_prices(
    logits: Tensor,
    limits: Sequence[Limit],
    target: tuple[Tensor, float] | None = None,
    start: Sequence[float] | None = None,
    dearest: float = DEAREST,
) -> list[float]:
    """The least prices under which the expected costs keep all limits, and are on a target.

    Under prices the probabilities are softmax(logits - sum of price * cost): the projection, in KL
    divergence, onto all distributions that keep the limits. Prices are its Lagrange multipliers,
    those of limits at least 0, and 0 where a limit is not reached. All are solved for at once, as
    the maximum of the dual, which is concave and smooth: one after the other would take many
    rounds, since dear networks are mostly dear in everything.

    Args:
        logits: of the candidates [E, N], -inf where there is none.
        limits: at least one.
        target: costs [E, N], and what the choices of a network are to cost together on average.
        start: prices that may be near.
        dearest: where prices end if no distribution keeps the limits, in log-odds between the
            candidates that differ most.

    Returns:
        The prices of the limits, in log-odds per unit.
    """
    from scipy.optimize import lsq_linear, minimize  # Here, because it takes long to import.

    logits = logits.double()
    absent = logits == -torch.inf
    rows = [limit.costs.edges.to(logits) for limit in limits]
    amounts = [limit.room for limit in limits]
    bounds: list[tuple[float, float]] = [(0.0, dearest)] * len(limits)
    if target is not None:
        rows.append(target[0].to(logits))
        amounts.append(target[1])
        bounds.append((-dearest, dearest))
    costs = torch.stack(rows).masked_fill(absent, 0.0)
    highest, lowest = costs.amax(2), costs.masked_fill(absent, torch.inf).amin(2)
    spread = (highest - lowest).amax(1)
    spread[spread == 0] = 1.0
    costs = costs / spread[:, None, None]
    aims = torch.tensor(amounts, dtype=torch.float64) / spread

    def dual(prices: np.ndarray) -> tuple[float, np.ndarray]:
        """Its negative, and the gradient of that."""
        x = torch.from_numpy(prices)
        priced = logits - torch.tensordot(x, costs, 1)
        value = priced.logsumexp(1).sum() + x @ aims
        slope = aims - (costs * priced.softmax(1)).sum((1, 2))
        return value.item(), slope.numpy()

    def curvature(prices: np.ndarray) -> np.ndarray:
        """The covariance of what networks cost under prices."""
        p = (logits - torch.tensordot(torch.from_numpy(prices), costs, 1)).softmax(1)
        centred = (costs - (costs * p).sum(2, keepdim=True)) * p.sqrt()
        covariance = torch.einsum("ien,jen->ij", centred, centred).numpy()
        return covariance + REGULAR * max(covariance.trace(), REGULAR) * np.eye(len(prices))

    guess = np.zeros(len(bounds))
    if start is not None:
        guess[: len(limits)] = np.array(start) * spread[: len(limits)].numpy()
    found = minimize(
        dual,
        guess,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 0.0, "gtol": 1e-10},
    )
    least, most = np.array(bounds).T
    x, slope = found.x, dual(found.x)[1]
    # Where costs hardly differ, the dual is too flat for L-BFGS to find which limits are reached.
    for _ in range(NEWTON_STEPS):
        root = np.linalg.cholesky(curvature(x))
        within = (least - x, most - x)
        step = lsq_linear(root.T, -np.linalg.solve(root, slope), within, method="bvls").x
        new = np.clip(x + step, least, most)
        new_slope = dual(new)[1]
        if _missed(new, new_slope, least, most) >= _missed(x, slope, least, most):
            break
        x, slope = new, new_slope
    return (torch.from_numpy(x) / spread)[: len(limits)].tolist()


def _missed(x: np.ndarray, slope: np.ndarray, least: np.ndarray, most: np.ndarray) -> float:
    """How far prices are from where they would stay: 0 at the maximum of the dual."""
    return float(np.abs(x - np.clip(x - slope, least, most)).max())
