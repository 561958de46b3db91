from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from explicit_gates import explicit_gates
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from proxyless_ext import Edges, MBConv, MixedOp, Space, SuperNet, UserError, Zero
from proxyless_ext.nn import GateMode
from proxyless_ext.spaces import Stage, Stem

MODES: tuple[GateMode, ...] = ("full", "two_path")

# Edges of 4, 3 and 4 candidates: zero does not fit the second.
SPACE = Space(
    name="small",
    resolution=8,
    num_classes=3,
    stem=Stem(out_channels=4, stride=1),
    candidates=("k3e1", "k3e3", "k5e2", "zero"),
    stages=(Stage(channels=4, cells=1), Stage(channels=6, cells=2, stride=2)),
    feature_mix=8,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def supernet() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(SPACE)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=generator(0))


def scalar(output: Tensor) -> Tensor:
    """A loss that no BatchNorm makes constant."""
    return (output * torch.linspace(-1, 1, output.numel()).to(output).view_as(output)).sum()


class Calls:
    """Counts the forward calls of every candidate, and of which kind they were."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self.counts: Counter[tuple[int, int]] = Counter()
        self.graphs: Counter[tuple[int, int]] = Counter()
        for edge, mixed in enumerate(edges.mixed_ops):
            for index, candidate in enumerate(mixed.candidates):
                candidate.register_forward_hook(self._counter((edge, index)))

    def _counter(self, which: tuple[int, int]) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(module: nn.Module, args: Any, output: Tensor) -> None:
            self.counts[which] += 1
            self.graphs[which] += torch.is_grad_enabled() or output.requires_grad

        return count

    def take(self) -> Counter[tuple[int, int]]:
        taken, self.counts = self.counts, Counter()
        return taken

    @property
    def active(self) -> Counter[tuple[int, int]]:
        return Counter(enumerate(self.edges.active))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers, num_batches_tracked included, alphas left out."""
    state = module.state_dict().items()
    return {name: value.clone() for name, value in state if not name.endswith("alpha")}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    after = tensors_of(module)
    assert before.keys() == after.keys()
    return {name for name in before if not before[name].equal(after[name])}


def alpha_gradients(edges: Edges) -> list[Tensor]:
    return [alpha.grad for alpha in edges.alphas if alpha.grad is not None]


def test_any_module_is_a_candidate_and_only_the_active_one_runs() -> None:
    candidates = [nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.Identity(), Zero()]
    mixed = MixedOp(candidates)
    calls = Calls(Edges(mixed))
    x = torch.randn(2, 4, 1, 4)
    for active, candidate in enumerate(candidates):
        Edges(mixed).activate([active])
        expected = candidate(x)
        calls.take()
        y = mixed(x)
        if y.requires_grad:
            y.sum().backward()
        assert y.equal(expected)
        assert calls.take() == {(0, active): 1}


def test_an_edge_without_candidates_is_refused() -> None:
    with pytest.raises(UserError, match="at least one candidate"):
        MixedOp([])


def test_a_model_without_edges_is_refused() -> None:
    with pytest.raises(UserError, match="no MixedOp"):
        Edges(nn.Linear(2, 2))


def test_an_unknown_mode_is_refused(supernet: SuperNet) -> None:
    mode: Any = "two-path"
    with pytest.raises(UserError, match="use 'full' or 'two_path'"), supernet.edges.gate_step(mode):
        pass


def test_weights_and_alphas_are_all_parameters_and_disjoint(supernet: SuperNet) -> None:
    edges = supernet.edges
    ids = [id(parameter) for parameter in (*edges.alphas, *edges.weights)]
    assert sorted(ids) == sorted(map(id, supernet.parameters()))
    assert [len(alpha) for alpha in edges.alphas] == [4, 3, 4]
    matrix = edges.alpha_matrix()
    assert matrix.isinf().tolist() == [[False] * 4, [False] * 3 + [True], [False] * 4]
    assert edges.probabilities()[1, 3] == 0
    torch.testing.assert_close(edges.probabilities().sum(1), torch.ones(3))
    assert edges.choices() == [int(alpha.argmax()) for alpha in edges.alphas]


