"""The kernels of `_C` on NumPy arrays: those of each instruction set against the readable twins."""

from __future__ import annotations

import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mbconv_cases import CASES, KINK, Block, Case, cases, plain_mbconv
from mbconv_checks import assert_same, check_against_twin, grad_of, run_all
from on_arrays import Array, OnArrays, array_of
from torch import Tensor
from torch.nn import functional as F

from proxyless_ext import _C, reference

ROOT = Path(__file__).parents[1]
ISAS = _C.supported_isas()

ODD, STEM, NO_EXPAND = CASES[0], CASES[4], CASES[7]
KINDS = [ODD, NO_EXPAND, STEM]
ALL_CASES = [
    *CASES,
    Case((4, 14, 14), (16, 67, 31), kernel=5),
    # So few and so high pictures that their rows are dealt out in parts.
    Case((1, 33, 20), (5, 19, 5), kernel=5, residual=True),
    Case((1, 70, 9), (4, 9, 4), kernel=7, stride=2),
    Case((3, 20, 11), (16, 16, 8), kernel=5, expand_kernel=0),
    Case((1, 41, 12), (3, 8, 6), expand_kernel=3, expand_stride=2),
]

for_all_isas = pytest.mark.parametrize("isa", ISAS)
for_both_types = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
in_both_modes = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "given"])
for_all_kinds = pytest.mark.parametrize("case", KINDS, ids=str)


def arrays(block: Block) -> dict[str, Array | None]:
    """The tensors of a block."""
    named = block._asdict().items()
    return {name: None if value is None else array_of(name, value) for name, value in named}


# --- What they compute ---


@for_all_isas
@for_both_types
@in_both_modes
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_matches_the_twin(case: Case, frozen: bool, dtype: torch.dtype, isa: str) -> None:
    check_against_twin(OnArrays(isa), case, dtype, frozen, conditioned=True)


@for_all_isas
@settings(max_examples=50)
@given(
    case=cases(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    frozen=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_matches_the_twin_whatever_the_sizes(
    isa: str, case: Case, dtype: torch.dtype, frozen: bool, seed: int
) -> None:
    exact = case.block(seed=seed)
    margin = plain_mbconv(case, exact, case.statistics() if frozen else None).margin
    # Through the BatchNorm of few values next to nothing is left but rounding: docs/kernels.md.
    few = not frozen and grad_of(case, exact)[:, 0].numel() < 8
    assume(dtype == torch.float64 or (margin > KINK and not few))
    check_against_twin(OnArrays(isa), case, dtype, frozen, seed, conditioned=True)


@cache
def scalar_results(case: Case) -> dict[str, Tensor]:
    block = case.block(torch.float32)
    return run_all(OnArrays("scalar"), case, block, grad_of(case, block))


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "scalar"])
@pytest.mark.parametrize(
    "case",
    [
        Case((1, 130, 70), (2, 590, 3)),
        Case((2, 65, 67), (602, 602, 2), kernel=5, expand_kernel=0),
    ],
    ids=str,
)
def test_blocks_of_several_chunks_equal_the_scalar_kernels(case: Case, isa: str) -> None:
    sizes = (*case.size, *case.channels, case.kernel, case.stride, case.expand_kernel)
    assert _C.mbconv_plan(*sizes, isa=isa)["chunks"] > 1
    block = case.block(torch.float32)
    for name, value in run_all(OnArrays(isa), case, block, grad_of(case, block)).items():
        # Among so many values, some are on the other side of a kink for the one than for the
        # other, so that no bound holds for each of them.
        expected = scalar_results(case)[name]
        assert (value - expected).norm() <= 1e-3 * expected.norm(), name


