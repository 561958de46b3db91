"""Networks of a latency band: drawn uniformly, and the most probable one, against brute force."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from proxyless_ext import spaces
from proxyless_ext.latency import (
    Costs,
    Entry,
    LatencyTable,
    most_probable_within,
    sample_within,
    sampling,
)

SPACE = spaces.Space(
    name="small",
    resolution=8,
    num_classes=3,
    stem=spaces.Stem(out_channels=8, stride=1),
    candidates=("k3e3", "k5e6", "k7e3", "zero"),
    stages=(
        spaces.Stage(channels=8, cells=2),
        spaces.Stage(channels=16, cells=2, stride=2),
    ),
    feature_mix=24,
)


def random_table(space, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = itertools.chain(space.fixed_layers(), *space.edge_layers())
    keys = sorted({layer.key for layer in layers})
    means = (torch.rand(len(keys), generator=generator, dtype=torch.float64) + 0.1).tolist()
    return LatencyTable(
        {key: Entry(count=1, mean=mean, var=0) for key, mean in zip(keys, means, strict=True)}
    )


def networks_of(space, table):
    choices = itertools.product(*map(range, space.counts))
    return {each: table.predict(space.architecture(each)) for each in choices}


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25)
def test_all_networks_of_a_band_are_found_and_no_other(seed, a, b):
    table = random_table(SPACE, seed)
    networks = networks_of(SPACE, table)
    ordered = sorted(networks.values())
    ends = sorted(ordered[0] + part * (ordered[-1] - ordered[0]) for part in (a, b))
    low, high = ends[0] - 1e-9, ends[1] + 1e-9
    within = {each for each, latency in networks.items() if low <= latency <= high}
    found = sample_within(table.costs(SPACE), low, high, len(within), seed)
    assert len(found) == len(within)
    assert set(map(tuple, found)) == within
    assert len(sample_within(table.costs(SPACE), low, high, 100_000, seed)) == len(within)


def test_an_empty_band_has_no_networks():
    table = random_table(SPACE, 0)
    _, dearest = table.bounds(SPACE)
    assert sample_within(table.costs(SPACE), dearest + 1, dearest + 2, 1, 0) == []


@pytest.mark.parametrize("enumerable", [True, False])
def test_networks_of_a_band_are_equally_probable(monkeypatch, enumerable):
    if not enumerable:
        monkeypatch.setattr(sampling, "MAX_TRIES", 10)
    table = random_table(SPACE, 3)
    networks = networks_of(SPACE, table)
    ordered = sorted(networks.values())
    low, high = ordered[len(ordered) // 5] - 1e-9, ordered[len(ordered) // 3] + 1e-9
    within = {each for each, latency in networks.items() if low <= latency <= high}
    draws = 12 * len(within)
    counts = Counter(
        tuple(sample_within(table.costs(SPACE), low, high, 1, seed)[0]) for seed in range(draws)
    )
    assert set(counts) <= within
    assert chisquare([counts[each] for each in within]).pvalue > 1e-4


def test_drawing_gives_different_networks_of_the_band(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_TRIES", 10)  # As for a space too large to be enumerated.
    table = random_table(SPACE, 4)
    networks = networks_of(SPACE, table)
    low, high = 0.0, sorted(networks.values())[len(networks) // 3]
    found = list(map(tuple, sample_within(table.costs(SPACE), low, high, 30, 5)))
    assert len(set(found)) == 30
    assert all(networks[each] <= high for each in found)


def test_a_seed_gives_the_same_networks_again():
    table = random_table(SPACE, 0)
    first, again, other = (sample_within(table.costs(SPACE), 0, 99, 20, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_extreme_bands_of_a_huge_space():
    space = spaces.imagenet(resolution=32)
    table = random_table(space, 0)
    cheapest, dearest = table.bounds(space)
    for low, high in ((cheapest - 1, cheapest + 0.3), (dearest - 0.3, dearest + 1)):
        found = sample_within(table.costs(space), low, high, 5, 0)
        assert len(set(map(tuple, found))) == 5
        assert all(low <= table.predict(space.architecture(each)) <= high for each in found)


def best_within(log_p, latencies, low, high):
    """The largest sum of log-probabilities in the band, by trying all networks."""
    sums = [
        math.fsum(log_p[edge][i].item() for edge, i in enumerate(each))
        for each in itertools.product(range(log_p.shape[1]), repeat=len(log_p))
        if all(log_p[edge][i] > -math.inf for edge, i in enumerate(each))
        and low <= math.fsum(latencies[edge][i].item() for edge, i in enumerate(each)) <= high
    ]
    return max(sums, default=None)


@given(st.integers(0, 10_000), st.floats(-0.1, 1.1), st.sampled_from([0.0, 1e-6, 0.01, 0.1, 0.5]))
@settings(max_examples=150)
def test_the_most_probable_network_of_a_band(seed, at, width):
    generator = torch.Generator().manual_seed(seed)
    edges, candidates = 1 + seed % 4, 1 + seed % 5
    latencies = torch.rand(edges, candidates, generator=generator, dtype=torch.float64)
    log_p = torch.randn(edges, candidates, generator=generator, dtype=torch.float64).log_softmax(1)
    if candidates > 1:  # An edge with fewer candidates, its padding the cheapest of all.
        log_p[0, -1], latencies[0, -1] = -torch.inf, 0
    low = at * latencies.amax(1).sum().item()
    high = low + width
    best = best_within(log_p, latencies, low, high)
    found = most_probable_within(log_p, latencies, low, high)
    if best is None:
        assert found == []
    else:
        (found,) = found
        assert low <= math.fsum(latencies[range(edges), found].tolist()) <= high
        assert log_p[range(edges), found].sum().item() == pytest.approx(best, abs=1e-12)


@given(st.integers(0, 1000))
def test_a_band_of_one_latency_finds_its_network(seed):
    generator = torch.Generator().manual_seed(seed)
    latencies = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    log_p = torch.zeros(4, 4, dtype=torch.float64)
    wanted = torch.randint(4, (4,), generator=generator).tolist()
    latency = math.fsum(latencies[range(4), wanted].tolist())
    assert most_probable_within(log_p, latencies, latency, latency) == [wanted]


def test_the_whole_range_gives_the_argmax():
    log_p = torch.randn(21, 7, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    latencies = torch.rand(21, 7)
    found = most_probable_within(log_p, latencies, -math.inf, math.inf)
    assert found == [log_p.argmax(1).tolist()]


def test_equal_latencies_are_one_band():
    log_p = torch.tensor([[0.1, 0.9], [0.8, 0.2]]).log()
    latencies = torch.full((2, 2), 1.5)
    assert most_probable_within(log_p, latencies, 3.0, 3.0) == [[1, 0]]
    assert most_probable_within(log_p, latencies, 3.0, 3.0, 9) == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert most_probable_within(log_p, latencies, 3.1, 9.0) == []
    assert most_probable_within(log_p, latencies, 0.0, 2.9) == []
    assert most_probable_within(log_p, latencies, 9.0, 0.0) == []


def test_hundreds_of_edges_whose_networks_crowd_beyond_the_band() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    known = Costs(costs, 0.0, (3,) * 200)
    low, high = 0.7 * known.uniform, 0.702 * known.uniform  # Far below what most networks cost.
    drawn = sample_within(known, low, high, 3, seed=0)
    scores = torch.rand(200, 3, generator=generator, dtype=torch.float64).log_softmax(1)
    likeliest = most_probable_within(scores, costs, low, high, 3)
    for networks in (drawn, likeliest):
        assert len({tuple(choices) for choices in networks}) == 3
        assert all(low <= known.network(choices) <= high for choices in networks)
    worth = [[scores[range(200), choices].sum() for choices in each] for each in (drawn, likeliest)]
    assert min(worth[1]) > max(worth[0])


def test_roundings_that_all_point_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BINS", 800)
    # Good networks have as many as can be of a candidate that takes 5.45 bins and counts as 5.
    taken = 5.45
    costs = torch.tensor([[0.0, 800 - 79 * taken]] + 79 * [[0.0, taken]], dtype=torch.float64)
    scores = torch.rand(80, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([0, 2])
    scores[0, 1] = -1000
    low, high = 200.0, 260.0
    (found,) = most_probable_within(scores.double(), costs, low, high)
    assert low <= costs[range(80), found].sum() <= high