def test_unsampled_weights_and_statistics_keep_every_bit(
    supernet: SuperNet, images: Tensor
) -> None:
    edges = supernet.edges
    optimizer = torch.optim.SGD(
        edges.weights, lr=0.05, momentum=0.9, nesterov=True, weight_decay=4e-5
    )
    calls = Calls(edges)
    alphas = [alpha.detach().clone() for alpha in edges.alphas]
    seen = set()
    for step in range(20):
        edges.sample(generator(step))
        before = [[tensors_of(c) for c in mixed.candidates] for mixed in edges.mixed_ops]
        optimizer.zero_grad()
        scalar(supernet(images)).backward()
        optimizer.step()
        assert calls.take() == calls.active
        for edge, mixed in enumerate(edges.mixed_ops):
            for index, candidate in enumerate(mixed.candidates):
                # Everything of the active one moved, nothing of the others.
                moved = changed(before[edge][index], candidate)
                assert moved == (set(candidate.state_dict()) if index == mixed.active else set())
                seen.add((edge, index, bool(moved)))
    # All nine candidates with weights were met both active and not.
    assert len(seen) == 2 * 9 + 2
    assert not alpha_gradients(edges)
    assert all(map(torch.equal, alphas, edges.alphas))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backward_within", [True, False])
def test_a_gate_step_moves_alphas_and_nothing_else(
    supernet: SuperNet, images: Tensor, mode: GateMode, training: bool, backward_within: bool
) -> None:
    supernet.train(training)
    edges = supernet.edges
    optimizer = torch.optim.Adam(edges.alphas, lr=0.01, betas=(0.0, 0.999))
    before = tensors_of(supernet)
    for seed in range(6):
        alphas = [alpha.detach().clone() for alpha in edges.alphas]
        optimizer.zero_grad()
        with edges.gate_step(mode, generator(seed)) as step:
            loss = scalar(supernet(images))
            if backward_within:
                loss.backward()
        if not backward_within:
            loss.backward()
        step.update(optimizer.step)
        moved = pad_sequence(
            [old != alpha for old, alpha in zip(alphas, edges.alphas, strict=True)],
            batch_first=True,
        )
        if step.pair is None:
            assert moved.sum() == 11
        else:
            assert moved.nonzero()[:, 1].view(3, 2).equal(step.pair.sort(1).values)
    assert not changed(before, supernet)
    assert all(weight.grad is None for weight in edges.weights)


@pytest.mark.parametrize("mode", MODES)
def test_inactive_candidates_run_once_each_in_backward_and_without_graphs(
    supernet: SuperNet, images: Tensor, mode: GateMode
) -> None:
    edges = supernet.edges
    calls = Calls(edges)
    for seed in range(8):
        with edges.gate_step(mode, generator(seed)) as step:
            loss = scalar(supernet(images))
            assert calls.take() == calls.active
            calls.graphs.clear()
            loss.backward()
        involved = [range(len(alpha)) for alpha in edges.alphas]
        if step.pair is not None:
            involved = step.pair.tolist()
        everyone = Counter((edge, index) for edge, paths in enumerate(involved) for index in paths)
        assert calls.take() == everyone - calls.active
        assert not +calls.graphs


@pytest.mark.parametrize("no_graph", [torch.no_grad, torch.inference_mode])
def test_a_gate_step_that_only_evaluates_gives_no_gradients(
    supernet: SuperNet, images: Tensor, no_graph: Callable[[], AbstractContextManager[None]]
) -> None:
    edges = supernet.edges
    calls = Calls(edges)
    with edges.gate_step() as step:
        with no_graph():
            supernet(images)
        assert calls.take() == calls.active
        with pytest.raises(UserError, match=r"call loss.backward\(\)"):
            step.update(lambda: None)