@for_all_isas
@for_both_types
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 1), (7, 2)])
def test_moments_are_those_of_the_patches(
    kernel: int, stride: int, dtype: torch.dtype, isa: str
) -> None:
    # Far from 0, where a difference of two large sums would lose the covariance.
    random = torch.Generator().manual_seed(0)
    x = (1000 + torch.randn(3, 4, 6, 5, generator=random, dtype=torch.float64)).to(dtype)
    patches = F.unfold(x.double(), kernel, padding=kernel // 2, stride=stride)
    patches = patches.transpose(0, 1).flatten(1).numpy()
    moments = _C.mbconv_moments(array_of("x", x), kernel, stride, isa=isa)
    np.testing.assert_allclose(moments[0], patches.mean(1), rtol=1e-6)
    covariance = np.cov(patches, bias=True)
    bound = 1e-5 * np.abs(covariance).max()
    np.testing.assert_allclose(moments[1:], covariance, rtol=0, atol=bound)


@for_all_isas
@for_both_types
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_neither_strides_nor_threads_change_a_bit(case: Case, dtype: torch.dtype, isa: str) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    expected = run_all(OnArrays(isa), case, block, grad)

    def strided(pictures: Array) -> Array:
        N, H, W, C = pictures.shape
        # Every second image, rows stored bottom up, margins all around.
        larger = np.full((2 * N, H + 1, W + 2, C + 3), np.nan, pictures.dtype)
        inside = larger[::2, :0:-1, 1:-1, 2:-1]
        inside[:] = pictures
        return inside

    assert_same(run_all(OnArrays(isa, lay_out=strided), case, block, grad), expected)
    for threads in 1, 2, 3:
        assert_same(run_all(OnArrays(isa, threads), case, block, grad), expected)


@for_all_isas
@for_all_kinds
def test_only_what_is_asked_for_is_computed(case: Case, isa: str) -> None:
    block, operators = case.block(torch.float32), OnArrays(isa)
    y, p, *kept = operators.mbconv_forward(*block, None, None, *case.settings, True)
    other_y, none, *also_kept = operators.mbconv_forward(*block, None, None, *case.settings, False)
    assert none.shape == (0,)
    assert all(map(torch.equal, (y, *kept), (other_y, *also_kept)))

    arguments = (grad_of(case, block), *block, p, *kept, *case.settings, True)
    complete = operators.mbconv_backward(*arguments, True, True)
    dx, *nothing = operators.mbconv_backward(*arguments, True, False)
    also_nothing, *weights = operators.mbconv_backward(*arguments, False, True)
    assert torch.equal(dx, complete[0])
    assert all(map(torch.equal, weights, complete[1:]))
    assert {tuple(t.shape) for t in (also_nothing, *nothing)} == {(0,)}


@for_all_isas
def test_probe_takes_moments_that_candidates_share(isa: str) -> None:
    block, operators = STEM.block(torch.float32), OnArrays(isa)
    moments = operators.mbconv_moments(block.x, STEM.expand_kernel, STEM.expand_stride)
    probe = partial(operators.mbconv_gate_probe, grad_of(STEM, block), *block, None, None)
    eps_and_strides = STEM.settings[:3]
    assert probe(moments, *eps_and_strides) == probe(None, *eps_and_strides)


# --- Where the numbers are special ---


@for_all_isas
@for_both_types
@in_both_modes
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@for_all_kinds
def test_non_finite_input_spreads_as_in_the_twin(
    case: Case, bad: float, frozen: bool, dtype: torch.dtype, isa: str
) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    block.x[0, 0, 1, 2] = bad
    twin = run_all(reference, case, block, grad, frozen)
    for name, value in run_all(OnArrays(isa), case, block, grad, frozen).items():
        if "moments" not in name:
            assert torch.equal(value.isnan(), twin[name].isnan()), name


@for_all_isas
@pytest.mark.parametrize("end", [0, 6])
def test_no_gradient_passes_the_ends_of_relu6(end: float, isa: str) -> None:
    block = ODD.block(torch.float32)
    normed = 2 * ODD.channels[1]
    block.scale[:normed] = 0
    block.shift[:normed] = end
    found = run_all(OnArrays(isa), ODD, block, grad_of(ODD, block))
    for name in ("dx", "dexpand", "ddepthwise"):
        assert not found[name].any()
    for name in ("dscale", "dshift"):
        assert not found[name][:normed].any()


@for_all_isas
def test_constant_channels_have_no_variance(isa: str) -> None:
    block = ODD.block(torch.float32)
    block.x[:] = block.x[:1, :, :1, :1].clone()
    var = run_all(OnArrays(isa), ODD, block, grad_of(ODD, block))["var"]
    assert (var >= 0).all()
    assert (var[: ODD.channels[1]] < 1e-9).all()


# --- Plans ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_plan_covers_all_channels_within_a_bounded_workspace(dtype: str, isa: str) -> None:
    plan = _C.mbconv_plan(32, 56, 56, 24, 144, 24, 5, 1, dtype=dtype, isa=isa)
    assert plan["chunk"] * (plan["chunks"] - 1) < 144 <= plan["chunk"] * plan["chunks"]
    assert plan["slices"] >= 1
    plain = 32 * 56 * 56 * (8 if dtype == "float64" else 4) * 6 * 144  # E, A1, D, A2 and Z1, Z2
    for entry in "moments", "forward", "backward", "probe":
        assert 0 <= plan[f"{entry}_bytes"] < plain


def test_plan_is_the_selected_instruction_sets() -> None:
    sizes = (2, 8, 8, 8, 48, 8, 3, 1)
    assert _C.mbconv_plan(*sizes) == _C.mbconv_plan(*sizes, isa=_C.selected_isa())


def test_plan_of_a_block_without_expand_layer() -> None:
    assert _C.mbconv_plan(2, 8, 8, 8, 8, 4, 3, 1, expand_kernel=0)["moments_bytes"] >= 0
    with pytest.raises(ValueError, match="depthwise must have 8 channels, as x has, unless"):
        _C.mbconv_plan(2, 8, 8, 8, 9, 4, 3, 1, expand_kernel=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be positive, not 0"),
        ({"height": -1}, "height must be positive"),
        ({"kernel": 4}, "kernel must be odd, positive and at most 63, not 4"),
        ({"kernel": 65}, "kernel must be odd, positive and at most 63, not 65"),
        ({"kernel": -3}, "kernel must be odd, positive and at most 63, not -3"),
        ({"stride": 0}, "stride must be 1 or 2, not 0"),
        ({"expand_kernel": 2}, "expand_kernel must be odd"),
        ({"expand_kernel": -1}, "expand_kernel must be odd"),
        ({"expand_stride": 3}, "expand_stride must be 1 or 2, not 3"),
        ({"dtype": "int8"}, "dtype is .int8., but must be float32"),
        ({"isa": "sse"}, "isa is .sse., but this CPU can use only .*scalar"),
        ({"batch": 2**62}, "more than int64 can count"),
        ({"hidden": 2**40, "width": 2**20}, "more than int64 can count"),
        ({"in_channels": 2**62, "hidden": 2**62}, "more than int64 can count"),
    ],
)
def test_plan_refuses_sizes_that_no_block_has(change: dict[str, object], message: str) -> None:
    sizes = dict.fromkeys(["batch", "height", "width", "in_channels", "hidden", "out_channels"], 4)
    with pytest.raises(ValueError, match=message):
        _C.mbconv_plan(**{**sizes, "kernel": 3, "stride": 1, **change})


