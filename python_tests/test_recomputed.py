"""Layers that keep their input only, or less, against the same ones of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fused_steps import assert_agree, disturb, norms_of, step
from hypothesis import given, settings
from hypothesis import strategies as st
from mbconv_cases import relative_error
from torch import Tensor, nn

from proxyless_ext import Edges, MixedOp
from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.errors import UserError
from proxyless_ext.nn.pools import AvgPool, Identity, MaxPool
from proxyless_ext.nn.pre_activated import BNActConv

POOLS = [MaxPool, AvgPool]


class Layers(nn.Module):
    """BatchNorm, perhaps ReLU, convolution, perhaps BatchNorm."""

    def __init__(self, *shape: int, activation: Any = "relu", behind: bool = False) -> None:
        super().__init__()
        self.block = BNActConv(*shape, activation=activation)
        self.behind = nn.BatchNorm2d(shape[1]) if behind else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x, self.behind)
        return y


def twins(*shape: int, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Layers, Layers]:
    """Layers that are to compute again, and the same ones that must not."""
    torch.manual_seed(0)
    lean = Layers(*shape, **options).to(dtype)
    disturb(lean)
    plain = copy.deepcopy(lean)
    plain.block.recomputes = False
    return lean, plain


def numbers(*size: int, last: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    x = 1 + 2 * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layout = torch.channels_last if last else torch.contiguous_format
    return x.to(dtype).contiguous(memory_format=layout)


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(2, 7)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    activation=st.sampled_from(["relu", None]),
    training=st.booleans(),
    last=st.booleans(),
)
def test_layers_do_what_pytorchs_do(
    size: tuple[int, int, int],
    channels: tuple[int, int],
    groups: int,
    kernel: int,
    stride: int,
    activation: Any,
    training: bool,
    last: bool,
) -> None:
    count, height, width = size
    # Behind the convolution there may be one pixel.
    behind = not training or count * -(-height // stride) * -(-width // stride) > 1
    inside, outside = (groups * each for each in channels)
    pair = twins(inside, outside, kernel, stride, groups, activation=activation, behind=behind)
    x = numbers(count, inside, height, width, last=last)
    found, expected = (step(each.train(training), x) for each in pair)
    assert_agree(found, expected, 1e-9)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(training: bool, behind: bool) -> None:
    lean, _ = twins(3, 4, 3, 2, behind=behind)
    lean.train(training)
    for norm in norms_of(lean):
        norm.track_running_stats = False  # Else every call would move what eval mode reads.
    x = numbers(2, 3, 5, 4, last=True).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: lean(x), (x, *lean.parameters()), fast_mode=True)


def test_layers_keep_their_input_only() -> None:
    lean, plain = twins(8, 8, 1, behind=True, dtype=torch.float32)
    x = numbers(2, 8, 16, 16, last=True, dtype=torch.float32).requires_grad_()
    with SavedTensors(lean) as kept:
        lean(x)
    with SavedTensors(plain) as of_plain:
        plain(x)
    assert kept.bytes < x.nbytes + 1000
    assert of_plain.bytes > 2.9 * kept.bytes


@pytest.mark.parametrize("frozen", ["block.bn.weight", "block.conv.weight", "behind.bias", "x"])
def test_only_what_is_asked_for_gets_a_gradient(frozen: str) -> None:
    lean, plain = twins(3, 4, 1, behind=True)
    x = numbers(2, 3, 4, 5, last=True)
    found = []
    for each in (lean, plain):
        leaves = {"x": x.clone().requires_grad_(), **dict(each.named_parameters())}
        leaves[frozen].requires_grad_(False)
        each(leaves["x"]).pow(2).sum().backward()
        found.append({name: leaf.grad for name, leaf in leaves.items() if leaf.requires_grad})
        assert leaves[frozen].grad is None
    assert_agree(*found, 1e-10)  # type: ignore[arg-type]


def hook(layers: Any) -> None:
    layers.block.conv.register_forward_hook(lambda module, args, output: 2 * output)


def replace_activation(layers: Any) -> None:
    layers.block.act = nn.Tanh()


def hook_behind(layers: Any) -> None:
    layers.behind.register_forward_hook(lambda module, args, output: 2 * output)


@pytest.mark.parametrize("change", [hook, replace_activation, hook_behind])
def test_changed_layers_run_themselves(change: Callable[[Any], None]) -> None:
    pair = twins(3, 4, 1, behind=True)
    for each in pair:
        change(each)
    found, expected = (step(each, numbers(2, 3, 4, 5, last=True)) for each in pair)
    assert_agree(found, expected, 0.5e-15)


def test_a_single_value_has_no_statistics() -> None:
    for layers in twins(3, 4, 1):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layers(torch.ones(1, 3, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("kind", POOLS)
@settings(max_examples=25)
@given(
    size=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 8)] * 2),
    stride=st.sampled_from([1, 2]),
    last=st.booleans(),
)
def test_pools_do_what_pytorchs_do(
    kind: Any, size: tuple[int, ...], stride: int, last: bool
) -> None:
    x = numbers(*size, last=last).round()  # Equal values too.
    found, expected = (step(kind(stride, recomputes), x) for recomputes in (True, False))
    assert_agree(found, expected, 1e-14)


@pytest.mark.parametrize("width", [126, 127])
def test_maxima_are_found_again_in_wide_pictures(width: int) -> None:
    x = numbers(1, 1, 5, width, last=False)
    found, expected = (step(MaxPool(1, recomputes), x) for recomputes in (True, False))
    assert relative_error(found["dx"], expected["dx"]) == 0


def test_nan_has_its_gradient() -> None:
    x = numbers(1, 2, 5, 5, last=True)
    x[0, 0, 2, 2] = torch.nan
    found, expected = (step(MaxPool(1, recomputes), x) for recomputes in (True, False))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize(("kind", "share"), [(MaxPool, 1 / 4), (AvgPool, 0)])
def test_pools_keep_no_pictures(kind: Any, share: float) -> None:
    pool = kind(1)
    x = numbers(2, 4, 9, 9, last=True, dtype=torch.float32).requires_grad_()
    with SavedTensors(pool) as kept:
        pool(x)
    assert kept.bytes == share * x.nbytes


@pytest.mark.parametrize("kind", POOLS)
def test_transforms_see_pytorchs_layers(kind: Any) -> None:
    pool, x = kind(1), numbers(2, 3, 4, 5, last=True)
    rows = torch.func.vmap(pool)(x[:, None])
    torch.testing.assert_close(rows[:, 0], pool(x))


@pytest.mark.parametrize("active", range(3))
def test_a_gate_step_keeps_no_output_of_theirs(active: int) -> None:
    torch.manual_seed(0)
    mixed = MixedOp([MaxPool(1), AvgPool(1), nn.Identity()])
    x = numbers(2, 4, 9, 9, last=True).requires_grad_()
    with Edges(mixed).gate_step() as gate_step:
        mixed.active = active
        with SavedTensors(mixed) as kept:
            y = mixed(x)
        grad = torch.randn_like(y)
        y.backward(grad)
    assert kept.bytes <= x.nbytes * (9 / 8)  # The input and where maxima are.
    expected = torch.stack([(grad * candidate(x)).sum() for candidate in mixed.candidates])
    assert gate_step.gates.grad is not None
    torch.testing.assert_close(gate_step.gates.grad[0], expected.to(torch.float32))


@pytest.mark.parametrize("active", range(4))
def test_gates_of_pools_under_autocast(active: int) -> None:
    torch.manual_seed(0)
    mixed = MixedOp([nn.Conv2d(4, 4, 1), MaxPool(1), AvgPool(1), Identity()])
    x = numbers(2, 4, 9, 9, last=True, dtype=torch.float32).requires_grad_()
    with Edges(mixed).gate_step() as gate_step, torch.autocast("cpu", torch.bfloat16):
        mixed.active = active
        y = mixed(x)
        grad = torch.randn_like(y)
        y.backward(grad)
    with torch.no_grad():
        outputs = [candidate(x) for candidate in mixed.candidates]
    expected = torch.stack([(grad.float() * each).sum() for each in outputs])
    assert gate_step.gates.grad is not None
    torch.testing.assert_close(gate_step.gates.grad[0], expected, rtol=2e-2, atol=0.3)


def test_a_pool_of_another_shape_is_named() -> None:
    mixed = MixedOp([nn.Conv2d(4, 4, 1), MaxPool(2)])
    with Edges(mixed).gate_step():
        mixed.active = 0
        y = mixed(numbers(1, 4, 6, 6, last=True, dtype=torch.float32).requires_grad_())
        with pytest.raises(UserError, match=r"candidate 1 of a MixedOp gives the shape"):
            y.sum().backward()
