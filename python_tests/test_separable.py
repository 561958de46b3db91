"""The separable operators against their readable twins and PyTorch's plain layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mbconv_cases import relative_error
from mbconv_checks import assert_same
from separable_cases import (
    CASES,
    EMPTY_CASE,
    Block,
    Case,
    cases,
    grad_of,
    gradients,
    plain_separable,
    run_all,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from proxyless_ext import ops, reference
from proxyless_ext.errors import UserError

native = torch.ops.proxyless

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
ODD, DILATED, STRIDED = CASES[0], CASES[1], CASES[4]

in_both_modes = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
for_all_kinds = pytest.mark.parametrize("case", [ODD, DILATED, STRIDED], ids=str)


def check(case: Case, dtype: torch.dtype, frozen: bool, seed: int = 0) -> None:
    """Operators and twins against plain layers in float64."""
    block = case.block(dtype, seed)
    grad = grad_of(case, block)
    exact = block.to(torch.float64)
    leaves = exact.leaves()
    y = plain_separable(case, leaves, case.statistics() if frozen else None)
    expected = {"y": y, "probe": (grad.double() * y).sum()}
    for name, gradient in gradients(y, leaves, grad.double())._asdict().items():
        expected[f"d{name}"] = gradient
    of_channels = exact.x.transpose(0, 1).flatten(1)
    expected["mean"], expected["var"] = of_channels.mean(1), of_channels.var(1, correction=0)

    twin = run_all(reference, case, block, grad, frozen)
    precise = run_all(reference, case, exact, grad.double(), frozen)
    for name, value in run_all(native, case, block, grad, frozen).items():
        assert relative_error(precise[name], expected[name]) < 1e-12, name
        own = 3 * relative_error(twin[name], expected[name])
        assert relative_error(value, expected[name]) < TOLERANCES[dtype] + own, name
        assert value.dtype == twin[name].dtype, name


@in_both_modes
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).split(".")[1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_plain_layers(case: Case, dtype: torch.dtype, frozen: bool) -> None:
    check(case, dtype, frozen)


@settings(max_examples=40)
@given(case=cases(), frozen=st.booleans(), seed=st.integers(0, 2**32))
def test_matches_plain_layers_whatever_the_sizes(case: Case, frozen: bool, seed: int) -> None:
    check(case, torch.float64, frozen, seed)


@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 2**32))
def test_float32_matches_whatever_the_sizes(case: Case, seed: int) -> None:
    block = case.block(torch.float32, seed)
    grad = grad_of(case, block)
    statistics = case.statistics(torch.float32)
    # Where a value is next to ReLU's kink, float32 may be on its other side; nowhere else does it
    # jump, so blocks whose ReLU passes everything have none.
    block = block._replace(shift=block.shift + 100)
    y = native.separable_forward(*block, *statistics, *case.settings, False)
    found = native.separable_backward(grad, *block, *statistics, *case.settings, False, True, True)
    exact = block.to(torch.float64).leaves()
    expected = plain_separable(case, exact, case.statistics())
    assert relative_error(y, expected) < 1e-5
    wanted = gradients(expected, exact, grad.double())
    for name, value, gradient in zip(block._fields, found, wanted, strict=True):
        assert relative_error(value, gradient) < 1e-5, name


@in_both_modes
@pytest.mark.parametrize("case", [DILATED, STRIDED], ids=str)
def test_gradients_are_those_of_finite_differences(case: Case, frozen: bool) -> None:
    statistics = case.statistics() if frozen else ()

    def run(*tensors: Tensor) -> Tensor:
        return ops.separable(*tensors, *statistics, **case.options).y

    assert torch.autograd.gradcheck(run, list(case.block().leaves()), fast_mode=True)


@for_all_kinds
def test_only_what_is_asked_for_is_computed(case: Case) -> None:
    block = case.block()
    arguments = (grad_of(case, block), *block, *ops.separable_statistics(block.x), *case.settings)
    complete = native.separable_backward(*arguments, True, True, True)
    dx, *nothing = native.separable_backward(*arguments, True, True, False)
    also_nothing, *weights = native.separable_backward(*arguments, True, False, True)
    assert torch.equal(dx, complete[0])
    assert all(map(torch.equal, weights, complete[1:]))
    assert {tuple(t.shape) for t in (also_nothing, *nothing)} == {(0,)}


def test_keeps_its_input_and_statistics_only() -> None:
    case = Case((2, 8, 8), (8, 8))
    block = case.block(torch.float32).leaves()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ops.separable(*block, **case.options)
    assert sum(kept.values()) == sum(tensor.numel() for tensor in block) + 2 * 8


# --- Where the numbers are special ---


def with_pixel(block: Block, value: float) -> Block:
    x = block.x.clone()
    x[-1, -1, -1, -1] = value
    return block._replace(x=x)


SPECIAL: dict[str, Callable[[Block], Block]] = {
    "nan": lambda block: with_pixel(block, torch.nan),
    "inf": lambda block: with_pixel(block, torch.inf),
    "constant x": lambda block: block._replace(x=torch.full_like(block.x, -2)),
    "x far from zero": lambda block: block._replace(x=block.x + 1000),
    "denormal x": lambda block: block._replace(x=block.x * 1e-40),
    "zero scale": lambda block: block._replace(scale=torch.zeros_like(block.scale)),
    "negative scale": lambda block: block._replace(scale=-block.scale),
    "nan weights": lambda block: block._replace(depthwise=block.depthwise * torch.nan),
}


@in_both_modes
@pytest.mark.parametrize("special", SPECIAL)
@for_all_kinds
def test_special_numbers_do_as_in_the_twin(case: Case, special: str, frozen: bool) -> None:
    plain = case.block(torch.float32)
    block = SPECIAL[special](plain)
    grad = grad_of(case, plain)
    found = run_all(native, case, block, grad, frozen)
    twin = run_all(reference, case, block, grad, frozen)
    exact = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)
    for name, value in found.items():
        wanted = exact[name]
        if name == "mean":  # That of infinity may be NaN, as all that follows from it is.
            wanted = wanted.masked_fill(wanted.isinf(), torch.nan)
            value = value.masked_fill(value.isinf(), torch.nan)
        bar = 1e-3 + 3 * relative_error(twin[name], exact[name])
        assert relative_error(value, wanted) < bar, name


# --- How tensors lie in memory, and the same again ---


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_slice(x: Tensor) -> Tensor:
    larger = x.new_zeros(x.shape[0] + 1, x.shape[1] + 5, x.shape[2] + 3, 2 * x.shape[3])
    view = larger.contiguous(memory_format=torch.channels_last)[1:, 2:-3, 1:-2, ::2]
    view.copy_(x)
    return view


def as_transposed(x: Tensor) -> Tensor:
    return x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)


@pytest.mark.parametrize("layout", [as_channels_last, as_slice, as_transposed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@for_all_kinds
def test_strides_change_nothing(
    case: Case, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    moved = Block(*map(layout, block[:3]), *block[3:])
    found = run_all(native, case, moved, layout(grad))
    assert_same(found, run_all(native, case, block, grad))
    for name in ("y", "dx"):
        assert found[name].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", [Case((7, 14, 14), (24, 40), kernel=5), CASES[7]], ids=str)
def test_threads_change_no_bit(case: Case) -> None:
    block = case.block(torch.float32)
    grad = grad_of(case, block)
    before = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run_all(native, case, block, grad))
    torch.set_num_threads(before)
    assert_same(*results)


# --- What PyTorch does with operators ---


def test_signatures_are_those_of_the_twins() -> None:
    for name in ("statistics", "forward", "backward", "gate_probe"):
        operator = getattr(native, f"separable_{name}").default._schema
        twin = inspect.signature(getattr(reference, f"separable_{name}"))
        assert list(twin.parameters) == [argument.name for argument in operator.arguments]


@pytest.mark.parametrize("case", [STRIDED, EMPTY_CASE], ids=str)
def test_results_are_registered_right(case: Case) -> None:
    block = case.block()
    arguments = (*block, *case.statistics(), *case.settings)
    grad = native.separable_forward(*arguments, True)
    for op, given_arguments in (
        (native.separable_statistics, (block.x,)),
        (native.separable_forward, (*arguments, True)),
        (native.separable_backward, (grad, *arguments, True, True, True)),
        (native.separable_backward, (grad, *arguments, True, True, False)),
        (native.separable_backward, (grad, *arguments, True, False, True)),
        (native.separable_gate_probe, (grad, *arguments)),
    ):
        utils = ("test_schema", "test_faketensor") if block.x.numel() else ("test_faketensor",)
        torch.library.opcheck(op.default, given_arguments, test_utils=utils)


def test_gradients_are_registered_right() -> None:
    block = DILATED.block().leaves()
    arguments = (*block, *DILATED.statistics(), *DILATED.settings, True)
    torch.library.opcheck(native.separable_forward.default, arguments)


def test_empty_batches_have_no_statistics_and_move_no_weight() -> None:
    block = EMPTY_CASE.block().leaves()
    result = ops.separable(*block, **EMPTY_CASE.options)
    assert result.mean.isnan().all()
    assert result.var.isnan().all()
    for gradient in gradients(result.y, block, result.y):
        assert not gradient.any()
    statistics = EMPTY_CASE.statistics()
    assert ops.separable_gate_probe(result.y, *block, *statistics, **EMPTY_CASE.options) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_pictures_and_weights_in_its_type(dtype: torch.dtype) -> None:
    block = DILATED.block(torch.float32).leaves()
    with torch.autocast("cpu", dtype):
        result = ops.separable(*block, **DILATED.options)
    assert [t.dtype for t in result] == [dtype, torch.float32, torch.float32]
    expected = plain_separable(DILATED, block.to(torch.float64))
    assert relative_error(result.y, expected) < TOLERANCES[dtype]
    assert {g.dtype for g in gradients(result.y, block, result.y)} == {torch.float32}


@for_all_kinds
def test_cost_is_that_of_plain_layers(case: Case) -> None:
    def flops(run: Callable[[], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    block = case.block()
    plain = flops(lambda: plain_separable(case, block))
    assert flops(lambda: ops.separable(*block, **case.options).y) == plain
    probe = (grad_of(case, block), *block, *case.statistics())
    assert flops(lambda: ops.separable_gate_probe(*probe, **case.options)) == plain


def test_derivatives_that_are_not_there_are_refused() -> None:
    block = ODD.block().leaves()
    y = ops.separable(*block, **ODD.options).y
    (dx,) = torch.autograd.grad(y.sum(), block.x, create_graph=True)
    with pytest.raises(UserError, match="second derivative"):
        dx.sum().backward()
    with pytest.raises(UserError, match="detached x"):
        ops.separable_statistics(block.x)[0].sum().backward()


# --- Mistakes ---

MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "too many channels": (
        {"depthwise": torch.ones(4, 1, 3, 3)},
        r"depthwise must .*\[3, 1, 3, 3\]",
    ),
    "even kernel": ({"depthwise": torch.ones(3, 1, 2, 2)}, "must be odd"),
    "pointwise of others": ({"pointwise": torch.ones(5, 4, 1, 1)}, "pointwise must have the shape"),
    "short scale": ({"scale": torch.ones(2)}, "scale must have the shape"),
    "mean alone": ({"mean": torch.ones(3)}, "given together"),
    "another type": ({"pointwise": torch.ones(5, 3, 1, 1).double()}, "must be Float"),
    "stride": ({"stride": 3}, "stride must be 1 or 2"),
    "dilation": ({"dilation": 0}, "dilation must be positive"),
    "eps": ({"eps": -1.0}, "eps must be finite"),
    "shift": ({"shift": torch.full((3,), torch.inf)}, "shift has a value that is not finite"),
    "no picture": ({"x": torch.ones(3, 4, 4)}, r"\[N, C, H, W\]"),
    "integers": ({"x": torch.ones(2, 3, 4, 4, dtype=torch.int64)}, "x must be Float"),
    "another device": ({"x": torch.ones(2, 3, 4, 4, device="meta")}, "no kernels for meta"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    change, message = MISTAKES[mistake]
    arguments = {**ODD.block(torch.float32)._asdict(), **ODD.options, **change}
    with pytest.raises(UserError, match=message):
        ops.separable(**arguments)  # type: ignore[arg-type]


def test_a_gradient_of_another_shape_is_refused() -> None:
    block = ODD.block()
    with pytest.raises(UserError, match="grad must have the shape"):
        ops.separable_gate_probe(block.x, *block, *ODD.statistics(), **ODD.options)
