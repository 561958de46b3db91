"""The separable kernels of `_C` on NumPy arrays: of each instruction set against the twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mbconv_cases import relative_error
from mbconv_checks import assert_same
from on_arrays import OnArrays
from separable_cases import CASES, Case, grad_of, run_all

from proxyless_ext import _C, reference

for_all_isas = pytest.mark.parametrize("isa", _C.supported_isas())


@for_all_isas
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "given"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["64", "32"]
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_twin(
    case: Case, dtype: torch.dtype, tolerance: float, frozen: bool, isa: str
) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    found = run_all(OnArrays(isa), case, block, grad, frozen)
    twin = run_all(reference, case, block, grad, frozen)
    exact = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)
    for name, value in found.items():
        bar = tolerance + 3 * relative_error(twin[name], exact[name])
        assert relative_error(value, exact[name]) < bar, name


@for_all_isas
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_threads_change_no_bit(case: Case, isa: str) -> None:
    block = case.block(torch.float32)
    grad = grad_of(case, block)
    alone = run_all(OnArrays(isa), case, block, grad)
    assert_same(run_all(OnArrays(isa, threads=3), case, block, grad), alone)


def test_only_what_is_asked_for_is_computed() -> None:
    block = CASES[0].block(torch.float32)
    arguments = (grad_of(CASES[0], block), *block, *CASES[0].statistics(torch.float32))
    run = OnArrays(_C.selected_isa()).separable_backward
    dx, *weights = run(*arguments, *CASES[0].settings, True, True, True)
    assert torch.equal(run(*arguments, *CASES[0].settings, True, True, False)[0], dx)
    assert_same(
        dict(enumerate(run(*arguments, *CASES[0].settings, True, False, True)[1:])),
        dict(enumerate(weights)),
    )


def test_mistakes_are_named() -> None:
    x, vector = np.ones((2, 4, 4, 3), np.float32), np.ones(3, np.float32)
    depthwise, pointwise = np.ones((3, 1, 3, 3), np.float32), np.ones((5, 3, 1, 1), np.float32)
    vectors = (vector,) * 4
    with pytest.raises(ValueError, match="dilation must be positive"):
        _C.separable_forward(x, depthwise, pointwise, *vectors, dilation=0)
    with pytest.raises(ValueError, match="batch must be positive"):
        _C.separable_statistics(x[:0])
    with pytest.raises(ValueError, match="grad must have the shape"):
        _C.separable_gate_probe(x, x, depthwise, pointwise, *vectors)
    with pytest.raises(ValueError, match="isa"):
        _C.separable_statistics(x, isa="none")
