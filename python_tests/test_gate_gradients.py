from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from explicit_gates import explicit_gates
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from proxyless_ext import Edges, MBConv, MixedOp, Space, SuperNet, Zero, gates
from proxyless_ext.nn import GateMode, GateStep
from proxyless_ext.spaces import Stage, Stem

# Edges of 3, 2 and 3 candidates: zero does not fit the second.
SPACE = Space(
    name="tiny",
    resolution=6,
    num_classes=3,
    stem=Stem(out_channels=4, stride=1),
    candidates=("k3e1", "k5e2", "zero"),
    stages=(Stage(channels=4, cells=1), Stage(channels=6, cells=2, stride=2)),
    feature_mix=8,
)
IMAGES = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2, 1, 1])

Path = tuple[int, ...]
Pairs = tuple[Path, ...]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize_alphas(edges: Edges) -> None:
    for index, alpha in enumerate(edges.alphas):
        alpha.data.uniform_(-0.6, 0.6, generator=generator(index))


@pytest.fixture
def supernet() -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(SPACE).double()
    randomize_alphas(supernet.edges)
    return supernet


def latencies(edges: Edges) -> Tensor:
    """Some milliseconds for every candidate [E, N], zero in the padding."""
    rows = [
        1 + 5 * torch.rand(len(alpha), dtype=alpha.dtype, generator=generator(index))
        for index, alpha in enumerate(edges.alphas)
    ]
    return pad_sequence(rows, batch_first=True)


def task_loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IMAGES), LABELS)


def total_loss(task: Tensor, probabilities: Tensor, latency: Tensor) -> Tensor:
    """The regulariser mul#log: each factor scales the gradient of the other."""
    return 0.2 * task * ((probabilities * latency).sum().log() / math.log(5)) ** 0.3


def choices_of(step: GateStep) -> tuple[Pairs | None, Path]:
    """What a gate step drew: its pairs, in ascending order, and its active paths."""
    pairs = None if step.pair is None else tuple(map(tuple, step.pair.sort(1).values.tolist()))
    return pairs, tuple(step.edges.active)


def take_gradients(edges: Edges) -> Tensor:
    """The gradients of all alphas [E, N], removed from them."""
    gradients = [alpha.grad for alpha in edges.alphas if alpha.grad is not None]
    for alpha in edges.alphas:
        alpha.grad = None
    return pad_sequence(gradients, batch_first=True)


def gate_step_gradient(supernet: SuperNet, mode: GateMode, seed: int) -> tuple[GateStep, Tensor]:
    """A whole gate step, and the gradient of the alphas [E, N] that it leaves."""
    edges = supernet.edges
    with edges.gate_step(mode, generator(seed)) as step:
        total_loss(task_loss(supernet), step.probabilities, latencies(edges)).backward()
    step.update(lambda: None)
    return step, take_gradients(edges)


def softmax_over(alphas: Sequence[Tensor], pairs: Pairs | None) -> Tensor:
    """p [E, N] edge by edge: over all candidates, or over the two of `pairs`."""
    rows = []
    for index, alpha in enumerate(alphas):
        kept = list(range(len(alpha)) if pairs is None else pairs[index])
        powers = alpha.exp()
        rows.append(torch.zeros_like(alpha).index_put((torch.tensor(kept),), powers[kept]))
        rows[-1] = rows[-1] / powers[kept].sum()
    return pad_sequence(rows, batch_first=True)


def reference_gradient(
    supernet: SuperNet, pairs: Pairs | None, active: Path
) -> tuple[Tensor, Tensor]:
    """Gradients of gates and alphas [E, N] by autograd through all candidates.

    As in the paper, dL/dalpha = dL/dg * dp/dalpha, taken over the candidates of the step.
    """
    alphas = [alpha.detach().clone().requires_grad_() for alpha in supernet.edges.alphas]
    probabilities = softmax_over(alphas, pairs)
    with explicit_gates(supernet, active) as binary:
        loss = total_loss(task_loss(supernet), probabilities, latencies(supernet.edges))
    gate_gradients = torch.autograd.grad(loss, binary, retain_graph=True)
    gate_gradient = pad_sequence(list(gate_gradients), batch_first=True)
    if pairs is not None:
        gate_gradient *= torch.zeros_like(gate_gradient).scatter(1, torch.tensor(pairs), 1)
    through_gates = (gate_gradient * probabilities).sum()
    gradients = torch.autograd.grad(loss + through_gates, alphas)
    return gate_gradient, pad_sequence(list(gradients), batch_first=True)