def assert_gates_agree(
    model: nn.Module, x: Tensor, mode: GateMode = "full", seeds: range = range(6)
) -> set[tuple[int, ...]]:
    """Gate steps on `model` give the gates' gradients of autograd; returns the active paths met."""
    edges = Edges(model)
    met = set()
    for seed in seeds:
        with edges.gate_step(mode, generator(seed)) as step:
            scalar(model(x)).backward()
        with explicit_gates(model, edges.active) as gates:
            references = torch.autograd.grad(scalar(model(x)), gates, materialize_grads=True)
        assert step.gates.grad is not None
        for edge, reference in enumerate(references):
            kept = range(len(reference)) if step.pair is None else step.pair[edge]
            expected = torch.zeros(step.gates.shape[1], dtype=reference.dtype)
            for index in kept:
                if index < len(reference):
                    expected[index] = reference[index]
            torch.testing.assert_close(step.gates.grad[edge], expected, rtol=1e-9, atol=1e-11)
        met.add(tuple(edges.active))
    return met


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.inner(x)
        return output


def double_input(channels: int) -> Tensor:
    return torch.randn(3, channels, 5, 5, dtype=torch.float64, generator=generator(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_zero_is_an_ordinary_candidate(mode: GateMode, shortcut: bool, training: bool) -> None:
    torch.manual_seed(0)
    mixed = MixedOp([MBConv(3, 3, 3, expand_ratio=2), Zero(), MBConv(3, 3, 5, expand_ratio=1)])
    tail = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    model = nn.Sequential(Residual(mixed) if shortcut else mixed, tail).double().train(training)
    met = assert_gates_agree(model, double_input(3), mode, range(12))
    assert (1,) in met

    # With zero active every gate but its own has a gradient, and through them every alpha.
    mixed.alpha.data[1] = 5
    with Edges(model).gate_step("full", generator(0)) as step:
        scalar(model(double_input(3))).backward()
    assert mixed.active == 1
    step.update(lambda: None)
    assert step.gates.grad is not None
    assert step.gates.grad.bool().tolist() == [[True, False, True]]
    assert mixed.alpha.grad is not None
    assert mixed.alpha.grad.all()


@pytest.mark.parametrize("mode", MODES)
def test_edges_may_lie_inside_candidates(mode: GateMode) -> None:
    torch.manual_seed(0)
    inner = MixedOp([nn.Conv2d(2, 2, 1), MBConv(2, 2, 3, expand_ratio=1), Zero()])
    outer = MixedOp([nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), inner), nn.Conv2d(2, 2, 1)])
    model = nn.Sequential(outer, nn.Tanh()).double()
    met = assert_gates_agree(model, double_input(2), mode, range(20))
    assert len(met) == 6


@pytest.mark.parametrize("mode", MODES)
def test_the_gradients_of_an_edge_used_twice_add_up(mode: GateMode) -> None:
    torch.manual_seed(0)
    shared = MixedOp([nn.Conv2d(2, 2, 1), MBConv(2, 2, 3, expand_ratio=2), nn.Identity()])
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh()).double()
    assert len(Edges(model).mixed_ops) == 1
    assert len(assert_gates_agree(model, double_input(2), mode)) == 3


@pytest.mark.parametrize("mode", MODES)
def test_edges_of_one_candidate_stand_beside_others(mode: GateMode) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MixedOp([nn.Conv2d(2, 2, 1)]), MixedOp([nn.Tanh(), nn.Sigmoid()]))
    assert_gates_agree(model.double(), double_input(2), mode)
    assert_gates_agree(nn.Sequential(MixedOp([nn.Tanh()])).double(), double_input(2), mode)


def test_an_edge_that_is_not_run_gets_zeros() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = MixedOp([nn.Tanh(), nn.Sigmoid()])
            self.unused = MixedOp([nn.Tanh(), nn.Sigmoid()])

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.used(x)
            return output

    edges = Edges(Half())
    with edges.gate_step() as step:
        edges.model(torch.ones(2)).sum().backward()
    step.update(lambda: None)
    used, unused = alpha_gradients(edges)
    assert used.all()
    assert not unused.any()


def test_inactive_candidates_run_under_the_autocast_of_the_forward_pass(
    supernet: SuperNet, images: Tensor
) -> None:
    def loss(rounded: bool = True) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            return scalar(supernet(images).float())

    def reference(rounded: bool) -> Tensor:
        with explicit_gates(supernet, edges.active) as gates:
            gradients = torch.autograd.grad(loss(rounded), gates)
        return pad_sequence(list(gradients), batch_first=True)

    edges = supernet.edges
    for block in supernet.modules():
        if isinstance(block, MBConv):
            block.fused = False  # Probes of the operator round at other places.
    error = distance = 0.0
    for seed in range(6):
        with edges.gate_step("full", generator(seed)) as step:
            loss().backward()  # Outside of autocast, as is usual.
        assert step.gates.grad is not None
        error += (step.gates.grad - reference(rounded=True)).norm().item()
        distance += (step.gates.grad - reference(rounded=False)).norm().item()
    assert error < 0.1 * distance


