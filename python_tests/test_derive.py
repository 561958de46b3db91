"""From alphas to the derived network, against all networks of a small space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE, exactly, layers

from proxyless_ext import SuperNet
from proxyless_ext.config import LatencyConfig
from proxyless_ext.latency import Entry, LatencyTable
from proxyless_ext.search import Objective, derive_choices

NETWORKS = [list(choices) for choices in product(*map(range, SPACE.counts))]


def supernet(seed: int, spread: float) -> SuperNet:
    """Alphas are normal with a standard deviation of `spread`."""
    torch.manual_seed(seed)
    network = SuperNet(SPACE)
    for alpha in network.edges.alphas:
        alpha.data.normal_(std=spread)
    return network


def table(seed: int, coarse: bool) -> LatencyTable:
    """Random latencies; coarse ones leave wide gaps between the networks'."""
    rng = random.Random(seed)
    entries = {}
    for layer in layers(SPACE):
        mean = rng.choice([1.0, 4.0, 16.0]) if coarse else rng.uniform(0.1, 3)
        entries[layer.key] = Entry(count=1, mean=mean, var=0.0)
    return LatencyTable(entries)


def log_probabilities(network: SuperNet) -> list[list[float]]:
    return [alpha.detach().double().log_softmax(0).tolist() for alpha in network.edges.alphas]


def total(rows: list[list[float]], choices: Sequence[int]) -> float:
    return sum(row[choice] for row, choice in zip(rows, choices, strict=True))


@pytest.mark.parametrize("regularizer", ["none", "add#linear"])
def test_without_a_target_it_is_the_argmax(regularizer: str) -> None:
    network = supernet(0, 1.0)
    objective = Objective.of_space(SPACE, table(0, False), LatencyConfig(regularizer=regularizer))
    choices = derive_choices(network, objective)
    assert list(choices) == [alpha.argmax().item() for alpha in network.edges.alphas]
    scores = log_probabilities(network)
    assert list(choices) == max(NETWORKS, key=lambda choices: total(scores, choices))


@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    percent=st.floats(0, 100),
    tolerance=st.sampled_from([1e-4, 0.01, 0.05, 0.3]),
    coarse=st.booleans(),
)
def test_under_a_target(
    seed: int, spread: float, percent: float, tolerance: float, coarse: bool
) -> None:
    network = supernet(seed, spread)
    config = LatencyConfig(target=f"{percent}%", tolerance=tolerance)
    objective = Objective.of_space(SPACE, table(seed, coarse), config)
    target = objective.target
    assert target is not None

    def distance(choices: list[int]) -> float:
        return abs(objective.predicted(choices) - target)

    choices = derive_choices(network, objective)
    nearest = min(map(distance, NETWORKS))
    within = [other for other in NETWORKS if distance(other) <= tolerance * target - 1e-9]
    if within:
        assert distance(choices) <= tolerance * target + 1e-9
        scores = log_probabilities(network)
        assert total(scores, choices) >= max(total(scores, other) for other in within) - 1e-6
    else:
        assert distance(choices) <= max(1.05 * nearest, tolerance * target) + 1e-9


def test_the_supernet_stays_as_it_is() -> None:
    network = supernet(1, 0.5)
    network.edges.activate([1, 2, 0, 1])
    before = exactly(network.state_dict())
    for target in ("10%", "50%", "90%"):
        objective = Objective.of_space(SPACE, table(1, False), LatencyConfig(target=target))
        network.derive(derive_choices(network, objective))
    assert exactly(network.state_dict()) == before
    assert network.edges.active == [1, 2, 0, 1]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
