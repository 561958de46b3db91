"""The kernels of `_C` on NumPy arrays, against PyTorch's layers in float64."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from proxyless_ext import _C

Array = NDArray[np.floating]

ROOT = Path(__file__).parents[1]
EPS = 1e-3
ISAS = _C.supported_isas()
# Relative to the largest value of an array, or to 1 if that is less.
TOLERANCE = {np.dtype("float64"): 1e-10, np.dtype("float32"): 1e-4}
# Closer to the ends of ReLU6's slope than this, rounding may decide whether a gradient passes.
KINK = {np.dtype("float64"): 1e-9, np.dtype("float32"): 2e-5}
# So many times a result may be off by what rounding the inputs once does: kernels round at every
# layer, forward and backward, and in every sum.
ROUNDINGS = 20


@dataclasses.dataclass(frozen=True)
class Case:
    size: tuple[int, int, int]  # N, H, W
    channels: tuple[int, int, int]  # C, hidden, O
    kernel: int = 3
    stride: int = 1
    expand_kernel: int = 1  # 0 without an expand layer
    expand_stride: int = 1

    @property
    def out_size(self) -> tuple[int, int, int]:
        N, *sides = self.size
        for stride in self.expand_stride, self.stride:
            sides = [-(-side // stride) for side in sides]
        return (N, sides[0], sides[1])

    @property
    def norms(self) -> int:
        _, hidden, out_channels = self.channels
        return (2 if self.expand_kernel else 1) * hidden + out_channels

    @property
    def may_have_residual(self) -> bool:
        return self.channels[0] == self.channels[2] and self.stride * self.expand_stride == 1

    @property
    def options(self) -> dict[str, float]:
        return {"stride": self.stride, "expand_stride": self.expand_stride, "eps": EPS}

    def __str__(self) -> str:
        size = "x".join(map(str, (*self.size, *self.channels)))
        expand = f"e{self.expand_kernel}s{self.expand_stride}"
        return f"{size}-{expand}-k{self.kernel}s{self.stride}"


ODD = Case((2, 7, 5), (3, 11, 5), kernel=5)
NO_EXPAND = Case((3, 5, 5), (19, 19, 19), kernel=5, expand_kernel=0)
STEM = Case((2, 11, 10), (3, 8, 16), expand_kernel=3, expand_stride=2)
CASES = [
    ODD,
    NO_EXPAND,
    STEM,
    Case((2, 8, 8), (8, 16, 8)),
    Case((3, 9, 6), (5, 17, 7), kernel=7, stride=2),
    Case((2, 2, 3), (4, 13, 4), kernel=7),
    Case((1, 1, 1), (3, 9, 3), kernel=5),
    Case((5, 1, 1), (4, 10, 4)),
    Case((4, 1, 7), (2, 7, 1), stride=2),
    Case((2, 5, 4), (1, 6, 1)),
    Case((2, 8, 7), (7, 7, 5), expand_kernel=0),
    Case((2, 6, 9), (33, 33, 2), kernel=7, stride=2, expand_kernel=0),
    Case((3, 7, 8), (2, 5, 2), kernel=5, stride=2, expand_kernel=5),
    Case((2, 3, 2), (4, 6, 3), expand_kernel=7, expand_stride=2),
    Case((4, 14, 14), (16, 67, 31), kernel=5),
    # So few and so high pictures that their rows are dealt out in parts.
    Case((1, 33, 20), (5, 19, 5), kernel=5),
    Case((1, 70, 9), (4, 9, 4), kernel=7, stride=2),
    Case((3, 20, 11), (16, 16, 8), kernel=5, expand_kernel=0),
    Case((1, 41, 12), (3, 8, 6), expand_kernel=3, expand_stride=2),
]


class Block(NamedTuple):
    """The arguments of a block, as NumPy arrays."""

    x: Array
    expand: Array | None
    depthwise: Array
    project: Array
    scale: Array
    shift: Array


def random_block(case: Case, dtype: str, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    C, hidden, out_channels = case.channels

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    return Block(
        # Neither centred nor of variance 1, so that statistics matter.
        x=(1 + 2 * rng.standard_normal((*case.size, C))).astype(dtype),
        expand=weight(hidden, C, *2 * [case.expand_kernel]) if case.expand_kernel else None,
        depthwise=weight(hidden, 1, case.kernel, case.kernel),
        project=weight(out_channels, hidden, 1, 1),
        scale=rng.uniform(0.5, 4, case.norms).astype(dtype),  # some go past 6
        shift=rng.uniform(-1, 3, case.norms).astype(dtype),
    )


def random_statistics(case: Case, dtype: str) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {
        "mean": rng.standard_normal(case.norms).astype(dtype),
        "var": rng.uniform(0.2, 2, case.norms).astype(dtype),
    }


def random_grad(case: Case, dtype: str) -> Array:
    shape = (*case.out_size, case.channels[2])
    return np.random.default_rng(8).standard_normal(shape).astype(dtype)


def as_nchw(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).double().permute(0, 3, 1, 2)


def as_nhwc(tensor: Tensor) -> Array:
    return tensor.detach().permute(0, 2, 3, 1).numpy()


class Plain:
    """The same block of PyTorch's operations, in float64 or another type.

    Attributes:
        p, y: the project layer before its BatchNorm, and the output [N, O, Ho, Wo].
        mean, var: the statistics that the BatchNorms used [S].
        kink_distance: of the values that ReLU6 got from 0 and 6, the smallest.
    """

    def __init__(
        self,
        case: Case,
        block: Block,
        statistics: dict[str, Array],
        residual: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.has_expand = block.expand is not None
        self.x = as_nchw(block.x).to(dtype).requires_grad_()
        weights = [array for array in block[1:] if array is not None]
        self.weights = [torch.from_numpy(array).to(dtype).requires_grad_() for array in weights]
        *expand, depthwise, project, scale, shift = self.weights
        hidden = depthwise.shape[0]
        given = {name: torch.from_numpy(array).to(dtype) for name, array in statistics.items()}
        means: list[Tensor] = []
        vars_: list[Tensor] = []
        start = 0

        def norm(z: Tensor) -> Tensor:
            # Not F.batch_norm, which refuses to take statistics of a single value.
            nonlocal start
            own = slice(start, start + z.shape[1])
            start = own.stop
            means.append(given["mean"][own] if given else z.mean((0, 2, 3)))
            vars_.append(given["var"][own] if given else z.var((0, 2, 3), correction=0))
            mean, std, gamma, beta = (
                vector[:, None, None]
                for vector in (means[-1], torch.sqrt(vars_[-1] + EPS), scale[own], shift[own])
            )
            slope = gamma / std
            return z * slope + (beta - mean * slope)  # rounds as PyTorch's BatchNorm does

        self.kink_distance = np.inf

        def activate(z: Tensor) -> Tensor:
            distance = torch.minimum(z.abs(), (z - 6).abs()).min().item()
            self.kink_distance = min(self.kink_distance, distance)
            # F.relu6, but for the gradient at NaN, which that passes or not depending on where in
            # memory the value lies.
            return torch.where((z <= 0) | (z >= 6), z.detach().clamp(0, 6), z)

        z = self.x
        if expand:
            z = F.conv2d(z, expand[0], None, case.expand_stride, case.expand_kernel // 2)
            z = activate(norm(z))
        z = F.conv2d(z, depthwise, None, case.stride, case.kernel // 2, groups=hidden)
        self.p = F.conv2d(activate(norm(z)), project)
        self.y = norm(self.p) + (self.x if residual else 0)
        self.mean, self.var = torch.cat(means), torch.cat(vars_)

    def backward(self, grad: Array) -> list[Array | None]:
        """The gradients in the order of `mbconv_backward`."""
        dx, *rest = torch.autograd.grad(self.y, [self.x, *self.weights], as_nchw(grad).to(self.y))
        dexpand = [] if self.has_expand else [None]
        return [as_nhwc(dx), *dexpand, *(gradient.numpy() for gradient in rest)]


def assert_close(actual: Array, expected: Array | Tensor, spread: float = 0.0) -> None:
    """Equal but for rounding; `spread` is how far `expected` moves if the inputs are rounded."""
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else expected
    assert actual.shape == expected.shape
    bound = TOLERANCE[actual.dtype] * max(1, np.abs(expected).max()) + ROUNDINGS * spread
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def plain_results(plain: Plain, grad: Array) -> list[Array | None]:
    """y, p, mean and var, and the gradients in the order of `mbconv_backward`."""
    forward = [as_nhwc(plain.y), as_nhwc(plain.p), plain.mean, plain.var]
    detached = [value.detach().numpy() if isinstance(value, Tensor) else value for value in forward]
    return [*detached, *plain.backward(grad)]


def rounding_spread(
    case: Case, block: Block, statistics: dict[str, Array], grad: Array, residual: bool
) -> list[float]:
    """How far each of `plain_results` may be off by rounding: when the inputs are rounded anew, and
    when the layers compute in the block's own type.

    That is much where a result is a small difference of large sums: in a gradient through the
    BatchNorm of few values or behind a depthwise kernel of one.
    """
    rng = np.random.default_rng(0)
    unit = 0.5 * float(np.finfo(block.x.dtype).eps)

    def rounded(array: Array | None) -> Array | None:
        if array is None:
            return None
        return array.astype("float64") * (1 + unit * rng.choice([-1.0, 1.0], array.shape))

    exact = plain_results(Plain(case, block, statistics, residual), grad)
    dtype = torch.from_numpy(block.scale).dtype
    others = [plain_results(Plain(case, block, statistics, residual, dtype), grad)]
    for _ in range(8):
        other = Plain(case, Block(*map(rounded, block)), statistics, residual)
        others.append(plain_results(other, rounded(grad)))
    return [
        0.0 if a is None else max(float(np.abs(other[index] - a).max()) for other in others)
        for index, a in enumerate(exact)
    ]


def check_against_plain(case: Case, isa: str, dtype: str, frozen: bool, residual: bool) -> None:
    statistics = random_statistics(case, dtype) if frozen else {}
    for seed in itertools.count():
        block = random_block(case, dtype, seed)
        plain = Plain(case, block, statistics, residual)
        if plain.kink_distance > KINK[np.dtype(dtype)]:
            break
    options = {**case.options, "isa": isa}
    grad = random_grad(case, dtype)
    expected = plain_results(plain, grad)
    spread = rounding_spread(case, block, statistics, grad, residual)

    y, p, mean, var, moments = _C.mbconv_forward(*block, **statistics, residual=residual, **options)
    assert y.dtype == p.dtype == mean.dtype == var.dtype == dtype
    gradients = _C.mbconv_backward(
        grad,
        *block,
        *(p, mean, var, moments),
        residual=residual,
        batch_statistics=not frozen,
        **options,
    )
    for actual, wanted, moves in zip((y, p, mean, var, *gradients), expected, spread, strict=True):
        assert (actual is None) == (wanted is None)
        if actual is not None:
            assert_close(actual, wanted, moves)

    products = as_nchw(grad) * (plain.y - plain.x if residual else plain.y)
    bound = TOLERANCE[np.dtype(dtype)] * max(1, products.abs().sum().item())
    probe = _C.mbconv_gate_probe(grad, *block, **statistics, **options)
    assert probe == pytest.approx(products.sum().item(), abs=bound)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "given"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_block_equals_plain_layers(case: Case, frozen: bool, dtype: str, isa: str) -> None:
    for residual in {False, case.may_have_residual}:
        check_against_plain(case, isa, dtype, frozen, residual)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def sizes(most: int) -> st.SearchStrategy[int]:
        return st.integers(1, most)

    C, hidden, out_channels = draw(sizes(20)), draw(sizes(40)), draw(sizes(20))
    expand_kernel = draw(st.sampled_from([0, 1, 1, 3, 5]))
    return Case(
        (draw(sizes(3)), draw(sizes(9)), draw(sizes(9))),
        (C, hidden if expand_kernel else C, out_channels),
        kernel=draw(st.sampled_from([1, 3, 5, 7])),
        stride=draw(sizes(2)),
        expand_kernel=expand_kernel,
        expand_stride=draw(sizes(2)) if expand_kernel else 1,
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=50, deadline=None)
@given(case=cases(), dtype=st.sampled_from(["float64", "float32"]), frozen=st.booleans())
def test_any_block_equals_plain_layers(isa: str, case: Case, dtype: str, frozen: bool) -> None:
    # Through the BatchNorm of two or three values next to nothing of a gradient is left, and the
    # kernels, which take it from sums, are further off than layers: see docs/kernels.md.
    assume(dtype == "float64" or frozen or np.prod(case.out_size) >= 8)
    check_against_plain(case, isa, dtype, frozen, case.may_have_residual)


def run_all(case: Case, block: Block, grad: Array, **options: object) -> list[object]:
    """Everything that the entry points give for batch statistics."""
    options = {**case.options, **options}
    y, *saved = _C.mbconv_forward(*block, **options)
    probe = _C.mbconv_gate_probe(grad, *block, **options)
    return [y, *saved, probe, *_C.mbconv_backward(grad, *block, *saved, **options)]


@cache
def scalar_results(case: Case) -> list[object]:
    return run_all(case, random_block(case, "float32"), random_grad(case, "float32"), isa="scalar")


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
    block, grad = random_block(case, "float32"), random_grad(case, "float32")
    results = run_all(case, block, grad, isa=isa)
    for actual, expected in zip(results, scalar_results(case), strict=True):
        if expected is not None:
            # Among so many values, some are on the other side of a kink for the one than for the
            # other, so that no bound holds for each of them.
            assert np.linalg.norm(actual - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 1), (7, 2)])
def test_moments_are_those_of_the_patches(kernel: int, stride: int, dtype: str, isa: str) -> None:
    # Far from 0, where a difference of two large sums would lose the covariance.
    x = (1000 + np.random.default_rng(0).standard_normal((3, 6, 5, 4))).astype(dtype)
    patches = F.unfold(as_nchw(x), kernel, padding=kernel // 2, stride=stride)
    patches = patches.transpose(0, 1).flatten(1).numpy()
    moments = _C.mbconv_moments(x, kernel, stride, isa=isa)
    np.testing.assert_allclose(moments[0], patches.mean(1), rtol=1e-6)
    covariance = np.cov(patches, bias=True)
    bound = 1e-5 * np.abs(covariance).max()
    np.testing.assert_allclose(moments[1:], covariance, rtol=0, atol=bound)


def assert_identical(actual: list[object], expected: list[object]) -> None:
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, strict=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_neither_strides_nor_threads_change_a_bit(case: Case, dtype: str, isa: str) -> None:
    block, grad = random_block(case, dtype), random_grad(case, dtype)
    expected = run_all(case, block, grad, isa=isa)

    def strided(pictures: Array) -> Array:
        N, H, W, C = pictures.shape
        # Every second image, rows stored bottom up, margins all around.
        inside = np.full((2 * N, H + 1, W + 2, C + 3), np.nan, dtype)[::2, :0:-1, 1:-1, 2:-1]
        inside[:] = pictures
        return inside

    assert_identical(
        run_all(case, block._replace(x=strided(block.x)), strided(grad), isa=isa), expected
    )
    for threads in 1, 2, 3:
        assert_identical(run_all(case, block, grad, isa=isa, threads=threads), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", [ODD, NO_EXPAND, STEM], ids=str)
def test_gradients_not_asked_for_are_left_out(case: Case, isa: str) -> None:
    block, grad = random_block(case, "float32"), random_grad(case, "float32")
    options = {**case.options, "isa": isa}
    _, *saved = _C.mbconv_forward(*block, **options)
    dx, *dweights = _C.mbconv_backward(grad, *block, *saved, **options)

    only_dx, *nothing = _C.mbconv_backward(grad, *block, *saved, weight_grads=False, **options)
    assert nothing == [None] * 5
    assert_close(only_dx, dx)
    none, *only_dweights = _C.mbconv_backward(grad, *block, *saved, input_grad=False, **options)
    assert none is None
    for actual, expected in zip(only_dweights, dweights, strict=True):
        assert (actual is None) == (expected is None)
        if expected is not None:
            assert_close(actual, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_without_save_there_is_no_p_and_the_same_output(isa: str) -> None:
    case = ODD
    block = random_block(case, "float32")
    y, p, *statistics = _C.mbconv_forward(*block, **case.options, isa=isa)
    other_y, none, *other_statistics = _C.mbconv_forward(
        *block, **case.options, save=False, isa=isa
    )
    assert p is not None
    assert none is None
    assert_identical([other_y, *other_statistics], [y, *statistics])


@pytest.mark.parametrize("isa", ISAS)
def test_probe_takes_moments_that_candidates_share(isa: str) -> None:
    case = STEM
    block, grad = random_block(case, "float32"), random_grad(case, "float32")
    moments = _C.mbconv_moments(block.x, case.expand_kernel, case.expand_stride, isa=isa)
    options = {**case.options, "isa": isa}
    with_moments = _C.mbconv_gate_probe(grad, *block, moments=moments, **options)
    assert with_moments == _C.mbconv_gate_probe(grad, *block, **options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "given"])
@pytest.mark.parametrize("case", [ODD, NO_EXPAND, STEM], ids=str)
def test_non_finite_input_spreads_as_in_plain_layers(
    case: Case, frozen: bool, bad: float, dtype: str, isa: str
) -> None:
    block = random_block(case, dtype)
    block.x[0, 1, 2, 0] = bad
    statistics = random_statistics(case, dtype) if frozen else {}
    plain = Plain(case, block, statistics)
    y, p, mean, var, moments = _C.mbconv_forward(*block, **statistics, **case.options, isa=isa)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(as_nhwc(plain.y)))
    grad = random_grad(case, dtype)
    gradients = _C.mbconv_backward(
        *(grad, *block, p, mean, var, moments),
        batch_statistics=not frozen,
        **case.options,
        isa=isa,
    )
    for actual, expected in zip(gradients, plain.backward(grad), strict=True):
        if expected is not None:
            np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("end", [0, 6])
def test_no_gradient_passes_the_ends_of_relu6(end: float, isa: str) -> None:
    case = ODD
    block, grad = random_block(case, "float32"), random_grad(case, "float32")
    hidden = case.channels[1]
    block.scale[: 2 * hidden] = 0
    block.shift[: 2 * hidden] = end
    _, *saved = _C.mbconv_forward(*block, **case.options, isa=isa)
    dx, dexpand, ddepthwise, _, dscale, dshift = _C.mbconv_backward(
        grad, *block, *saved, **case.options, isa=isa
    )
    for gradient in dx, dexpand, ddepthwise, dscale[: 2 * hidden], dshift[: 2 * hidden]:
        assert not gradient.any()


@pytest.mark.parametrize("isa", ISAS)
def test_constant_channels_have_no_variance(isa: str) -> None:
    case = ODD
    block = random_block(case, "float32")
    block.x[:] = block.x[0, 0, 0]
    _, _, _, var, _ = _C.mbconv_forward(*block, **case.options, isa=isa)
    assert (var >= 0).all()
    np.testing.assert_allclose(var[: case.channels[1]], 0, atol=1e-9)


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
    arguments = {**random_block(ODD, "float32")._asdict(), **change}
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
    block = random_block(ODD, "float32")
    _, p, mean, var, moments = _C.mbconv_forward(*block)
    arguments = {
        **block._asdict(),
        **{"p": p, "mean": mean, "var": var, "moments": moments},
        "grad": random_grad(ODD, "float32"),
        **change,
    }
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