def test_gradients_too_small_for_half_precision_reach_the_gates() -> None:
    model = MixedOp([nn.Identity(), nn.Sigmoid()])
    x = torch.full((4, 8), 0.01, dtype=torch.float16)
    edges = Edges(model)
    with edges.gate_step() as step:
        # A mean over many pictures has such gradients: products with x underflow in float16.
        (model(x).float() * 1e-6).sum().backward()
    assert step.gates.grad is not None
    torch.testing.assert_close(
        step.gates.grad[0], 32e-6 * torch.tensor([0.01, 0.5025]), rtol=0.05, atol=0
    )


@pytest.mark.parametrize("active", [0, 1])
def test_a_candidate_that_changes_its_input_in_place_is_refused(active: int) -> None:
    # Else the others would be evaluated on something that is not their input.
    mixed = MixedOp([nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 2, 1)), nn.Conv2d(2, 2, 1)])
    model = nn.Sequential(nn.Tanh(), mixed)
    mixed.alpha.data[active] = 50
    with (
        Edges(model).gate_step(),
        pytest.raises(UserError, match=r"candidate 0 .* in place"),
    ):
        model(torch.randn(2, 2, 3, 3)).sum().backward()


def test_a_follower_that_changes_the_output_in_place_is_refused_by_autograd() -> None:
    model = nn.Sequential(MixedOp([nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3)]), nn.ReLU(inplace=True))
    with Edges(model).gate_step(), pytest.raises(RuntimeError, match="inplace"):
        model(torch.randn(2, 2, 3, 3)).sum().backward()


def test_candidates_of_different_shapes_are_refused() -> None:
    # Products of shapes that can be broadcast would give a gradient that means nothing.
    mixed = MixedOp([nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1)])
    mixed.alpha.data[0] = 50
    with Edges(mixed).gate_step(), pytest.raises(UserError, match=r"candidate 1 .*shape"):
        mixed(torch.randn(2, 2, 3, 3)).sum().backward()


def flags(model: nn.Module) -> list[bool]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [
        *(parameter.requires_grad for parameter in model.parameters()),
        *(norm.training for norm in norms),
        *(norm.track_running_stats for norm in norms),
    ]


@pytest.mark.parametrize("where", ["before", "forward", "backward"])
def test_an_exception_leaves_no_trace(supernet: SuperNet, images: Tensor, where: str) -> None:
    edges = supernet.edges
    supernet.stem.requires_grad_(False)  # Frozen by the user: stays so.
    supernet.blocks[0].eval()
    before, weights = flags(supernet), tensors_of(supernet)

    class InterruptionError(Exception):
        pass

    def interrupt(*args: object) -> None:
        if where == "forward" or not torch.is_grad_enabled():
            raise InterruptionError

    def gate_step() -> None:
        with edges.gate_step("full", generator(0)):
            if where == "before":
                raise InterruptionError
            scalar(supernet(images)).backward()

    hooks = [
        candidate.register_forward_hook(interrupt)
        for mixed in edges.mixed_ops
        for candidate in mixed.candidates
    ]
    with pytest.raises(InterruptionError):
        gate_step()
    for hook in hooks:
        hook.remove()
    assert flags(supernet) == before
    assert not changed(weights, supernet)

    # The next weight step is an ordinary one.
    calls = Calls(edges)
    scalar(supernet(images)).backward()
    assert calls.take() == calls.active
    assert not alpha_gradients(edges)
    assert all(weight.grad is None for weight in supernet.stem.parameters())
    assert all(weight.grad is not None for weight in supernet.classifier.parameters())


