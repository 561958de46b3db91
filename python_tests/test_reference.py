"""The readable twin against autograd through plain layers, in float64."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mbconv_cases import (
    CASES,
    EMPTY_CASES,
    Case,
    cases,
    gradients,
    plain_mbconv,
    random_like,
    relative_error,
)
from torch import Tensor
from torch.nn import functional as F

import proxyless_ext.ops  # noqa: F401, loads torch.ops.proxyless
from proxyless_ext import reference

TOLERANCE = 1e-12

in_both_modes = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])


def assert_close(actual: Tensor, expected: Tensor, name: str = "") -> None:
    assert actual.dtype == expected.dtype, name
    assert relative_error(actual, expected) < TOLERANCE, name


def check_against_plain_layers(case: Case, frozen: bool, seed: int = 0) -> None:
    block = case.block(seed=seed)
    leaves = block.leaves()
    statistics = case.statistics() if frozen else None
    given_statistics = statistics or (None, None)
    plain = plain_mbconv(case, leaves, statistics)
    grad = random_like(plain.y)

    y, *kept = reference.mbconv_forward(*block, *given_statistics, *case.settings, save=True)
    _, mean, var, _ = kept
    assert_close(y, plain.y)
    assert_close(mean, plain.mean)
    assert_close(var, plain.var)

    found = reference.mbconv_backward(
        grad, *block, *kept, *case.settings, not frozen, input_grad=True, weight_grads=True
    )
    expected = gradients(plain.y, leaves, grad)
    for name, gradient, wanted in zip(block._fields, found, expected, strict=True):
        assert_close(gradient, gradient.new_empty(0) if wanted is None else wanted, name)

    probe = reference.mbconv_gate_probe(grad, *block, *given_statistics, None, *case.settings[:3])
    assert_close(probe, (grad * (plain.y - block.x if case.residual else plain.y)).sum())


@in_both_modes
@pytest.mark.parametrize("case", [*CASES, *EMPTY_CASES], ids=str)
def test_matches_plain_layers(case: Case, frozen: bool) -> None:
    check_against_plain_layers(case, frozen)


@settings(max_examples=50)
@given(case=cases(), frozen=st.booleans(), seed=st.integers(0, 2**32))
def test_matches_plain_layers_whatever_the_sizes(case: Case, frozen: bool, seed: int) -> None:
    check_against_plain_layers(case, frozen, seed)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_moments_give_the_statistics_of_any_convolution(kernel: int, stride: int) -> None:
    x = CASES[0].block().x
    weight = random_like(torch.empty(6, x.shape[1], kernel, kernel, dtype=torch.float64))
    outputs = F.conv2d(x, weight, None, stride, kernel // 2)

    mean, *covariance = reference.mbconv_moments(x, kernel, stride)

    matrix = weight.flatten(1)
    assert_close(matrix @ mean, outputs.mean((0, 2, 3)))
    of_outputs = torch.cov(outputs.transpose(0, 1).flatten(1), correction=0)
    assert_close(matrix @ torch.stack(covariance) @ matrix.T, of_outputs)


def test_moments_can_be_shared() -> None:
    case = CASES[0]
    block = case.block()
    grad = random_like(plain_mbconv(case, block).y)
    moments = reference.mbconv_moments(block.x, case.expand_kernel, case.expand_stride)
    arguments = (grad, *block, None, None)
    assert torch.equal(
        reference.mbconv_gate_probe(*arguments, moments, *case.settings[:3]),
        reference.mbconv_gate_probe(*arguments, None, *case.settings[:3]),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_takes_other_types(dtype: torch.dtype) -> None:
    case = CASES[1]
    block = case.block(dtype)
    y, *kept = reference.mbconv_forward(*block, None, None, *case.settings, save=True)
    found = reference.mbconv_backward(y, *block, *kept, *case.settings, True, True, True)

    assert [t.dtype for t in (y, *kept)] == [dtype] * 2 + [torch.float32] * 2 + [torch.float64]
    assert [gradient.dtype for gradient in found] == [tensor.dtype for tensor in block]
    exact = plain_mbconv(case, block.to(torch.float64))
    assert relative_error(y, exact.y) < 8 * torch.finfo(dtype).eps


def test_signatures_are_those_of_the_operators() -> None:
    for name in ("mbconv_moments", "mbconv_forward", "mbconv_backward", "mbconv_gate_probe"):
        operator = getattr(torch.ops.proxyless, name).default._schema
        twin = inspect.signature(getattr(reference, name))
        assert list(twin.parameters) == [argument.name for argument in operator.arguments]
