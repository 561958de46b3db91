"""Training and gate steps on a GPU, fused and in plain layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from statistics import median

import pytest
import torch
from explicit_gates import explicit_gates
from precisions import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS, Precision
from test_fused_nn import LABELS, PICTURES, SPACE, disturb, generator, without_fusion
from test_ops import some_gates
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from proxyless_ext import MBConv, MixedOp, SuperNet, Zero, gates, ops, reference

pytestmark = pytest.mark.gpu


def build(seed: int) -> SuperNet:
    torch.manual_seed(seed)
    supernet = SuperNet(SPACE)
    disturb(supernet)
    return supernet


@pytest.fixture
def supernet() -> SuperNet:
    return build(0)


def loss_of(supernet: SuperNet, dtype: torch.dtype | None = None) -> Tensor:
    """Under autocast if there is a dtype."""
    weight = supernet.edges.weights[0]
    pictures, labels = PICTURES.to(weight), LABELS.to(weight.device)
    with torch.autocast(weight.device.type, dtype, enabled=dtype is not None):
        return F.cross_entropy(supernet(pictures), labels)


def train(supernet: SuperNet, dtype: torch.dtype | None = None) -> Tensor:
    """Losses of ten weight steps on random paths."""
    edges = supernet.edges
    device = edges.alphas[0].device
    optimizer = torch.optim.SGD(edges.weights, lr=0.05, momentum=0.9)
    # No gradient of these overflows, so that no step is left out.
    scaler = torch.amp.GradScaler(device.type, 64, enabled=dtype == torch.float16)
    losses = []
    for seed in range(10):
        edges.sample(generator(seed))
        losses.append(loss_of(supernet, dtype))
        optimizer.zero_grad()
        scaler.scale(losses[-1]).backward()
        scaler.step(optimizer)
        scaler.update()
    assert not scaler.is_enabled() or scaler.get_scale() == 64
    return torch.stack(losses).detach().cpu().double()


@pytest.mark.parametrize("precision", [FLOAT16, BFLOAT16], ids=str)
def test_mixed_precision_trains_as_plain_layers_do(
    device: torch.device, supernet: SuperNet, precision: Precision
) -> None:
    exact = train(without_fusion(supernet).double())
    assert exact[-3:].mean() < exact[:3].mean()
    plain = train(without_fusion(supernet).to(device), precision.dtype)
    fused = train(copy.deepcopy(supernet).to(device), precision.dtype)
    spacing = torch.finfo(precision.dtype).eps
    assert (fused - exact).abs().max() < 3 * (plain - exact).abs().max() + 4 * spacing


def padded(rows: Sequence[Tensor]) -> Tensor:
    """[E, N], 0 where an edge has no such candidate."""
    return pad_sequence([*rows], batch_first=True)


def gate_step(
    supernet: SuperNet, dtype: torch.dtype | None = None
) -> tuple[Tensor, list[Tensor], list[int]]:
    """The gradients of the gates and of the alphas, and the paths that ran."""
    edges = supernet.edges
    with edges.gate_step("full", generator(3)) as step:
        loss_of(supernet, dtype).backward()
        active = edges.active
    step.update(lambda: None)
    assert step.gates.grad is not None
    return step.gates.grad, [alpha.grad for alpha in edges.alphas], active


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_gate_steps_find_the_gradients_of_plain_layers(
    device: torch.device, precision: Precision, training: bool
) -> None:
    dtype = None if precision.dtype == torch.float32 else precision.dtype
    errors = []
    for seed in range(5):
        supernet = build(seed).train(training)
        with precision.multiplying():
            found, of_alphas, active = gate_step(copy.deepcopy(supernet).to(device), dtype)
            plain, *_ = gate_step(without_fusion(supernet).to(device), dtype)
        double = without_fusion(supernet).double()
        with explicit_gates(double, active) as leaves:
            exact = padded(torch.autograd.grad(loss_of(double), leaves))

        assert found.device == device
        size = exact.norm()
        assert size > 0
        errors.append([((each.cpu() - exact).norm() / size).item() for each in (found, plain)])
        alpha = supernet.edges.alpha_matrix().detach().double()
        expected = reference.alpha_gradient(alpha, found.cpu().double())
        torch.testing.assert_close(padded(of_alphas).cpu().double(), expected, rtol=1e-5, atol=0)
    # Of medians: few pictures leave single values next to ReLU6's ends with much of a gradient.
    own, plains = map(median, zip(*errors, strict=True))
    assert own < 3 * plains + precision.tolerance / 10


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize(("edges", "candidates"), [(0, 4), (5, 1), (21, 7), (3, 300), (700, 9)])
def test_alpha_gradients_are_those_of_float64(
    device: torch.device, dtype: torch.dtype, edges: int, candidates: int
) -> None:
    pair = some_gates(edges, candidates, dtype)
    found = gates.alpha_gradient(*(matrix.to(device) for matrix in pair))
    assert found.device == device
    assert found.dtype == dtype
    expected = reference.alpha_gradient(*(matrix.double() for matrix in pair))
    spacing = torch.finfo(dtype)
    torch.testing.assert_close(
        found.cpu().double(),
        expected,
        rtol=spacing.eps,
        atol=max(1e-14, spacing.tiny * spacing.eps),
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e308, 0.0])
@pytest.mark.parametrize("changed", [0, 1], ids=["alpha", "gate_gradient"])
def test_alpha_gradients_of_special_numbers_are_the_twins(
    device: torch.device, value: float, changed: int
) -> None:
    pair = some_gates()
    pair[changed][0] = value
    pair[changed][1, 0] = value
    found = ops.alpha_gradient(*(matrix.to(device) for matrix in pair))
    expected = reference.alpha_gradient(*pair)
    torch.testing.assert_close(found.cpu(), expected, equal_nan=True)


def test_arrays_of_cupy_go_in_and_their_gradients_come_back(device: torch.device) -> None:
    cupy = pytest.importorskip("cupy")
    torch.manual_seed(0)
    mixed = MixedOp([MBConv(4, 4, 3, fused=True), MBConv(4, 4, 5, fused=True), Zero()])
    mixed = nn.Sequential(mixed, nn.Conv2d(4, 2, 3)).to(device)
    array = cupy.random.default_rng(0).standard_normal((2, 4, 9, 7), dtype=cupy.float32)

    x = torch.from_dlpack(array).requires_grad_()
    assert x.data_ptr() == array.data.ptr
    with FLOAT32.multiplying():
        mixed(x).square().sum().backward()
        copied = torch.tensor(cupy.asnumpy(array), device=device, requires_grad=True)
        mixed(copied).square().sum().backward()
    assert x.grad is not None
    gradient = cupy.from_dlpack(x.grad)
    assert gradient.data.ptr == x.grad.data_ptr()
    assert copied.grad is not None
    assert copied.grad.abs().max() > 0
    assert torch.equal(torch.tensor(cupy.asnumpy(gradient)), copied.grad.cpu())
