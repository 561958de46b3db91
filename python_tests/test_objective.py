"""What gate steps minimise, against values computed by hand."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE, layers, table_of

from proxyless_ext.config import LatencyConfig
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Entry, LatencyTable, add_linear, mul_log
from proxyless_ext.search import Objective


def table_with(means: list[float]) -> LatencyTable:
    """A table of `SPACE` whose latencies are `means`, over and over."""
    keys = [layer.key for layer in layers(SPACE)]
    return LatencyTable(
        {key: Entry(count=1, mean=means[i % len(means)], var=0.0) for i, key in enumerate(keys)}
    )


def build(table: LatencyTable | None = None, **values: object) -> Objective:
    return Objective.of_space(SPACE, table or table_of(SPACE), LatencyConfig(**values))


def probabilities(seed: int = 0) -> torch.Tensor:
    """p [E, N] of `SPACE`, as a leaf, with nothing in the padding."""
    alpha = torch.randn(
        len(SPACE.edges), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    for row, edge in zip(alpha, SPACE.edges, strict=True):
        row[len(edge.candidates) :] = -torch.inf
    return alpha.softmax(1).requires_grad_()


def expected_by_hand(p: torch.Tensor, table: LatencyTable) -> float:
    total = sum(table.entries[layer.key].mean for layer in SPACE.fixed_layers())
    for row, candidates in zip(p.tolist(), SPACE.edge_layers(), strict=True):
        for probability, layer in zip(row, candidates, strict=False):
            if not layer.is_skipped:
                total += probability * table.entries[layer.key].mean
    return total


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_add_linear_by_hand() -> None:
    assert add_linear(scalar(2.0), scalar(110.0), 100.0).item() == pytest.approx(2.0 + 0.1 * 0.1)
    assert add_linear(scalar(2.0), scalar(50.0), 100.0, 3.0).item() == pytest.approx(2.0 - 1.5)
    assert add_linear(scalar(2.0), scalar(80.0), 80.0).item() == 2.0


def test_mul_log_by_hand() -> None:
    # alpha CE (log E / log ref)^beta
    assert mul_log(scalar(2.0), scalar(64.0), 8.0).item() == pytest.approx(0.2 * 2 * 2**0.3)
    assert mul_log(scalar(3.0), scalar(8.0), 64.0, 0.5, 2.0).item() == pytest.approx(0.5 * 3 / 4)
    assert mul_log(scalar(2.0), scalar(80.0), 80.0).item() == pytest.approx(0.4)


def test_their_gradients_by_hand() -> None:
    cross_entropy, expected = scalar(2.0), scalar(64.0)
    add_linear(cross_entropy, expected, 8.0, 0.4).backward()
    assert (cross_entropy.grad, expected.grad) == (1.0, 0.4 / 8.0)
    cross_entropy, expected = scalar(2.0), scalar(64.0)
    mul_log(cross_entropy, expected, 8.0).backward()
    assert cross_entropy.grad is not None
    assert expected.grad is not None
    assert cross_entropy.grad.item() == pytest.approx(0.2 * 2**0.3)
    slope = 0.2 * 2 * 0.3 * 2**-0.7 / (64 * math.log(8))
    assert expected.grad.item() == pytest.approx(slope)


@given(st.floats(0.1, 5), st.floats(1.5, 200), st.floats(1.5, 200))
def test_gradcheck(cross_entropy: float, expected: float, reference: float) -> None:
    inputs = (scalar(cross_entropy), scalar(expected))
    assert torch.autograd.gradcheck(lambda c, e: add_linear(c, e, reference), inputs)
    assert torch.autograd.gradcheck(lambda c, e: mul_log(c, e, reference), inputs)


@pytest.mark.parametrize("regularizer", ["add#linear", "mul#log"])
def test_the_loss_reaches_the_probabilities(regularizer: str) -> None:
    objective = build(regularizer=regularizer, reference=7.0, trade_off=0.3)
    p, cross_entropy = probabilities(), scalar(1.5)
    expected = expected_by_hand(p, table_of(SPACE))
    by_hand = (
        1.5 + 0.3 * (expected / 7.0 - 1)
        if regularizer == "add#linear"
        else 0.2 * 1.5 * (math.log(expected) / math.log(7.0)) ** 0.3
    )
    assert objective.loss(cross_entropy, p).item() == pytest.approx(by_hand)
    assert torch.autograd.gradcheck(objective.loss, (cross_entropy, p))


@pytest.mark.parametrize("regularizer", ["target", "none"])
def test_elsewhere_the_loss_is_the_cross_entropy(regularizer: str) -> None:
    cross_entropy = scalar(1.5)
    assert build(regularizer=regularizer).loss(cross_entropy, probabilities()) is cross_entropy


def test_the_reference_is_the_uniform_network_unless_given() -> None:
    uniform = torch.zeros(len(SPACE.edges), 4, dtype=torch.float64)
    for row, edge in zip(uniform, SPACE.edges, strict=True):
        row[: len(edge.candidates)] = 1 / len(edge.candidates)
    by_hand = expected_by_hand(uniform, table_of(SPACE))
    assert build(regularizer="add#linear").reference == pytest.approx(by_hand)
    assert build(regularizer="add#linear", reference=3.0).reference == 3.0


def test_rewards_by_hand() -> None:
    choices = [1, 3, 0, 2]
    latency = build(regularizer="none").predicted(choices)
    reward = build(regularizer="add#linear", reference=2.0).reward(0.75, choices)
    assert reward == pytest.approx(0.75 * (2.0 / latency) ** 0.1)
    for regularizer in ("target", "none"):
        assert build(regularizer=regularizer).reward(0.75, choices) == 0.75


def test_what_records_call_the_trade_off() -> None:
    assert build(regularizer="add#linear", trade_off=0.4).trade_off == 0.4
    assert build(regularizer="none").trade_off == 0.0
    objective = build(regularizer="target", target="30%")
    assert objective.trade_off == 0.0
    assert objective.pricing is not None
    objective.pricing.price = 2.5
    assert objective.trade_off == 2.5
    assert build(regularizer="none").target is None


@given(st.integers(0, 10**6), st.floats(0, 100))
def test_every_percentage_is_within_reach(seed: int, percent: float) -> None:
    rng = random.Random(seed)
    table = table_with([rng.uniform(0.01, 5) for _ in range(20)])
    cheapest, dearest = table.bounds(SPACE)
    for asked in (percent, 0, 100):
        target = build(table, target=f"{asked}%").target
        assert target == pytest.approx(cheapest + asked / 100 * (dearest - cheapest))


@pytest.mark.parametrize("part", [-0.01, 1.01])
def test_targets_out_of_reach_say_what_is_within(part: float) -> None:
    table = table_of(SPACE)
    cheapest, dearest = table.bounds(SPACE)
    target = f"{cheapest + part * (dearest - cheapest)}ms"
    sentence = rf"out of reach: networks of 'tiny' take {cheapest:.4g} to {dearest:.4g} ms"
    with pytest.raises(UserError, match=sentence):
        build(table, target=target)
    build(table, target=target, regularizer="none")  # It is not asked for.


def test_mul_log_refuses_a_millisecond_or_less() -> None:
    with pytest.raises(UserError, match=r"needs costs above 1 ms and 'tiny' reaches 0\.04 ms"):
        build(table_with([0.01]), regularizer="mul#log")
    for reference in (0.5, 1.0):
        with pytest.raises(UserError, match=f"its reference being {reference:.4g} ms"):
            build(regularizer="mul#log", reference=reference)


@pytest.mark.parametrize("kind", ["fixed", "candidate"])
def test_a_missing_layer_is_named_with_the_remedy(kind: str) -> None:
    layer = SPACE.fixed_layers()[0] if kind == "fixed" else SPACE.edge_layers()[2][1]
    table = table_of(SPACE)
    del table.entries[layer.key]
    with pytest.raises(UserError, match=f"measure .*`proxyless latency .*: {layer.key}"):
        build(table, regularizer="none")


@pytest.mark.parametrize("regularizer", ["add#linear", "mul#log"])
def test_costs_are_gathered_once(monkeypatch: pytest.MonkeyPatch, regularizer: str) -> None:
    """Not in every gate step, of which a search has thousands."""
    calls: list[object] = []
    costs = LatencyTable.costs
    monkeypatch.setattr(LatencyTable, "costs", lambda *a: calls.append(a) or costs(*a))
    config = LatencyConfig(regularizer=regularizer, reference=5.0)
    objective = Objective.of_space(SPACE, table_of(SPACE), config)
    probabilities = torch.full((4, 4), 0.25)
    before = len(calls)
    monkeypatch.setattr(LatencyTable, "latency", None)  # Nor anything else of the table's.
    losses = [objective.loss(torch.tensor(1.0), probabilities).item() for _ in range(3)]
    assert len(calls) == before
    assert losses[0] == losses[2]
