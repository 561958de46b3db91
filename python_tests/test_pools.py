"""The pooling operators against their readable twins and PyTorch's layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mbconv_cases import relative_error
from torch import Tensor
from torch.nn import functional as F

from proxyless_ext import ops, reference
from proxyless_ext.errors import UserError

native = torch.ops.proxyless

TOLERANCES = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}


@dataclass(frozen=True)
class Case:
    """Sizes and options of a pool."""

    size: tuple[int, int, int, int]  # N, C, H, W
    kernel: int = 3
    stride: int = 1
    maximum: bool = False

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.size))
        return f"{sizes}-k{self.kernel}s{self.stride}{'max' if self.maximum else 'avg'}"

    @property
    def settings(self) -> tuple[int, int, bool]:
        """In the order of the operators' arguments."""
        return self.kernel, self.stride, self.maximum

    def inputs(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """x, in which values are equal now and then, and dL/dy."""
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(self.size, generator=random, dtype=torch.float64)
        out = [-(-size // self.stride) for size in self.size[2:]]
        grad = torch.randn((*self.size[:2], *out), generator=random, dtype=torch.float64)
        return (4 * x).round().to(dtype), grad.to(dtype)

    def plain(self, x: Tensor) -> Tensor:
        """PyTorch's layer."""
        if self.maximum:
            return F.max_pool2d(x, self.kernel, self.stride, self.kernel // 2)
        return F.avg_pool2d(x, self.kernel, self.stride, self.kernel // 2, count_include_pad=False)


SIZES = [
    ((2, 3, 7, 5), 3, 1),
    ((2, 17, 8, 9), 3, 2),
    ((1, 8, 35, 4), 5, 2),
    ((3, 33, 2, 3), 7, 1),  # wider than the picture
    ((2, 4, 1, 6), 3, 2),
    ((1, 1, 1, 1), 3, 1),
    ((2, 20, 5, 5), 1, 1),
    ((1, 9, 16, 20), 15, 2),
]
CASES = [Case(*size, maximum) for size in SIZES for maximum in (False, True)]


def run_all(module: Any, case: Case, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """What the operators give, or their twins."""
    y, taps = module.pool_forward(x, *case.settings)
    probe = module.pool_gate_probe(grad, x, *case.settings)
    dx = module.pool_backward(grad, taps, *x.shape[2:], *case.settings)
    return {"y": y, "taps": taps, "probe": probe, "dx": dx}


def check(case: Case, dtype: torch.dtype, seed: int = 0) -> None:
    """Operators and twins against PyTorch's layers in float64."""
    x, grad = case.inputs(dtype, seed)
    leaf = x.double().clone().requires_grad_()
    y = case.plain(leaf)
    (dx,) = torch.autograd.grad(y, leaf, grad.double())
    y = y.detach()
    expected = {"y": y, "probe": (grad.double() * y).sum(), "dx": dx}
    twin = run_all(reference, case, x, grad)
    found = run_all(native, case, x, grad)
    assert torch.equal(found.pop("taps"), twin.pop("taps"))
    scale = (grad.double() * y).abs().sum() + 1e-300
    for name, value in found.items():
        assert value.dtype == twin[name].dtype, name
        for each in (value, twin[name]):
            if name == "probe":
                error = float((each - expected[name]).abs() / scale)
            else:
                error = relative_error(each, expected[name])
            assert error < TOLERANCES[dtype], name


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).split(".")[1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_pytorchs_layers(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    maximum=st.booleans(),
    dtype=st.sampled_from([*TOLERANCES]),
    seed=st.integers(0, 2**32),
)
def test_matches_whatever_the_sizes(
    size: tuple[int, int, int, int],
    kernel: int,
    stride: int,
    maximum: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    check(Case(size, kernel, stride, maximum), dtype, seed)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_special_numbers_do_as_in_pytorchs_layers(
    case: Case, dtype: torch.dtype, value: float
) -> None:
    x, grad = case.inputs(dtype)
    x[:, :, :1, :2] = value
    x = x.contiguous(memory_format=torch.channels_last)
    found = run_all(native, case, x, grad)
    leaf = x.requires_grad_()
    y = case.plain(leaf)
    (dx,) = torch.autograd.grad(y, leaf, grad)
    torch.testing.assert_close(found["y"], y.detach(), equal_nan=True)
    torch.testing.assert_close(found["dx"], dx, equal_nan=True)


def as_slice(x: Tensor) -> Tensor:
    larger = x.new_full((x.shape[0] + 1, x.shape[1] + 5, x.shape[2] + 3, 2 * x.shape[3]), torch.nan)
    view = larger.contiguous(memory_format=torch.channels_last)[1:, 2:-3, 1:-2, ::2]
    view.copy_(x)
    return view


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [as_channels_last, as_slice])
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_strides_and_threads_change_nothing(case: Case, layout: Callable[[Tensor], Tensor]) -> None:
    x, grad = case.inputs(torch.float32)
    expected = run_all(native, case, x, grad)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = run_all(native, case, layout(x), layout(grad))
        assert all(torch.equal(found[name], each) for name, each in expected.items())
    torch.set_num_threads(before)


@pytest.mark.parametrize("maximum", [False, True])
def test_gradients_are_those_of_finite_differences(maximum: bool) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda x: ops.pool(x, 3, stride=2, maximum=maximum), x.requires_grad_()
    )


def test_signatures_are_those_of_the_twins() -> None:
    for name in ("pool_forward", "pool_backward", "pool_gate_probe"):
        operator = getattr(native, name).default._schema
        twin = inspect.signature(getattr(reference, name))
        assert list(twin.parameters) == [argument.name for argument in operator.arguments]


@pytest.mark.parametrize("case", [*CASES[2:4], Case((0, 3, 4, 5), 3, 2, True)], ids=str)
def test_operators_are_registered_right(case: Case) -> None:
    x, grad = case.inputs()
    forward = (x.requires_grad_() if x.numel() else x, *case.settings)
    taps = native.pool_forward(*forward)[1]
    utils = (
        ("test_schema", "test_faketensor", "test_autograd_registration")
        if x.numel()
        else ("test_faketensor",)
    )
    for op, arguments in (
        (native.pool_forward, forward),
        (native.pool_backward, (grad, taps, *case.size[2:], *case.settings)),
        (native.pool_gate_probe, (grad, x.detach(), *case.settings)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=utils)


def test_derivatives_that_are_not_there_are_refused() -> None:
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    (dx,) = torch.autograd.grad(ops.pool(x, 3, maximum=True).square().sum(), x, create_graph=True)
    with pytest.raises(UserError, match="second derivative"):
        dx.sum().backward()
    with pytest.raises(UserError, match="detached"):
        ops.pool_gate_probe(x, x, 3, maximum=False).backward()


X = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ops.pool(X, 2, maximum=True), "kernel must be odd, positive and at most 15"),
        (lambda: ops.pool(X, 17, maximum=True), "at most 15, not 17"),
        (lambda: ops.pool(X, 3, stride=3, maximum=True), "stride must be 1 or 2"),
        (lambda: ops.pool(X[0], 3, maximum=True), r"\[N, C, H, W\]"),
        (lambda: ops.pool(X.long(), 3, maximum=True), "x must be Float"),
        (lambda: ops.pool(X.to("meta"), 3, maximum=True), "pool: there are no kernels for meta"),
        (lambda: ops.pool_gate_probe(X[:1], X, 3, maximum=True), "grad must have the shape"),
        (lambda: ops.pool_gate_probe(X.double(), X, 3, maximum=True), "grad must be Float"),
    ],
)
def test_mistakes_are_named(call: Callable[[], Tensor], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()