def test_gradients_add_to_those_of_the_latency_term(supernet: SuperNet, images: Tensor) -> None:
    def gradients(seed: int, task: float, latency: float) -> Tensor:
        supernet.zero_grad()
        cost = torch.arange(12.0).view(3, 4)
        with supernet.edges.gate_step("two_path", generator(seed)) as step:
            loss = task * scalar(supernet(images))
            (loss + latency * (step.probabilities * cost).sum()).backward()
        step.update(lambda: None)
        return torch.cat(alpha_gradients(supernet.edges))

    for seed in range(3):
        torch.testing.assert_close(
            gradients(seed, 1, 1), gradients(seed, 1, 0) + gradients(seed, 0, 1)
        )
        assert gradients(seed, 0, 1).any()


def test_a_two_path_step_keeps_all_other_probabilities(supernet: SuperNet, images: Tensor) -> None:
    supernet.double()
    edges = supernet.edges
    optimizer = torch.optim.Adam(edges.alphas, lr=0.3, betas=(0.0, 0.999))
    for seed in range(8):
        before = edges.probabilities().detach()
        optimizer.zero_grad()
        with edges.gate_step("two_path", generator(seed)) as step:
            scalar(supernet(images.double())).backward()
        step.update(optimizer.step)
        after = edges.probabilities().detach()
        assert step.pair is not None
        torch.testing.assert_close(
            after.scatter(1, step.pair, 0), before.scatter(1, step.pair, 0), rtol=1e-12, atol=0
        )
        assert ((after - before).gather(1, step.pair).abs() > 1e-3).all()


def test_copies_are_independent(supernet: SuperNet, images: Tensor) -> None:
    supernet.edges.activate([1, 0, 2])
    twin = copy.deepcopy(supernet)
    assert twin.edges.active == [1, 0, 2]
    assert twin(images).equal(supernet(images))
    own = {id(module) for module in twin.modules()}
    assert all(id(mixed) in own for mixed in twin.edges.mixed_ops)
    with twin.edges.gate_step() as step:
        scalar(twin(images)).backward()
    step.update(lambda: None)
    assert len(alpha_gradients(twin.edges)) == 3
    assert not alpha_gradients(supernet.edges)
    assert supernet.edges.active == [1, 0, 2]


def test_state_survives_saving(supernet: SuperNet, images: Tensor, tmp_path: Any) -> None:
    torch.save(supernet.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(1)
    other = SuperNet(SPACE)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.edges.alpha_matrix().equal(supernet.edges.alpha_matrix())
    for seed in range(4):
        for model in (supernet, other):
            model.edges.sample(generator(seed))
        assert other.edges.active == supernet.edges.active
        assert other(images).equal(supernet(images))


def test_gate_steps_do_not_nest() -> None:
    edges = Edges(MixedOp([nn.Identity(), Zero()]))
    sentence = "a gate step is within another one; end that first"
    with edges.gate_step(), pytest.raises(UserError, match=sentence), edges.gate_step():
        pass
    with edges.gate_step():
        pass


class Several(nn.Module):
    """Gives what it is told to."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize("output", [(torch.ones(2), torch.ones(2)), [], {}, None])
@pytest.mark.parametrize("active", [0, 1])
def test_a_candidate_that_gives_no_tensor_is_one_sentence(output: Any, active: int) -> None:
    mixed = MixedOp([nn.Identity(), Several(output)])
    mixed.active = 1
    sentence = f"candidate 1 of a MixedOp gives a {type(output).__name__}; candidates make one"
    with pytest.raises(UserError, match=sentence):
        mixed(torch.ones(2))
    mixed.alpha.data[active] = 50.0
    edges = Edges(mixed)
    with edges.gate_step(), pytest.raises(UserError, match=sentence):
        mixed(torch.ones(2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("active", range(4))
def test_reshaping_behind_it_works_whatever_is_active(active: int) -> None:
    mixed = MixedOp([MBConv(4, 4, 3), MBConv(4, 4, 3, fused=False), nn.Identity(), Zero()])
    mixed.active = active
    assert nn.Flatten()(mixed(torch.rand(2, 4, 3, 3))).shape == (2, 36)
    assert mixed(torch.rand(2, 4, 3, 3)).reshape(2, 4, 9).shape == (2, 4, 9)