@pytest.mark.parametrize("mode", ["full", "two_path"])
def test_gradients_are_those_of_autograd_through_all_candidates(
    supernet: SuperNet, mode: GateMode
) -> None:
    seen = set()
    for seed in range(16):
        step, gradient = gate_step_gradient(supernet, mode, seed)
        gate_reference, alpha_reference = reference_gradient(supernet, *choices_of(step))
        torch.testing.assert_close(step.gates.grad, gate_reference, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, alpha_reference, rtol=1e-9, atol=1e-12)
        seen |= set(enumerate(step.edges.active))
    assert seen == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}


def all_paths(edges: Edges) -> list[Path]:
    return list(itertools.product(*(range(len(alpha)) for alpha in edges.alphas)))


def path_probability(alphas: Sequence[Tensor], path: Sequence[int]) -> Tensor:
    rows = zip(alphas, path, strict=True)
    return torch.stack([alpha.softmax(0)[choice] for alpha, choice in rows]).prod()


def gradient_of_expectation(edges: Edges, value: dict[Path, float]) -> Tensor:
    """d/dalpha [E, N] of sum over all paths of p(path) value(path)."""
    alphas = [alpha.detach().clone().requires_grad_() for alpha in edges.alphas]
    expectation = torch.stack([path_probability(alphas, path) * value[path] for path in value])
    return pad_sequence(list(torch.autograd.grad(expectation.sum(), alphas)), batch_first=True)


class Linear(nn.Module):
    """A loss that is linear in its input: the mean product with fixed random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.randn(x.shape, dtype=x.dtype, generator=generator(x.numel()))
        return (x * weight).mean()


class ParallelEdges(nn.Module):
    """Two edges on one input, and a loss that is linear in the output of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MixedOp([MBConv(3, 5, 3, 2, 2), MBConv(3, 5, 5, 2, 1), Zero(5, 2)])
        self.second = MixedOp([MBConv(3, 3, 7, 1, 1), Zero(), nn.Identity(), MBConv(3, 3, 3)])
        self.loss = Linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.first(x)) + self.loss(x + self.second(x))


def path_values(model: nn.Module, edges: Edges, latency_weight: float) -> dict[Path, float]:
    """Loss and weighted latency of every path, each run alone."""
    values = {}
    for path in all_paths(edges):
        edges.activate(path)
        latency = latencies(edges)[range(len(path)), path].sum()
        values[path] = (model(IMAGES) + latency_weight * latency).item()
    return values


@pytest.fixture
def parallel() -> ParallelEdges:
    torch.manual_seed(0)
    model = ParallelEdges().double()
    randomize_alphas(Edges(model))
    return model


@pytest.mark.parametrize("seed", range(5))
def test_full_is_exact_where_the_loss_is_linear_whatever_is_active(
    parallel: ParallelEdges, seed: int
) -> None:
    edges = Edges(parallel)
    exact = gradient_of_expectation(edges, path_values(parallel, edges, latency_weight=0.1))
    with edges.gate_step("full", generator(seed)) as step:
        (parallel(IMAGES) + 0.1 * (step.probabilities * latencies(edges)).sum()).backward()
    step.update(lambda: None)
    torch.testing.assert_close(take_gradients(edges), exact, rtol=1e-9, atol=1e-12)


def test_full_is_exact_on_average_where_edges_follow_each_other() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 3, size, padding=size // 2, bias=False) for size in (1, 3)]
    model = nn.Sequential(
        MixedOp([MBConv(3, 3, 3, 1, 2), MBConv(3, 3, 5, 1, 1), nn.Identity()]),
        MixedOp([*convolutions, Zero()]),
        Linear(),
    ).double()
    edges = Edges(model)
    randomize_alphas(edges)
    exact = gradient_of_expectation(edges, path_values(model, edges, latency_weight=0))

    gradients = {}
    for seed in range(100):
        with edges.gate_step("full", generator(seed)) as step:
            model(IMAGES).backward()
        step.update(lambda: None)
        gradients[tuple(edges.active)] = take_gradients(edges)
    assert set(gradients) == set(all_paths(edges))
    with torch.no_grad():
        weighted = [path_probability(edges.alphas, path) * row for path, row in gradients.items()]
    torch.testing.assert_close(torch.stack(weighted).sum(0), exact, rtol=1e-9, atol=1e-12)
    # One step alone is not exact here: the other edge's path decides what it sees.
    assert not any(gradient.allclose(exact, rtol=0.1) for gradient in gradients.values())


