"""The limits of a search: read from its configuration, and paid for in every gate step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..config import LatencyConfig
from ..files import make_folder
from ..latency import COUNTS, LatencyTable, Limit, count_table, solve_prices
from ..quantities import amount_within
from ..runs import Run
from ..spaces import Space
from .target import LatencyTarget


def read_limits(space: Space, config: LatencyConfig, run: Run | None = None) -> tuple[Limit, ...]:
    """What the networks of a space may cost at most.

    Args:
        space: of the networks.
        config: names the limits.
        run: whose copies of tables are taken before the tables themselves.

    Raises:
        UserError: a table cannot be read or lacks layers, or an amount is of another unit.
    """
    return tuple(_read_limit(space, name, most, run) for name, most in config.limits.items())


def keep_limits(config: LatencyConfig, run: Run) -> None:
    """Copy the tables of limits into a run, unless it has them.

    Raises:
        UserError: a table cannot be read.
    """
    for name in config.limits:
        if name not in COUNTS and not (own := run.limit_path(name)).exists():
            make_folder(own.parent)
            LatencyTable.load(name).save(own)


def _read_limit(space: Space, name: str, most: str, run: Run | None) -> Limit:
    counts = {each: each for each in COUNTS}
    if name in counts:
        table = count_table(space, counts[name])
    else:
        own = run.limit_path(name) if run else None
        table = LatencyTable.load(own if own and own.exists() else name)
    costs = table.costs(space)
    amount = amount_within(most, f"the limit of {name}", costs.bounds, costs.unit)
    return Limit(Path(name).name, costs, amount)


class LimitPrices:
    """Keeps the expected costs of a search within limits.

    Where a limit is reached its price rises, and falls again, to 0 at least, where the search would
    keep it without.

    Args:
        limits: at least one.

    Attributes:
        prices: for each of them, the sum of all prices paid, in log-odds per unit.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits
        self.prices = [0.0] * len(limits)

    def charge(self, alpha: Tensor, target: LatencyTarget | None) -> Tensor:
        """What to add to alpha [E, N] for the expected costs to keep the limits.

        Args:
            alpha: after the optimizer's step, padded with -inf.
            target: what charges next, if anything does.

        Returns:
            [E, N]
        """
        free = alpha.detach().double().cpu() + self._paid()
        aim = target and (target.costs, target.target - target.fixed)
        before = self._paid()
        self.prices = solve_prices(free, self.limits, aim or None, self.prices)
        return (before - self._paid()).to(alpha)

    def _paid(self) -> Tensor:
        rows = [
            price * limit.costs.edges for price, limit in zip(self.prices, self.limits, strict=True)
        ]
        return sum(rows[1:], rows[0])
