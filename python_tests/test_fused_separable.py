"""Separable convolutions that run as one operator against the same ones in plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fused_steps import assert_agree, disturb, norms_of, picture, step
from operator_calls import OperatorCalls
from torch import Tensor, nn
from torch.nn.utils import parametrize

from proxyless_ext import Edges, MixedOp, UserError
from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.nn import Separable, count_macs, frozen_statistics
from proxyless_ext.nn.statistics import InputStatistics

# In and out channels, kernel, stride, dilation.
SHAPES = [(3, 5, 3), (4, 4, 5, 2), (5, 6, 7), (6, 3, 3, 1, 2)]


def twins(
    shape: tuple[int, ...] = SHAPES[0], dtype: torch.dtype = torch.float64
) -> tuple[Separable, Separable]:
    """A block that must run fused, and the same one that must not."""
    torch.manual_seed(0)
    fused = Separable(*shape, fused=True).to(dtype)
    disturb(fused)
    plain = copy.deepcopy(fused)
    plain.fused = False
    return fused, plain


def leave_as_it_is(module: nn.Module) -> None:
    pass


def freeze(module: nn.Module) -> None:
    module.eval()


def drop_statistics(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    module.eval()


def average_all(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.momentum = None


def drop_affine(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.weight = norm.bias = None


@pytest.mark.parametrize(
    "setting", [leave_as_it_is, freeze, drop_statistics, average_all, drop_affine]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_does_what_plain_layers_do(
    shape: tuple[int, ...], setting: Callable[[nn.Module], None]
) -> None:
    fused, plain = twins(shape)
    for block in (fused, plain):
        setting(block)
    for seed in range(2):
        x = picture(shape[0], seed=seed)
        assert_agree(step(fused, x), step(plain, x), 1e-11)


def test_keeps_its_input_only() -> None:
    fused, plain = twins((8, 8, 3), torch.float32)
    x = picture(8, torch.float32).contiguous(memory_format=torch.channels_last).requires_grad_()
    with SavedTensors(fused) as kept:
        fused(x)
    with SavedTensors(plain) as of_plain:
        plain(x)
    assert x.nbytes <= kept.bytes < x.nbytes + 1000
    assert of_plain.bytes > 2.5 * kept.bytes


def append_layer(block: Any) -> None:
    block.append(nn.Tanh())


def add_hook(block: Any) -> None:
    block.depthwise.register_forward_hook(lambda module, args, output: 2 * output)


def parametrise(block: Any) -> None:
    parametrize.register_parametrization(block.pointwise, "weight", nn.Tanh())


def add_bias(block: Any) -> None:
    block.pointwise.bias = nn.Parameter(torch.ones(5, dtype=torch.float64))


def replace_activation(block: Any) -> None:
    block.act = nn.ReLU6()


def pad_otherwise(block: Any) -> None:
    block.depthwise.padding = (0, 0)


def stride_by_three(block: Any) -> None:
    block.depthwise.stride = (3, 3)


@pytest.mark.parametrize(
    "change",
    [
        append_layer,
        add_hook,
        parametrise,
        add_bias,
        replace_activation,
        pad_otherwise,
        stride_by_three,
    ],
)
def test_changed_layers_run_themselves(change: Callable[[Any], None]) -> None:
    block, plain = twins()
    for each in (block, plain):
        change(each)
    with pytest.raises(UserError, match=r"replaced, changed or hooked.*use plain layers"):
        block(picture(3))
    block.fused = None
    x = picture(3)
    with OperatorCalls() as calls:
        torch.testing.assert_close(block(x), plain(x))
    assert calls.names == []


def test_only_relu_is_fused() -> None:
    x = picture(3, torch.float32)
    assert Separable(3, 3, 3, activation="relu6")(x).shape == x.shape
    with pytest.raises(UserError, match="another activation than ReLU"):
        Separable(3, 3, 3, activation="relu6", fused=True)(x)


def test_a_single_value_has_no_statistics() -> None:
    for block in twins():
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            block(torch.ones(1, 3, 1, 1, dtype=torch.float64))


def test_transforms_and_exports_see_plain_layers() -> None:
    block = Separable(3, 5, 3)
    x = picture(3, torch.float32)
    program = torch.export.export(block.eval(), (x,))
    assert "proxyless" not in str(program.graph)
    with torch.no_grad():
        rows = torch.func.vmap(block)(x[:, None])
    torch.testing.assert_close(rows[:, 0], block(x))
    counts = {count_macs(Separable(3, 5, 3, fused=f), 9, 3) for f in (None, True, False)}
    assert counts == {9 * 9 * 3 * (9 + 5)}


def test_compiles_into_one_graph() -> None:
    torch.compiler.reset()
    fused, plain = twins(SHAPES[3])
    compiled: Any = torch.compile(fused, fullgraph=True, backend="aot_eager")
    x = picture(6)
    found = {name.replace("_orig_mod.", ""): value for name, value in step(compiled, x).items()}
    assert_agree(found, step(plain, x), 1e-11)


class Edge(nn.Module):
    def __init__(self, candidates: list[nn.Module]) -> None:
        super().__init__()
        self.mixed = MixedOp(candidates)

    def forward(self, x: Tensor) -> Tensor:
        return (self.mixed(x) ** 2).sum()


@pytest.mark.parametrize("training", [True, False])
def test_gates_get_their_gradients_from_one_pair_of_statistics(training: bool) -> None:
    torch.manual_seed(0)
    shapes = [(4, 4, 3), (4, 4, 5), (4, 4, 7), (4, 4, 3, 1, 2)]
    model = Edge([*(Separable(*shape) for shape in shapes), nn.Identity()]).double()
    disturb(model)
    model.train(training)
    state = copy.deepcopy(model.state_dict())
    x = picture(4)
    with Edges(model).gate_step() as step_of_gates, OperatorCalls() as calls:
        y = model.mixed(x)
        (y**2).sum().backward()
    is_fused = model.mixed.active < 4
    assert calls.names.count("separable_gate_probe") == 4
    assert calls.names.count("separable_statistics") == training * (1 + is_fused)

    grad = 2 * y.detach()
    with torch.no_grad(), frozen_statistics(model):
        for candidate in model.mixed.candidates:
            candidate.fused = False
        expected = torch.stack([(grad * c(x)).sum() for c in model.mixed.candidates])
    torch.testing.assert_close(step_of_gates.gates.grad[0], expected)
    del state["mixed.alpha"]
    assert all(value.equal(model.state_dict()[name]) for name, value in state.items())


def test_probes_leave_what_they_cannot_know() -> None:
    class Doubled(Separable):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x = picture(4, torch.float32)
    assert Doubled(4, 4, 3).gate_probe(x, x, InputStatistics(x)) is None
    assert Separable(4, 4, 3, fused=False).gate_probe(x, x, InputStatistics(x)) is None