class Sampler:
    """Many copies of a model's edges without their weights, so that one call draws many paths."""

    def __init__(self, edges: Edges, copies: int) -> None:
        self.num_edges = len(edges.alphas)
        nothing = nn.Identity()
        originals = copies * edges.alphas
        mixed = [MixedOp([nothing] * len(alpha)).double() for alpha in originals]
        for copy, alpha in zip(mixed, originals, strict=True):
            copy.alpha.data.copy_(alpha.data)
        self.edges = Edges(nn.ModuleList(mixed))

    def paths(self, seed: int) -> Tensor:
        """[copies, E]"""
        self.edges.sample(generator(seed))
        return torch.tensor(self.edges.active).unflatten(0, (-1, self.num_edges))

    def two_path_choices(self, seed: int) -> Counter[tuple[Pairs, Path]]:
        """How often a two-path gate step draws which pairs and active paths."""
        with self.edges.gate_step("two_path", generator(seed)) as step:
            pairs, active = choices_of(step)
        assert pairs is not None
        size = self.num_edges
        starts = range(0, len(active), size)
        return Counter((pairs[at : at + size], active[at : at + size]) for at in starts)


def assert_unbiased(estimates: Tensor, weights: Tensor, exact: Tensor) -> None:
    """The mean of `estimates` [K, E, N], met `weights` [K] times, is `exact` within its error."""
    total = weights.sum()
    mean = torch.einsum("k,ken->en", weights, estimates) / total
    variance = torch.einsum("k,ken->en", weights, (estimates - mean) ** 2) / total
    error = (variance / total).sqrt()
    assert ((mean - exact).abs() <= 4 * error + 1e-12).all()
    # Errors small enough that a wrong estimator would not pass.
    assert error.norm() < exact.norm() / 20


def two_path_probability(alphas: Sequence[Tensor], pairs: Pairs, active: Path) -> float:
    result = 1.0
    for alpha, (i, j), path in zip(alphas, pairs, active, strict=True):
        p = alpha.detach().softmax(0)
        pair = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) if len(p) > 2 else 1.0
        result *= float(pair * p[path] / (p[i] + p[j]))
    return result


def test_two_path_is_its_mean_over_all_pairs(supernet: SuperNet) -> None:
    edges = supernet.edges
    every_pair = itertools.product(
        *(itertools.combinations(range(len(alpha)), 2) for alpha in edges.alphas)
    )
    choices = [(pairs, active) for pairs in every_pair for active in itertools.product(*pairs)]
    gradients = torch.stack([reference_gradient(supernet, *choice)[1] for choice in choices])
    probabilities = torch.tensor(
        [two_path_probability(edges.alphas, *choice) for choice in choices], dtype=torch.float64
    )
    assert probabilities.sum().item() == pytest.approx(1)
    mean = torch.einsum("k,ken->en", probabilities, gradients)

    sampler = Sampler(edges, copies=1000)
    drawn = sum((sampler.two_path_choices(seed) for seed in range(10)), Counter())
    assert set(drawn) <= set(choices)
    counts = torch.tensor([drawn[choice] for choice in choices], dtype=torch.float64)
    assert_unbiased(gradients, counts, mean)


def test_reinforce_is_the_gradient_of_the_expected_reward(supernet: SuperNet) -> None:
    edges = supernet.edges
    rewards = {}
    with torch.no_grad():
        for path in all_paths(edges):
            edges.activate(path)
            accuracy = supernet(IMAGES).softmax(1)[range(4), LABELS].mean()
            latency = latencies(edges)[range(len(path)), path].sum()
            rewards[path] = (accuracy * (8 / latency) ** 0.1).item()
    exact = -gradient_of_expectation(edges, rewards)

    baseline = sum(rewards.values()) / len(rewards)
    estimates = []
    sampler = Sampler(edges, copies=10)
    for seed in range(2000):
        samples = sampler.paths(seed)
        advantages = [rewards[tuple(path)] - baseline for path in samples.tolist()]
        estimates.append(
            gates.reinforce_gradient(
                edges.probabilities().detach(), samples, torch.tensor(advantages).double()
            )
        )
    assert_unbiased(torch.stack(estimates), torch.ones(len(estimates)).double(), exact)