# --- Mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 7, 5), "float32")}, r"must have the shape \[N, H, W, C\], not"),
        ({"x": np.zeros((0, 7, 5, 3), "float32")}, "batch must be positive, not 0"),
        ({"x": np.zeros((2, 7, 5, 3), "int32")}, "x must be float32 or float64"),
        ({"x": np.zeros((2, 7, 5, 3))}, "expand must be float64"),
        ({"x": np.zeros((2, 3, 7, 5), "f4").transpose(0, 2, 3, 1)}, "x must have adjacent"),
        ({"x": np.zeros((2, 7, 5, 6), "f4")[..., ::2]}, "x must have adjacent channels"),
        ({"x": np.zeros(841, "u1")[1:].view("f4").reshape(2, 7, 5, 3)}, "aligned elements"),
        ({"x": np.zeros((2, 7, 5, 4), "f4")}, r"expand must have the shape \[11, 4, 1, 1\]"),
        ({"x": np.zeros((2, 7, 5, 3), ">f4")}, "x must be float32 or float64"),
        ({"expand": None}, "depthwise must have 3 channels, as x has, unless expand is given"),
        ({"expand": np.zeros((11, 3, 2, 2), "f4")}, "the kernel of expand must be odd"),
        ({"expand": np.zeros((11, 3, 1, 3), "f4")}, "expand must have the shape"),
        ({"depthwise": np.zeros((11, 5, 5), "f4")}, r"depthwise must have .* \[hidden, 1, k"),
        ({"depthwise": np.zeros((11, 1, 3, 5), "f4")}, "depthwise must have the shape"),
        ({"depthwise": np.zeros((11, 1, 4, 4), "f4")}, "the kernel of depthwise must be odd"),
        ({"depthwise": np.zeros((11, 1, 5, 10), "f4")[..., ::2]}, "depthwise must be C-contig"),
        ({"project": np.zeros((5, 10, 1, 1), "f4")}, "project must have the shape"),
        ({"scale": np.zeros(28, "f4")}, r"scale must have the shape \[27\], not \[28\]"),
        ({"shift": np.zeros(27)}, "shift must be float32"),
        ({"mean": np.zeros(27, "f4")}, "mean and var must be given together"),
        ({"mean": np.zeros(27, "f4"), "var": np.zeros(26, "f4")}, "var must have the shape"),
        ({"eps": -1e-3}, "eps must be finite and not negative"),
        ({"eps": np.nan}, "eps must be finite and not negative"),
        ({"stride": 0}, "stride must be 1 or 2"),
        ({"expand_stride": -1}, "expand_stride must be 1 or 2"),
        ({"residual": True}, "residual needs 3 output channels"),
        ({"threads": 0}, "threads must be 1 to"),
        ({"isa": "sse"}, "isa is .sse."),
    ],
)
def test_forward_refuses_what_it_cannot_compute(change: dict[str, object], message: str) -> None:
    arguments = {**arrays(ODD.block(torch.float32)), **change}
    with pytest.raises(ValueError, match=message):
        _C.mbconv_forward(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": np.zeros((2, 7, 5, 4), "f4")}, r"grad must have the shape \[2, 7, 5, 5\]"),
        ({"grad": np.zeros((2, 7, 5, 5))}, "grad must be float32"),
        ({"p": np.zeros((2, 7, 5, 4), "f4")}, "p must have the shape"),
        ({"mean": np.zeros(26, "f4")}, "mean must have the shape"),
        ({"var": np.zeros(27)}, "var must be float32"),
        ({"moments": None}, "moments must be given"),
        ({"moments": np.zeros((4, 3), "f4")}, "moments must be float64"),
        ({"moments": np.zeros((4, 4))}, "moments must have the shape"),
    ],
)
def test_backward_refuses_what_it_cannot_compute(change: dict[str, object], message: str) -> None:
    block = arrays(ODD.block(torch.float32))
    y, p, mean, var, moments = _C.mbconv_forward(**block)
    saved = {"p": p, "mean": mean, "var": var, "moments": moments}
    arguments = {**block, **saved, "grad": y, **change}
    with pytest.raises(ValueError, match=message):
        _C.mbconv_backward(**arguments)


@pytest.mark.slow
def test_native_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    options = ["PROXYLESS_TESTS=ON", "PROXYLESS_SANITIZERS=ON", "CMAKE_BUILD_TYPE=RelWithDebInfo"]
    ninja = f"CMAKE_MAKE_PROGRAM={scripts / 'ninja'}"
    command = [scripts / "ctest", "--build-and-test", ROOT, tmp_path, "--build-generator", "Ninja"]
    command += ["--build-options", *(f"-D{option}" for option in (*options, ninja))]
    command += ["--test-command", scripts / "ctest", "--output-on-failure"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
