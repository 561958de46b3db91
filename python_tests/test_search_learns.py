from __future__ import annotations

import pytest
import torch
from planted import LATENCY, LATENCY_WEIGHT, NUM_CANDIDATES, PLANTED, PlantedSearch, SearchMode

SEEDS = range(10)
MODES: tuple[SearchMode, ...] = ("full", "two_path", "reinforce")


def trained_objective(paths: list[int]) -> float:
    """Loss and latency of one network of the space, trained alone."""
    search = PlantedSearch(seed=0)
    search.edges.activate(paths)
    for step in range(100):
        search.weight_step(step)
    with torch.no_grad():
        loss = sum(search.loss(search.batch("test", batch)).item() for batch in range(10)) / 10
    return loss + LATENCY_WEIGHT * LATENCY[paths].sum().item()


def test_no_neighbour_of_the_planted_network_is_as_good() -> None:
    planted = trained_objective(PLANTED)
    for edge, right in enumerate(PLANTED):
        for wrong in {*range(NUM_CANDIDATES)} - {right}:
            paths = [*PLANTED[:edge], wrong, *PLANTED[edge + 1 :]]
            assert trained_objective(paths) > planted + 0.02


def test_searches_of_the_default_mode_find_every_planted_candidate() -> None:
    assert all(PlantedSearch(seed).run("full") == PLANTED for seed in SEEDS[:5])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_search_finds_every_planted_candidate(mode: SearchMode) -> None:
    found = [PlantedSearch(seed).run(mode) == PLANTED for seed in SEEDS]
    assert sum(found) >= 9


def test_random_choice_does_not_find_them() -> None:
    # What the alphas would choose without a single gate step.
    found = [PlantedSearch(seed).edges.choices() == PLANTED for seed in SEEDS]
    assert sum(found) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("latency_weight", [0, LATENCY_WEIGHT])
def test_every_alpha_that_should_receive_a_gradient_does(
    mode: SearchMode, latency_weight: float
) -> None:
    search = PlantedSearch(seed=0, latency_weight=latency_weight)
    active = set()
    for step in range(20):
        due = search.gate_step(mode, step)
        active |= set(search.edges.active)
        for alpha, expected in zip(search.edges.alphas, due, strict=True):
            assert alpha.grad is not None
            assert alpha.grad.bool().equal(expected)
    assert active == {*range(NUM_CANDIDATES)}
