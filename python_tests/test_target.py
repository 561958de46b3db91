"""The price that holds a search at its latency target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from proxyless_ext.search import LatencyTarget

EDGES, CANDIDATES, FIXED_MS = 16, 7, 0.4


def latencies(seed: int) -> Tensor:
    """Random latencies [E, N] in ms; at every other edge the last candidate costs nothing."""
    generator = torch.Generator().manual_seed(seed)
    values = 0.05 + torch.rand(EDGES, CANDIDATES, generator=generator, dtype=torch.float64)
    values[::2, -1] = 0.0
    return values


def reach(values: Tensor) -> tuple[float, float]:
    return FIXED_MS + values.amin(1).sum().item(), FIXED_MS + values.amax(1).sum().item()


@given(seed=st.integers(0, 1000), part=st.floats(0.02, 0.98), spread=st.floats(0.0, 5.0))
def test_expected_latency_is_held_exactly(seed: int, part: float, spread: float) -> None:
    values = latencies(seed)
    cheapest, dearest = reach(values)
    target = cheapest + part * (dearest - cheapest)
    alpha = spread * torch.randn(
        EDGES, CANDIDATES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    charged = alpha + LatencyTarget(values, FIXED_MS, target).charge(alpha)
    expected = FIXED_MS + (charged.softmax(1) * values).sum().item()
    assert expected == pytest.approx(target, rel=1e-6)


def test_all_edges_pay_the_same_price_and_it_is_remembered() -> None:
    values = latencies(0)
    target = LatencyTarget(values, FIXED_MS, sum(reach(values)) / 3)
    alpha = torch.zeros(EDGES, CANDIDATES)
    first = target.charge(alpha)
    torch.testing.assert_close(first.double(), -target.price * values, rtol=1e-5, atol=1e-6)
    paid = target.price
    assert paid > 0  # The target is below the uniform network's latency.
    target.charge(alpha + first)
    assert target.price == pytest.approx(paid, rel=1e-4)  # There was nothing left to pay.


def test_a_slower_target_is_paid_for_with_a_negative_price() -> None:
    values = latencies(1)
    target = LatencyTarget(values, FIXED_MS, 0.9 * reach(values)[1])
    target.charge(torch.zeros(EDGES, CANDIDATES))
    assert target.price < 0


def test_padding_stays_padding() -> None:
    values = latencies(2)
    alpha = torch.zeros(EDGES, CANDIDATES)
    alpha[:, -2:], values[:, -2:] = -torch.inf, 0.0
    change = LatencyTarget(values, FIXED_MS, sum(reach(values)) / 2).charge(alpha)
    assert change.isfinite().all()
    assert (alpha + change)[:, -2:].eq(-torch.inf).all()


def test_equal_latencies_cost_nothing() -> None:
    target = LatencyTarget(torch.ones(3, 4), 1.0, 4.0)
    assert target.charge(torch.randn(3, 4)).abs().max() == 0
    assert target.price == 0
