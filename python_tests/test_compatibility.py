"""What else PyTorch makes of models does with MixedOps what it does with other layers.

docs/compatibility.md names each of these tests.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from search_steps import (
    LABELS,
    MODES,
    PICTURES,
    Net,
    assert_same,
    candidates,
    search_steps,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import CheckpointError, checkpoint

from proxyless_ext import Edges, MBConv, MixedOp, Search, UserError, derive

# --- torch.compile ---


class Backend:
    """A compiler's backend that runs graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def backend() -> Iterator[Backend]:
    torch.compiler.reset()
    yield Backend()
    torch.compiler.reset()


def test_a_compiled_supernet_searches_the_same(backend: Backend) -> None:
    for mode in MODES:
        model = Net(share=True)
        compiled = torch.compile(model, backend=backend)
        assert_same(search_steps(model, compiled, mode), search_steps(Net(share=True), mode=mode))
    assert any("mbconv_forward" in str(graph.graph) for graph in backend.graphs)


def test_compiled_candidates_search_the_same(backend: Backend) -> None:
    model = Net(share=True)
    for mixed in Edges(model).mixed_ops:
        for candidate in mixed.candidates:
            candidate.compile(backend=backend)
    assert_same(search_steps(model), search_steps(Net(share=True)))
    assert all("mbconv_forward" in str(graph.graph) for graph in backend.graphs)
    assert backend.graphs


def test_a_compiled_supernet_has_graphs_of_its_candidates_and_not_of_its_networks(
    backend: Backend,
) -> None:
    layers = [MixedOp([Scaled(float(factor)) for factor in range(3)]) for _ in range(3)]
    edges = Edges(nn.Sequential(*layers))
    compiled = torch.compile(edges.model, backend=backend, dynamic=False)
    x = torch.ones(2)
    for paths in itertools.product(range(3), repeat=3):
        edges.activate(paths)
        torch.testing.assert_close(compiled(x), x * math.prod(paths))
    assert len(backend.graphs) == 3


class Scaled(nn.Module):
    """factor * x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_a_derived_network_is_one_graph_and_a_supernet_is_not(backend: Backend) -> None:
    model = Net().eval()
    network = derive(model, [1, 2])
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(PICTURES), network(PICTURES))
    (graph,) = backend.graphs
    assert "mbconv_forward" in str(graph.graph)
    with pytest.raises(RuntimeError, match="the active candidate of a MixedOp changes"):
        torch.compile(model, backend=backend, fullgraph=True)(PICTURES)


# --- Gradient checkpointing ---


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_checkpointed_edges_search_the_same(mode: str, share: bool) -> None:
    model = Net(share, {"use_reentrant": False})
    # Running statistics move in every forward, and so twice, as those of any BatchNorm there.
    assert_same(search_steps(model.eval(), mode=mode), search_steps(Net(share).eval(), mode=mode))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("mode", MODES)
def test_reentrant_checkpoints_do_where_their_input_requires_a_gradient(mode: str) -> None:
    model, plain = Net(checkpointing={"use_reentrant": True}).eval(), Net().eval()
    for each in (model, plain):
        each.stem.register_forward_hook(lambda module, args, output: output.requires_grad_())
    assert_same(search_steps(model, mode=mode), search_steps(plain, mode=mode))


class Reentrant(nn.Sequential):
    """Checkpointed in the way of old, in which forward runs without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = checkpoint(super().forward, x, use_reentrant=True)
        return output


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_an_edge_that_backward_does_not_reach_is_refused() -> None:
    edges = Edges(nn.Sequential(Reentrant(MixedOp(candidates())), MixedOp(candidates())))
    with edges.gate_step() as step:
        edges.model(torch.randn(2, 4, 6, 6)).square().sum().backward()
    before = edges.alpha_matrix().detach()
    with pytest.raises(UserError, match=r"ran without a graph .* with use_reentrant=False"):
        step.update(lambda: None)
    assert edges.alpha_matrix().equal(before)


def test_backward_through_checkpoints_belongs_within_the_gate_step() -> None:
    model = Net(checkpointing={"use_reentrant": False})
    with Edges(model).gate_step():
        loss = cross_entropy(model(PICTURES), LABELS)
    with pytest.raises(CheckpointError):
        loss.backward()


# --- Precision ---


@pytest.mark.parametrize("mode", ["full", "two_path"])
def test_a_scaler_leaves_alphas_as_they_are(mode: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert_same(search_steps(Net(), mode=mode, scaler=scaler), search_steps(Net(), mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_whole_steps_may_stand_within_autocast(mode: str) -> None:
    model, other = Net().float(), Net().float()

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = model(x)
        return logits.float()

    # A cache would keep rounded weights until the context ends, whatever optimizers do.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found = search_steps(other, mode=mode)
    assert_same(found, search_steps(model, run, mode))


def test_gate_gradients_that_float16_cannot_hold_need_the_scaler() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MixedOp([nn.Linear(8, 8), nn.Linear(8, 8)]), nn.Linear(8, 8))
    x = torch.randn(4, 8)

    def gradient(autocast: bool, **options: Any) -> Tensor:
        search = Search(copy.deepcopy(model), x, cost="parameters", **options)

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.float16, enabled=autocast):
                return 1e-9 * search.model(x).float().sum()

        search.gate_step(loss)
        (alpha,) = search.edges.alphas
        assert alpha.grad is not None
        return alpha.grad

    expected = gradient(autocast=False)
    assert not gradient(autocast=True).any()
    found = gradient(autocast=True, scaler=torch.amp.GradScaler("cpu"))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


# --- Copies and state ---


def through_state_dict(model: nn.Module) -> nn.Module:
    other = Net(share=model.first.shared is not None)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())
    return other


