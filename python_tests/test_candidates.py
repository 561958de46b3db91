"""Which networks may be handed over, against all networks of a small space."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE, table_of

from proxyless_ext.config import LatencyConfig
from proxyless_ext.search import Objective
from proxyless_ext.search.candidates import Band

NETWORKS = [*product(*(range(len(edge.candidates)) for edge in SPACE.edges))]
TABLE = table_of(SPACE)


def log_probabilities(seed: int) -> torch.Tensor:
    width = max(len(edge.candidates) for edge in SPACE.edges)
    alpha = torch.randn(len(SPACE.edges), width, generator=torch.Generator().manual_seed(seed))
    for row, edge in zip(alpha, SPACE.edges, strict=True):
        row[len(edge.candidates) :] = -torch.inf
    return alpha.double().log_softmax(1)


def band_of(percent: float, tolerance: float) -> tuple[Band, list[tuple]]:
    """A band, and all networks that lie in it by their own predicted latency."""
    config = LatencyConfig(target=f"{percent}%", tolerance=tolerance)
    objective = Objective.of_space(SPACE, TABLE, config)
    assert objective.target is not None
    slack = tolerance * objective.target
    members = [
        choices
        for choices in NETWORKS
        if abs(objective.predicted(choices) - objective.target) <= slack
    ]
    return Band.of(objective), members


@given(st.integers(0, 1000), st.floats(5, 95), st.sampled_from([0.05, 0.2]))
def test_the_likeliest_of_the_band(seed: int, percent: float, tolerance: float) -> None:
    scores = log_probabilities(seed)
    band, members = band_of(percent, tolerance)
    found = band.likeliest(scores, 7)
    if not members:  # It was widened.
        assert found
        return

    def score(choices: tuple[int, ...]) -> float:
        return scores[range(len(choices)), choices].sum().item()

    best = sorted(map(score, members), reverse=True)[:7]
    assert [score(choices) for choices in found] == pytest.approx(best, abs=1e-9)
    assert set(found) <= set(members)
    assert set(band.drawn(1000, seed)) == set(members)


@given(st.integers(0, 1000), st.floats(20, 80))
def test_offspring_are_new_networks_of_the_band(seed: int, percent: float) -> None:
    scores = log_probabilities(seed)
    band, members = band_of(percent, 0.2)
    parents = band.likeliest(scores, 4)
    children = band.offspring(parents, set(parents), 10, random.Random(seed))
    assert len(set(children)) == len(children) <= 10
    assert set(children) <= set(members) - set(parents)
    assert children == band.offspring(parents, set(parents), 10, random.Random(seed))
    assert band.offspring(parents, set(members), 10, random.Random(seed)) == []


def test_all_offspring_are_found_where_there_are_few() -> None:
    scores = log_probabilities(3)
    band, members = band_of(50, 0.1)
    parents = band.likeliest(scores, 1)
    known = set(members) - {members[0], members[-1], *parents}
    assert 4 < len(members) < 80
    children = band.offspring(parents, known | set(parents), 50, random.Random(0))
    assert set(children) == {members[0], members[-1]} - set(parents)


def test_without_a_target_every_network_may_be_handed_over() -> None:
    scores = log_probabilities(0)
    objective = Objective.of_space(SPACE, TABLE, LatencyConfig(regularizer="none"))
    band = Band.of(objective)
    assert (band.low, band.high) == (-math.inf, math.inf)
    assert len(band.likeliest(scores, 10**6)) == len(NETWORKS)
    assert len(band.drawn(10**6, 0)) == len(NETWORKS)
