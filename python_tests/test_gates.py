from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from proxyless_ext import gates

# Alphas of edges. Where they lie far apart, a softmax in float32, or one minus the largest
# probability in float64, is rounded to zero.
ROWS = {
    "even": [0.0, 0.0, 0.0, 0.0, 0.0],
    "mild": [0.3, -1.2, 0.8, 2.0, -0.4],
    "padded": [0.5, -0.5],
    "single": [-0.7],
    "certain": [9.0, 0.0, 1.0],
    "80 apart": [40.0, -40.0, -39.0, -41.0],
    "1e4 apart": [-1e4, 1e4, 0.0, -1e4, -1.0],
}
DRAWS = 20_000


def padded(rows: list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows of any lengths as a matrix [E, N] with -inf in the missing columns."""
    width = max(map(len, rows))
    return torch.tensor([row + [-math.inf] * (width - len(row)) for row in rows], dtype=dtype)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def pair_probabilities(row: list[float]) -> dict[tuple[int, int], float]:
    """Of every pair i < j drawn without replacement: p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j).

    p_j / (1 - p_i) is the softmax without i, which no rounding of 1 - p_i can spoil.
    """

    def ordered(i: int, j: int) -> float:
        rest = [k for k in range(len(row)) if k != i]
        return softmax(row)[i] * softmax([row[k] for k in rest])[rest.index(j)]

    pairs = itertools.combinations(range(len(row)), 2)
    return {(i, j): ordered(i, j) + ordered(j, i) for i, j in pairs}


def draws_of_every_row(
    sampler: Callable[[Tensor, torch.Generator], Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """DRAWS draws from every row of ROWS, all of them edges of one matrix."""
    alpha = padded(list(ROWS.values()), dtype).repeat_interleave(DRAWS, dim=0)
    drawn = sampler(alpha, torch.Generator().manual_seed(0))
    return dict(zip(ROWS, drawn.unflatten(0, (len(ROWS), DRAWS)), strict=True))


def assert_frequencies(observed: dict, expected: dict) -> None:
    """A chi-square test of DRAWS counts, in which events expected below 0.01 times never happen."""
    means = {event: DRAWS * p for event, p in expected.items() if DRAWS * p > 0.01}
    assert set(observed) <= set(means)
    assert sum(observed.values()) == DRAWS
    if len(means) > 1:
        assert min(means.values()) > 1
        counts = [observed.get(event, 0) for event in means]
        scale = DRAWS / sum(means.values())
        frequencies = [scale * mean for mean in means.values()]
        assert scipy.stats.chisquare(counts, frequencies).pvalue > 1e-3


def count(events: Tensor) -> dict:
    values, counts = events.unique(dim=0, return_counts=True)
    keys = [tuple(value) if isinstance(value, list) else value for value in values.tolist()]
    return dict(zip(keys, counts.tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_paths_come_as_often_as_the_softmax_says(dtype: torch.dtype) -> None:
    for name, drawn in draws_of_every_row(gates.sample, dtype).items():
        assert_frequencies(count(drawn), dict(enumerate(softmax(ROWS[name]))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pairs_come_as_often_as_draws_without_replacement(dtype: torch.dtype) -> None:
    for name, drawn in draws_of_every_row(gates.sample_pair, dtype).items():
        assert (drawn[:, 0] != drawn[:, 1]).all()
        if name == "single":
            assert (drawn[:, 0] == 0).all()
        else:
            pairs = drawn.sort(dim=1).values
            assert_frequencies(count(pairs), pair_probabilities(ROWS[name]))


def test_the_pair_probabilities_are_those_of_the_closed_formula() -> None:
    p = softmax(ROWS["mild"])
    for (i, j), probability in pair_probabilities(ROWS["mild"]).items():
        closed = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        assert probability == pytest.approx(closed, rel=1e-12)
    assert sum(pair_probabilities(ROWS["mild"]).values()) == pytest.approx(1)


@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    number=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_paths_apart_use_every_candidate_before_any_twice(
    counts: list[int], number: int, seed: int
) -> None:
    alpha = torch.full((len(counts), max(counts)), -torch.inf)
    for row, count in zip(alpha, counts, strict=True):
        row[:count] = 0
    paths = gates.sample_apart(alpha, number, torch.Generator().manual_seed(seed))
    assert paths.shape == (number, len(counts))
    for column, count in zip(paths.T.tolist(), counts, strict=True):
        for first in range(0, number, count):
            drawn = column[first : first + count]
            assert len(set(drawn)) == len(drawn)
            assert set(drawn) <= set(range(count))
    alone = gates.sample(alpha, torch.Generator().manual_seed(seed))
    if number <= min(counts):
        assert torch.equal(paths[0], alone)


@pytest.mark.parametrize("sampler", [gates.sample, gates.sample_pair])
def test_edges_are_drawn_independently(
    sampler: Callable[[Tensor, torch.Generator], Tensor],
) -> None:
    alpha = padded([[0.0, 0.5, -0.5]] * 2).repeat(DRAWS, 1)
    drawn = sampler(alpha, torch.Generator().manual_seed(1)).reshape(DRAWS, 2, -1)
    # With three candidates a pair is as good as the one it leaves out.
    events = drawn[..., 0] if drawn.shape[2] == 1 else 3 - drawn.sum(dim=2)
    table = [
        [((events[:, 0] == i) & (events[:, 1] == j)).sum().item() for j in range(3)]
        for i in range(3)
    ]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_an_edge_of_single_candidates_has_no_pair() -> None:
    alpha = padded([[0.5], [-3.0]])
    assert gates.sample_pair(alpha).tolist() == [[0], [0]]
    assert gates.restrict(alpha, gates.sample_pair(alpha)).equal(alpha)


@pytest.mark.parametrize("sampler", [gates.sample, gates.sample_pair])
def test_sampling_depends_on_nothing_but_its_generator(
    sampler: Callable[[Tensor, torch.Generator], Tensor],
) -> None:
    alpha = padded([ROWS["mild"]] * 50)
    before = torch.get_rng_state()
    first, again, other = (
        sampler(alpha, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(before)


alphas = st.lists(st.lists(st.floats(-30, 30), min_size=1, max_size=5), min_size=1, max_size=4).map(
    padded
)
seeds = st.integers(0, 2**32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(alphas, seeds)
def test_padding_is_never_drawn_where_there_is_a_choice(alpha: Tensor, seed: int) -> None:
    for path, row in zip(gates.sample(alpha, seeded(seed)), alpha, strict=True):
        assert row[path].isfinite()
    for pair, row in zip(gates.sample_pair(alpha, seeded(seed)), alpha, strict=True):
        assert row[pair].isfinite().sum() == min(2, row.isfinite().sum())


@given(alphas, seeds)
def test_restricting_leaves_the_softmax_of_two(alpha: Tensor, seed: int) -> None:
    alpha.requires_grad_()
    pair = gates.sample_pair(alpha, seeded(seed))
    restricted = gates.restrict(alpha, pair).softmax(dim=1)
    for row, two, result in zip(alpha.tolist(), pair.tolist(), restricted.tolist(), strict=True):
        kept = [path for path in two if row[path] > -math.inf]
        expected = dict(zip(kept, softmax([row[path] for path in kept]), strict=True))
        assert result == pytest.approx([expected.get(path, 0) for path in range(len(row))])
    # Latency in a two-path step reaches the two alphas and no other.
    restricted.pow(2).sum().backward()
    assert alpha.grad is not None
    assert not alpha.grad.scatter(1, pair, 0).any()


@given(alphas, seeds)
def test_alpha_gradient_is_that_of_autograd_through_the_softmax(alpha: Tensor, seed: int) -> None:
    two = gates.restrict(alpha, gates.sample_pair(alpha, seeded(seed)))
    for logits in (alpha, two):
        leaf = logits.clone().requires_grad_()
        gate_gradient = torch.randn(alpha.shape, generator=seeded(seed), dtype=alpha.dtype)
        gate_gradient[logits.isinf()] = 0
        (expected,) = torch.autograd.grad((gate_gradient * leaf.softmax(dim=1)).sum(), leaf)
        result = gates.alpha_gradient(logits, gate_gradient)
        torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-14)
        # Adding a constant to an edge's alphas changes nothing, so no gradient points there.
        torch.testing.assert_close(result.sum(1), torch.zeros(len(alpha), dtype=alpha.dtype))


@given(alphas, seeds, st.integers(1, 6))
def test_reinforce_gradient_is_that_of_autograd_through_log_p(
    alpha: Tensor, seed: int, networks: int
) -> None:
    samples = torch.stack([gates.sample(alpha, seeded(seed + k)) for k in range(networks)])
    advantages = torch.randn(networks, generator=seeded(seed), dtype=alpha.dtype)
    leaf = alpha.clone().requires_grad_()
    log_p = torch.stack(
        [
            sum(
                row[path] - row[row.isfinite()].logsumexp(0)
                for row, path in zip(leaf, paths, strict=True)
            )
            for paths in samples
        ]
    )
    (expected,) = torch.autograd.grad((advantages * -log_p).mean(), leaf)
    result = gates.reinforce_gradient(alpha.softmax(dim=1), samples, advantages)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-14)


@given(alphas, seeds, st.floats(0, 20))
def test_rescaling_keeps_all_other_probabilities(alpha: Tensor, seed: int, size: float) -> None:
    pair = gates.sample_pair(alpha, seeded(seed))
    assume(pair.shape[1] == 2)
    moved = alpha.clone()
    moves = size * torch.randn(pair.shape, generator=seeded(seed), dtype=alpha.dtype)
    moved.scatter_add_(1, pair, moves)
    rescaled = moved + gates.rescale_shift(alpha, moved, pair)

    before, after = alpha.softmax(dim=1), rescaled.softmax(dim=1)
    both = before.gather(1, pair).sum(1)
    torch.testing.assert_close(after.gather(1, pair).sum(1), both)
    torch.testing.assert_close(after.scatter(1, pair, 0), before.scatter(1, pair, 0))
    # Between the two, the optimizer's step stands as it was.
    torch.testing.assert_close(
        gates.restrict(rescaled, pair).softmax(dim=1), gates.restrict(moved, pair).softmax(dim=1)
    )
    # All other alphas keep every bit.
    assert rescaled.scatter(1, pair, 0).equal(alpha.scatter(1, pair, 0))


def test_rescaling_takes_back_what_a_single_candidate_moved() -> None:
    before, pair = padded([[0.5], [1.0, 2.0]]), torch.tensor([[0, 1], [0, 1]])
    moved = before + torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(moved + gates.rescale_shift(before, moved, pair), before)


@given(alphas)
def test_entropy_is_the_mean_over_edges_in_nats(alpha: Tensor) -> None:
    rows = [row[row.isfinite()].softmax(0).numpy() for row in alpha]
    expected = sum(scipy.stats.entropy(row) for row in rows) / len(rows)
    assert gates.entropy(alpha.softmax(dim=1)).item() == pytest.approx(expected, abs=1e-12)


def test_entropy_of_certain_and_of_even_edges() -> None:
    assert gates.entropy(torch.tensor([[0.0, 1.0, 0.0]])).item() == 0
    assert gates.entropy(torch.full((3, 7), 1 / 7)).item() == pytest.approx(math.log(7))