def through_pickle(model: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(model))
    return copied


COPIES = [copy.deepcopy, through_pickle, through_state_dict]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("copied", COPIES, ids=lambda copied: copied.__name__)
def test_a_copy_goes_on_as_the_model_would(
    copied: Callable[[nn.Module], nn.Module], share: bool
) -> None:
    model = Net(share)
    search_steps(model)
    twin = copied(model)
    assert_same(search_steps(twin), search_steps(model))


def test_state_of_shared_weights_is_not_that_of_separate_ones() -> None:
    blocks = candidates(share=True)
    shared, separate = MixedOp(copy.deepcopy(blocks), share=True), MixedOp(blocks)
    for one, other in ((shared, separate), (separate, shared)):
        with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key"):
            one.load_state_dict(other.state_dict())


@pytest.mark.parametrize("copied", COPIES[:2], ids=lambda copied: copied.__name__)
def test_copies_within_a_gate_step_are_refused(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = Net()
    with (
        Edges(model).gate_step(),
        pytest.raises(UserError, match="cannot be copied or pickled within a gate step"),
    ):
        copied(model)
    copied(model)


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_of_a_supernet(use_buffers: bool) -> None:
    model = Net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for share in (0.0, 0.9):  # The first update is a copy.
        search_steps(model, steps=1)
        average.update_parameters(model)
        for name, parameter in model.named_parameters():
            kept[name] = share * kept[name] + (1 - share) * parameter.detach()
    edges = Edges(average.module)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), kept[name], msg=name)
    assert not edges.alpha_matrix().equal(Edges(model).alpha_matrix())
    edges.activate([1, 3])
    average.eval()
    torch.testing.assert_close(derive(average.module, [1, 3])(PICTURES), average(PICTURES))


# --- Hooks ---


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("mode", MODES)
def test_hooks_of_edges_candidates_and_layers_run(mode: str) -> None:
    model, calls = Net(), Counter[tuple[str, type]]()

    def count(kind: str) -> Callable[..., None]:
        return lambda module, *_: calls.update([(kind, type(module))])

    blocks = [each for mixed in Edges(model).mixed_ops for each in mixed.candidates[:2]]
    for module in (model.first, model.second, *blocks, *(block.depthwise.conv for block in blocks)):
        module.register_forward_pre_hook(count("before"))
        module.register_forward_hook(count("after"))
        module.register_full_backward_pre_hook(count("backward before"))
        module.register_full_backward_hook(count("backward"))
    assert_same(search_steps(model, mode=mode), search_steps(Net(), mode=mode))
    for kind in ("before", "after", "backward before", "backward"):
        assert calls[kind, MixedOp] >= 6
        assert 0 < calls[kind, nn.Conv2d] == calls[kind, MBConv]


def test_hooks_for_all_modules_see_a_fused_block_and_not_its_layers() -> None:
    seen: list[nn.Module] = []
    handle = register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        for fused in (None, False):
            seen.clear()
            block = MBConv(4, 4, 3, fused=fused)
            block(torch.randn(2, 4, 5, 5))
            assert block in seen
            assert (block.depthwise.conv in seen) == (fused is False)
    finally:
        handle.remove()


# --- Conversion, parameters from elsewhere, export ---


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_synchronised_batch_norms_search_the_same(mode: str, share: bool) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Net(share))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert_same(search_steps(model, mode=mode), search_steps(Net(share), mode=mode))


def test_weights_from_elsewhere() -> None:
    model, other = Net(), Net()
    search_steps(other)
    state = {name: value.detach().clone() for name, value in other.state_dict().items()}
    weights = {name: state[name].requires_grad_() for name, _ in model.named_parameters()}
    for paths in ([0, 1], [1, 2], [3, 0]):
        for each in (model, other):
            Edges(each).activate(paths)
        other.zero_grad()
        cross_entropy(other(PICTURES), LABELS).backward()
        loss = cross_entropy(functional_call(model, state, (PICTURES,)), LABELS)
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for gradient, parameter in zip(found, other.parameters(), strict=True):
            expected = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradient, expected)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(state[name], buffer)
    del state["first.alpha"], state["second.alpha"]
    with Edges(model).gate_step(), pytest.raises(UserError, match="exchanged between forward and"):
        cross_entropy(functional_call(model, state, (PICTURES,)), LABELS).backward()


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_exports_are_of_the_active_path_or_of_a_derived_network(strict: bool) -> None:
    model = Net(share=True).float().eval()
    Edges(model).activate([1, 0])
    x = PICTURES.float()
    for each in (model, derive(model, [1, 0])):
        program = torch.export.export(each, (x,), strict=strict)
        assert "proxyless" not in str(program.graph)
        torch.testing.assert_close(program.module()(x), model(x))
