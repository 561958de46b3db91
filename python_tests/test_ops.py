"""The compiled operators against their readable twins and PyTorch's plain layers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mbconv_cases import (
    CASES,
    EMPTY_CASES,
    KINK,
    Block,
    Case,
    cases,
    gradients,
    plain_mbconv,
    random_like,
    relative_error,
)
from mbconv_checks import TOLERANCES, assert_same, check_against_twin, grad_of, run_all
from operator_calls import OperatorCalls
from rank_processes import on_ranks
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from proxyless_ext import _library, ops, reference
from proxyless_ext.errors import UserError

native = torch.ops.proxyless

BLOCK, NO_EXPAND, STEM, RESIDUAL = CASES[0], CASES[8], CASES[4], CASES[1]
KINDS = [BLOCK, NO_EXPAND, STEM, RESIDUAL]
ALL_CASES = [*CASES, *EMPTY_CASES]
LARGE_CASES = [
    Case((4, 16, 16), (16, 96, 24), kernel=5),
    Case((4, 16, 16), (32, 32, 16), expand_kernel=0),
    Case((4, 31, 32), (3, 32, 16), expand_kernel=3, expand_stride=2),
]

in_both_modes = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
for_all_types = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).split(".")[1])
for_all_kinds = pytest.mark.parametrize("case", KINDS, ids=str)


# --- What they compute ---


@in_both_modes
@for_all_types
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_matches_the_twin(case: Case, dtype: torch.dtype, frozen: bool) -> None:
    check_against_twin(native, case, dtype, frozen)


@settings(max_examples=60)
@given(
    case=cases(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    frozen=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_matches_the_twin_whatever_the_sizes(
    case: Case, dtype: torch.dtype, frozen: bool, seed: int
) -> None:
    exact = case.block(seed=seed)
    margin = plain_mbconv(case, exact, case.statistics() if frozen else None).margin
    # Through the BatchNorm of few values next to nothing is left but rounding: docs/kernels.md.
    few = not frozen and grad_of(case, exact)[:, 0].numel() < 8
    assume(dtype == torch.float64 or (margin > KINK and not few))
    check_against_twin(native, case, dtype, frozen, seed, conditioned=True)


@in_both_modes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_matches_16_bits_as_plain_layers_do(case: Case, dtype: torch.dtype, frozen: bool) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    found = run_all(native, case, block, grad, frozen)
    exact = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)

    leaves = block.leaves()
    plain = plain_mbconv(case, leaves, case.statistics(dtype) if frozen else None)
    of_plain = gradients(plain.y, leaves, grad)._asdict()
    rounded = {"y": plain.y, **{f"d{name}": value for name, value in of_plain.items()}}
    for name, value in rounded.items():
        if value is not None:
            bar = TOLERANCES[dtype] / 10 + 1.5 * relative_error(value, exact[name])
            assert relative_error(found[name], exact[name]) < bar, name


@in_both_modes
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_matches_plain_layers(case: Case, frozen: bool) -> None:
    block = case.block().leaves()
    statistics = case.statistics() if frozen else None
    plain = plain_mbconv(case, block, statistics)
    grad = random_like(plain.y)

    result = ops.mbconv(*block, *(statistics or ()), **case.options)
    for value, expected in zip(result, plain, strict=False):
        assert relative_error(value, expected) < 1e-11
    found = gradients(result.y, block, grad)
    for gradient, expected in zip(found, gradients(plain.y, block, grad), strict=True):
        if gradient is not None:
            assert relative_error(gradient, expected) < 1e-11

    with torch.no_grad():
        probe = ops.mbconv_gate_probe(grad, *block, *(statistics or ()), **case.probe_options)
    expected = (grad * (plain.y - block.x if case.residual else plain.y)).sum()
    assert relative_error(probe, expected) < 1e-11


@in_both_modes
@pytest.mark.parametrize("case", [CASES[9], CASES[11], STEM], ids=str)
def test_gradients_are_those_of_finite_differences(case: Case, frozen: bool) -> None:
    statistics = case.statistics() if frozen else ()
    block = case.block().leaves()

    def run(*tensors: Tensor) -> Tensor:
        given_tensors = iter(tensors)
        args = [None if tensor is None else next(given_tensors) for tensor in block]
        return ops.mbconv(*args, *statistics, **case.options).y

    assert torch.autograd.gradcheck(run, block.tensors(), fast_mode=True)


def test_moments_can_be_shared_by_probes() -> None:
    block = BLOCK.block()
    grad = grad_of(BLOCK, block)
    moments = ops.mbconv_moments(block.x, BLOCK.expand_kernel, BLOCK.expand_stride)
    alone = ops.mbconv_gate_probe(grad, *block, **BLOCK.probe_options)
    assert torch.equal(
        ops.mbconv_gate_probe(grad, *block, moments=moments, **BLOCK.probe_options), alone
    )


@for_all_kinds
def test_only_what_is_asked_for_is_computed(case: Case) -> None:
    block = case.block()
    y, *kept = native.mbconv_forward(*block, None, None, *case.settings, True)
    arguments = (random_like(y), *block, *kept, *case.settings, True)
    complete = native.mbconv_backward(*arguments, True, True)
    dx, *nothing = native.mbconv_backward(*arguments, True, False)
    also_nothing, *weights = native.mbconv_backward(*arguments, False, True)

    assert torch.equal(dx, complete[0])
    assert all(map(torch.equal, weights, complete[1:]))
    assert {tuple(t.shape) for t in (also_nothing, *nothing)} == {(0,)}
    assert native.mbconv_forward(*block, None, None, *case.settings, False)[1].shape == (0,)


# --- Where the numbers are special ---


def with_pixel(block: Block, value: float) -> Block:
    """x has the value in one place."""
    x = block.x.clone()
    x[-1, -1, -1, -1] = value
    return block._replace(x=x)


def with_channel(block: Block, value: float) -> Block:
    """x has the value in all of channel 0."""
    x = block.x.clone()
    x[:, 0] = value
    return block._replace(x=x)


SPECIAL: dict[str, Callable[[Block], Block]] = {
    "nan": lambda block: with_pixel(block, torch.nan),
    "inf": lambda block: with_pixel(block, torch.inf),
    "-inf": lambda block: with_pixel(block, -torch.inf),
    "constant channel": lambda block: with_channel(block, 3),
    "constant x": lambda block: block._replace(x=torch.full_like(block.x, -2)),
    "zero x": lambda block: block._replace(x=torch.zeros_like(block.x)),
    "x far from zero": lambda block: block._replace(x=block.x + 1000),
    "denormal x": lambda block: block._replace(x=block.x * 1e-40),
    "denormal weights": lambda block: block._replace(project=block.project * 1e-40),
    "large x": lambda block: block._replace(x=block.x * 1e15),
    "negative scale": lambda block: block._replace(scale=-block.scale),
    "zero scale": lambda block: block._replace(scale=torch.zeros_like(block.scale)),
    "nan weights": lambda block: block._replace(depthwise=block.depthwise * torch.nan),
}


@in_both_modes
@pytest.mark.parametrize("special", SPECIAL)
@for_all_kinds
def test_special_numbers_do_as_in_plain_layers(case: Case, special: str, frozen: bool) -> None:
    block = SPECIAL[special](case.block(torch.float32))
    grad = grad_of(case, block)
    found = run_all(native, case, block, grad, frozen)
    plain = plain_mbconv(case, block, case.statistics(torch.float32) if frozen else None)
    exact = plain_mbconv(case, block.to(torch.float64), case.statistics() if frozen else None)
    for name in ("y", "mean", "var"):
        expected = getattr(exact, name)
        bar = 1e-3 + 3 * relative_error(getattr(plain, name), expected)
        assert relative_error(found[name], expected) < bar, name

    # A gradient that is not finite in layers is not in the kernels, which may add up more of them.
    # In the layers it depends on the number of values whether ReLU6 passes it for NaN.
    twin = run_all(reference, case, block, grad, frozen)
    expected = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)
    for name, value in found.items():
        finite = value.isfinite()
        bar = 1e-3 + 3 * relative_error(twin[name], expected[name])
        assert relative_error(value[finite], expected[name][finite]) < bar, name


# --- How tensors lie in memory ---


def as_contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_slice_of_channels(x: Tensor) -> Tensor:
    wider = torch.cat([x, x, x], 1).contiguous(memory_format=torch.channels_last)
    return wider[:, x.shape[1] : 2 * x.shape[1]]


def as_slice_of_rows(x: Tensor) -> Tensor:
    larger = x.new_zeros(x.shape[0] + 1, x.shape[1], x.shape[2] + 3, 2 * x.shape[3])
    larger = larger.contiguous(memory_format=torch.channels_last)
    view = larger[1:, :, 1:-2, ::2]
    view.copy_(x)
    return view


def as_offset_storage(x: Tensor) -> Tensor:
    storage = x.new_empty(x.numel() + 1)
    sizes = (x.shape[0], x.shape[2], x.shape[3], x.shape[1])
    view = storage[1:].view(sizes).permute(0, 3, 1, 2)
    view.copy_(x)
    return view


def as_transposed(x: Tensor) -> Tensor:
    return x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)


LAYOUTS = [
    as_contiguous,
    as_channels_last,
    as_slice_of_channels,
    as_slice_of_rows,
    as_offset_storage,
    as_transposed,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("case", [*KINDS, CASES[10]], ids=str)
def test_strides_change_nothing(case: Case, layout: Callable[[Tensor], Tensor]) -> None:
    block = case.block(torch.float32)
    grad = grad_of(case, block)
    expected = run_all(native, case, block, grad)

    moved = [tensor if tensor is None else layout(tensor) for tensor in block[:4]]
    vectors = [torch.stack([vector, vector], 1)[:, 0] for vector in block[4:]]
    found = run_all(native, case, Block(*moved, *vectors), layout(grad))

    assert_same(found, expected)


@for_all_kinds
def test_repeated_values_need_no_memory_of_their_own(case: Case) -> None:
    block = case.block(torch.float32)
    picture, channel = block.x[:1], block.x[:, :1]
    grad = grad_of(case, block)
    for x in (picture.expand_as(block.x), channel.expand_as(block.x)):
        expected = run_all(native, case, block._replace(x=x.contiguous()), grad)
        assert_same(run_all(native, case, block._replace(x=x), grad), expected)
    ones = torch.ones((), dtype=grad.dtype)
    expected = run_all(native, case, block, torch.ones_like(grad))
    assert_same(run_all(native, case, block, ones.expand_as(grad)), expected)


@for_all_kinds
def test_results_are_channels_last(case: Case) -> None:
    block = case.block(torch.float32)
    found = run_all(native, case, block, grad_of(case, block))
    for name in ("y", "p", "dx"):
        assert found[name].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_backward_keeps_nothing_of_the_expanded_size(memory_format: torch.memory_format) -> None:
    case = Case((2, 8, 8), (8, 48, 8))
    block = case.block(torch.float32).leaves()
    x = block.x.detach().contiguous(memory_format=memory_format)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = ops.mbconv(x, *block[1:], **case.options).y
    assert y.requires_grad
    weights = sum(tensor.numel() for tensor in block[1:] if tensor is not None)
    statistics = 2 * case.norm_channels + 9 * 8
    assert sum(kept.values()) == x.numel() + y.numel() + weights + statistics


# --- The same again ---


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@in_both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", [*KINDS, Case((7, 14, 14), (24, 100, 40), kernel=5)], ids=str)
def test_every_run_gives_the_same_bits(case: Case, dtype: torch.dtype, frozen: bool) -> None:
    block = case.block(dtype)
    grad = grad_of(case, block)
    first = run_all(native, case, block, grad, frozen)
    assert_same(run_all(native, case, block, grad, frozen), first)
    with threads(2):
        assert_same(run_all(native, case, block, grad, frozen), first)


OTHER_ISAS = _library.supported_isas()[1:]


def failures(isa: str) -> list[str]:
    """Of tests from above in a process that has not chosen an instruction set yet.

    Free sizes, strides and threads are those of test_native_mbconv.py, which has no 16 bits.
    """
    os.environ["PROXYLESS_CPU_ISA"] = isa
    modes = (False, True)
    calls = [
        *((test_matches_the_twin, *each) for each in product(ALL_CASES, TOLERANCES, modes)),
        *(
            (test_matches_16_bits_as_plain_layers_do, *each)
            for each in product(LARGE_CASES, (torch.float16, torch.bfloat16), modes)
        ),
        *(
            (test_special_numbers_do_as_in_plain_layers, *each)
            for each in product(KINDS, SPECIAL, modes)
        ),
    ]
    found = []
    for test, *arguments in calls:
        try:
            test(*arguments)
        except AssertionError as error:
            found.append(f"{test.__name__}{tuple(map(str, arguments))}: {error}")
    return found


@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_other_instruction_sets_pass_these_tests_too(isa: str) -> None:
    assert on_ranks(failures, isa, world=1) == [[]]


# --- What PyTorch does with operators ---


@in_both_modes
@for_all_kinds
def test_operators_are_registered_right(case: Case, frozen: bool) -> None:
    block = case.block()
    statistics = case.statistics() if frozen else (None, None)
    forward = (*statistics, *case.settings)
    y, *kept = native.mbconv_forward(*block, *forward, True)
    grad = random_like(y)
    check = torch.library.opcheck

    moments = (block.x, case.expand_kernel or 1, case.expand_stride)
    check(native.mbconv_moments.default, moments)
    for save in (False, True):
        check(native.mbconv_forward.default, (*block, *forward, save))
    for tf32 in (False, True):
        check(native.mbconv_forward.default, (*block.leaves(), *forward, True, tf32))
    backward = (grad, *block, *kept, *case.settings, not frozen)
    for wanted in ((True, True), (True, False), (False, True)):
        check(native.mbconv_backward.default, (*backward, *wanted, True))
    probe = (grad, *block, *statistics, None, *case.settings[:3])
    check(native.mbconv_gate_probe.default, (*probe, True))


@pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
def test_empty_batches_have_the_shapes_that_are_registered(case: Case) -> None:
    block = case.block()
    arguments = (*block, None, None, *case.settings, True)
    only = ("test_faketensor",)
    torch.library.opcheck(native.mbconv_forward.default, arguments, test_utils=only)
    y, *kept = native.mbconv_forward(*arguments)
    arguments = (y, *block, *kept, *case.settings, True, True, True)
    torch.library.opcheck(native.mbconv_backward.default, arguments, test_utils=only)


def compiled(case: Case, **options: Any) -> Callable[..., ops.MBConvResult]:
    def run(*block: Tensor | None) -> ops.MBConvResult:
        return ops.mbconv(*block, **case.options)

    return torch.compile(run, fullgraph=True, **options)


def result_and_gradients(
    run: Callable[..., ops.MBConvResult], block: Block
) -> dict[str, Tensor | None]:
    leaves = block.leaves()
    result = run(*leaves)
    found = gradients(result.y, leaves, random_like(result.y))
    return {**result._asdict(), **{f"d{name}": d for name, d in found._asdict().items()}}


@for_all_kinds
def test_compiles_whole_and_once(case: Case) -> None:
    torch.compiler.reset()
    run = compiled(case, backend="aot_eager", dynamic=False)
    for seed in (0, 1):
        block = case.block(torch.float32, seed)
        eager = result_and_gradients(lambda *b: ops.mbconv(*b, **case.options), block)
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            found = result_and_gradients(run, block)
        for name, value in found.items():
            assert value is None or torch.equal(value, eager[name]), name


def test_compiles_once_for_all_sizes() -> None:
    torch.compiler.reset()
    run = compiled(BLOCK, backend="aot_eager", dynamic=True)
    for size in ((2, 9, 8), (3, 10, 14), (4, 12, 6)):
        block = Case(size, BLOCK.channels, BLOCK.kernel).block(torch.float32)
        eager = ops.mbconv(*block, **BLOCK.options)
        with torch.compiler.set_stance("default" if size[0] == 2 else "fail_on_recompile"):
            assert torch.equal(run(*block).y, eager.y)


def test_compiles_with_inductor() -> None:
    torch.compiler.reset()
    block = RESIDUAL.block(torch.float32)
    eager = result_and_gradients(lambda *b: ops.mbconv(*b, **RESIDUAL.options), block)
    for name, value in result_and_gradients(compiled(RESIDUAL), block).items():
        assert torch.equal(value, eager[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_takes_pictures_and_weights_in_its_type(dtype: torch.dtype) -> None:
    block = BLOCK.block(torch.float32)
    low = block.to(dtype)
    expected = ops.mbconv(*low, **BLOCK.options)
    grad = random_like(expected.y)
    leaves = block.leaves()
    with torch.autocast("cpu", dtype):
        result = ops.mbconv(*leaves, **BLOCK.options)
        probe = ops.mbconv_gate_probe(grad.float(), *block, **BLOCK.probe_options)
        moments = ops.mbconv_moments(block.x)
    for value, wanted in zip(result, expected, strict=True):
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)
    assert torch.equal(probe, ops.mbconv_gate_probe(grad, *low, **BLOCK.probe_options))
    assert torch.equal(moments, ops.mbconv_moments(low.x))

    found = gradients(result.y, leaves, grad)
    low_leaves = low.leaves()
    wanted = gradients(ops.mbconv(*low_leaves, **BLOCK.options).y, low_leaves, grad)
    for gradient, tensor, low_gradient in zip(found, block, wanted, strict=True):
        assert gradient.dtype == tensor.dtype
        assert torch.equal(gradient, low_gradient.to(tensor.dtype))


def test_autocast_leaves_float64_alone() -> None:
    block = BLOCK.block()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            ops.mbconv(*block, **BLOCK.options).y, ops.mbconv(*block, **BLOCK.options).y
        )
        assert ops.mbconv(*block, **BLOCK.options).y.dtype == torch.float64


def switch_off() -> None:
    torch.backends.cudnn.allow_tf32 = False


def ask_for_ieee() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def follow_the_rest() -> None:
    torch.backends.cudnn.conv.fp32_precision = "none"
    torch.backends.fp32_precision = "ieee"


TF32_SETTINGS: list[tuple[Callable[[], None], bool]] = [
    (lambda: None, True),
    (switch_off, False),
    (ask_for_ieee, False),
    (follow_the_rest, False),
]


@pytest.fixture
def default_precision() -> Iterator[None]:
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.usefixtures("default_precision")
@pytest.mark.parametrize(("setting", "allowed"), TF32_SETTINGS)
def test_tf32_is_as_for_convolutions(setting: Callable[[], None], allowed: bool) -> None:
    setting()
    block = BLOCK.block(torch.float32)
    with OperatorCalls() as calls:
        y = ops.mbconv(*block.leaves(), **BLOCK.options).y
        y.sum().backward()
        ops.mbconv_gate_probe(y.detach(), *block, **BLOCK.probe_options)
    assert calls.names == ["mbconv_forward", "mbconv_backward", "mbconv_gate_probe"]
    assert [arguments["tf32"] for _, arguments in calls.made] == [allowed] * 3


def count_flops(run: Callable[..., Any], *args: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run(*args)
    return counter.get_total_flops()


@for_all_kinds
def test_cost_is_that_of_plain_layers(case: Case) -> None:
    block = case.block()
    grad = grad_of(case, block)
    plain = count_flops(plain_mbconv, case, block)
    assert count_flops(lambda: ops.mbconv(*block, **case.options)) == plain
    assert count_flops(lambda: ops.mbconv_gate_probe(grad, *block, **case.probe_options)) == plain
    on_meta = [tensor if tensor is None else tensor.to("meta") for tensor in block]
    assert count_flops(lambda: ops.mbconv(*on_meta, **case.options)) == plain

    # Each layer's two gradients cost what it does, and all but project run again.
    project = 2 * block.project.numel() * grad[:, 0].numel()
    leaves = block.leaves()
    y = ops.mbconv(*leaves, **case.options).y
    assert count_flops(gradients, y, leaves, grad) == 3 * plain - project
    x = block.x.clone().requires_grad_()
    y = ops.mbconv(x, *block[1:], **case.options).y
    assert count_flops(torch.autograd.grad, y, x, grad) == 2 * plain - project


def test_gradients_are_only_made_where_needed() -> None:
    block = BLOCK.block(torch.float32)
    project = block.project.clone().requires_grad_()
    y = ops.mbconv(*block._replace(project=project), **BLOCK.options).y
    (dproject,) = torch.autograd.grad(y.sum(), [project], retain_graph=True)
    assert dproject.shape == project.shape
    result = ops.mbconv(*block.leaves(), **BLOCK.options)
    assert not result.mean.requires_grad
    assert not result.var.requires_grad


def test_frozen_statistics_come_back_as_copies() -> None:
    block, statistics = BLOCK.block(), BLOCK.statistics()
    result = ops.mbconv(*block, *statistics, **BLOCK.options)
    for returned, wanted in zip(result[1:], statistics, strict=True):
        assert torch.equal(returned, wanted)
        assert returned.data_ptr() != wanted.data_ptr()


@for_all_types
def test_a_second_derivative_is_refused(dtype: torch.dtype) -> None:
    block = BLOCK.block(dtype).leaves()
    y = ops.mbconv(*block, **BLOCK.options).y
    (dx,) = torch.autograd.grad(y.sum(), block.x, create_graph=True)
    with pytest.raises(UserError, match="no second derivative"):
        dx.sum().backward()


def test_other_operators_refuse_gradients() -> None:
    block = BLOCK.block().leaves()
    grad = grad_of(BLOCK, block)
    with pytest.raises(UserError, match="mbconv_gate_probe has no gradient"):
        ops.mbconv_gate_probe(grad, *block, **BLOCK.probe_options).backward()
    with pytest.raises(UserError, match="mbconv_moments has no gradient"):
        ops.mbconv_moments(block.x).sum().backward()


# --- Gates ---


def some_gates(
    edges: int = 5, candidates: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Alphas, of which each edge lacks one more at its end, and the gradients of their gates."""
    random = torch.Generator().manual_seed(seed)
    alpha, gradient = 5 * torch.randn(2, edges, candidates, generator=random, dtype=torch.float64)
    columns = torch.arange(candidates)
    missing = (columns > 0) & (columns >= candidates - torch.arange(edges)[:, None])
    alpha, gradient = alpha.masked_fill(missing, -torch.inf), gradient.masked_fill(missing, 0)
    return alpha.to(dtype), gradient.to(dtype)


@for_all_types
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**32))
def test_alpha_gradient_matches_the_twin(
    dtype: torch.dtype, edges: int, candidates: int, seed: int
) -> None:
    pair = some_gates(edges, candidates, dtype, seed)
    found, expected = ops.alpha_gradient(*pair), reference.alpha_gradient(*pair)
    # Both compute in float64; of float16, the smallest numbers are coarser than its eps says.
    rounding = torch.finfo(dtype)
    torch.testing.assert_close(
        found, expected, rtol=rounding.eps, atol=max(1e-14, rounding.tiny * rounding.eps)
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e308, 0.0])
def test_alpha_gradient_of_special_numbers_is_the_twins(value: float) -> None:
    alpha, gate_gradient = some_gates()
    for changed in (0, 1):
        pair = (alpha.clone(), gate_gradient.clone())
        pair[changed][0] = value
        pair[changed][1, 0] = value
        torch.testing.assert_close(
            ops.alpha_gradient(*pair), reference.alpha_gradient(*pair), equal_nan=True
        )


def test_alpha_gradient_reads_any_strides() -> None:
    alpha, gate_gradient = some_gates()
    wide = torch.stack([gate_gradient, gate_gradient], 2)[..., 0]
    found = ops.alpha_gradient(alpha.T.contiguous().T, wide)
    assert found.is_contiguous()
    assert torch.equal(found, ops.alpha_gradient(alpha, gate_gradient))


def test_alpha_gradient_is_registered_right() -> None:
    for edges in (0, 5):
        torch.library.opcheck(native.alpha_gradient.default, some_gates(edges))


def test_alpha_gradient_refuses_gradients() -> None:
    alpha, gate_gradient = some_gates()
    with pytest.raises(UserError, match="alpha_gradient has no gradient"):
        ops.alpha_gradient(alpha.requires_grad_(), gate_gradient).sum().backward()


@pytest.mark.parametrize(
    ("alpha", "gate_gradient", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"alpha must have the shape \[E, N\], not \[3\]"),
        (
            torch.zeros(2, 3),
            torch.zeros(3, 2),
            r"gate_gradient must have alpha's shape \[2, 3\], not \[3, 2\]",
        ),
        (
            torch.zeros(2, 3),
            torch.zeros(2, 3).double(),
            "gate_gradient must be Float to go with alpha, not Double",
        ),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3), "alpha must be Float, Double, .*, not Int"),
        (
            torch.zeros(2, 3),
            torch.zeros(2, 3, device="meta"),
            "gate_gradient must be on the same device as alpha",
        ),
    ],
)
def test_mistakes_with_gates_are_named(alpha: Tensor, gate_gradient: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=f"^alpha_gradient: {message}"):
        ops.alpha_gradient(alpha, gate_gradient)


# --- Mistakes ---


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Any]], None]:
    """Changes one of the arguments."""

    def apply(arguments: dict[str, Any]) -> None:
        arguments[name] = change(arguments[name])

    return apply


def option(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets one of the options, or leaves out a tensor."""

    def apply(arguments: dict[str, Any]) -> None:
        arguments[name] = value

    return apply


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[:-1], torch.tensor([value], dtype=tensor.dtype)])

    return change


HUGE = 2**29
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "x flat": (replaced("x", lambda x: x[0]), r"x must have the shape \[N, C, H, W\], not \[8"),
    "x without rows": (
        replaced("x", lambda x: x[:, :, :0]),
        "x must have at least one channel, row",
    ),
    "x without channels": (replaced("x", lambda x: x[:, :0]), "x must have at least one channel"),
    "x of integers": (
        replaced("x", lambda x: x.int()),
        "x must be Float, Double, BFloat16 or Half",
    ),
    "x of another type": (
        replaced("x", Tensor.half),
        "expand must be Half to go with x, not Float",
    ),
    "too many pixels": (
        replaced("x", lambda x: x[:1, :, :1, :1].expand(HUGE, 8, HUGE, 1)),
        f"x with {HUGE} times {HUGE} by 1 pixels .* more than int64 can count",
    ),
    "expand flat": (
        replaced("expand", lambda w: w[0]),
        r"expand must have the shape \[hidden, C, ke, ke\], not \[8, 1, 1\]",
    ),
    "expand of other channels": (replaced("expand", lambda w: w[:, 1:]), r"not \[16, 7, 1, 1\]"),
    "expand not square": (replaced("expand", lambda w: w.expand(16, 8, 1, 3)), "expand must have"),
    "expand even": (
        replaced("expand", lambda w: w.expand(16, 8, 2, 2)),
        "kernel of expand must be odd",
    ),
    "no expand": (option("expand", None), "depthwise must have 8 channels, as x has, unless"),
    "depthwise even": (
        replaced("depthwise", lambda w: w[..., 1:, 1:]),
        "kernel of depthwise must be",
    ),
    "depthwise not depthwise": (
        replaced("depthwise", lambda w: w.expand(16, 2, 3, 3)),
        r"depthwise must have the shape \[16, 1, 3, 3\], not \[16, 2, 3, 3\]",
    ),
    "depthwise without channels": (replaced("depthwise", lambda w: w[:0]), "depthwise must have"),
    "depthwise of another type": (replaced("depthwise", Tensor.double), "depthwise must be Float"),
    "project flat": (replaced("project", lambda w: w[:, :, 0, 0]), "project must have the shape"),
    "project of other channels": (
        replaced("project", lambda w: w[:, 1:]),
        r"project must have the shape \[8, 16, 1, 1\], not \[8, 15, 1, 1\]",
    ),
    "project without channels": (replaced("project", lambda w: w[:0]), "project must have"),
    "scale too short": (replaced("scale", lambda v: v[1:]), r"scale must .* \[40\], not \[39\]"),
    "scale of another type": (replaced("scale", Tensor.bfloat16), "scale must be Float to go"),
    "scale nan": (replaced("scale", with_value(torch.nan)), "scale has a value that is not finite"),
    "shift inf": (replaced("shift", with_value(torch.inf)), "shift has a value that is not finite"),
    "shift too long": (replaced("shift", lambda v: v.repeat(2)), r"shift must .*, not \[80\]"),
    "on another device": (replaced("project", lambda w: w.to("meta")), "same device as x"),
    "mean alone": (option("mean", torch.zeros(40)), "mean and var must be given together"),
    "var alone": (option("var", torch.zeros(40)), "mean and var must be given together"),
    "eps negative": (option("eps", -1e-3), "eps must be finite and not negative, not -0.001"),
    "eps nan": (option("eps", torch.nan), "eps must be finite and not negative, not nan"),
    "stride": (option("stride", 3), "stride must be 1 or 2, not 3"),
    "no stride": (option("stride", 0), "stride must be 1 or 2, not 0"),
    "expand_stride": (option("expand_stride", -1), "expand_stride must be 1 or 2, not -1"),
    "residual and stride": (option("stride", 2), "residual needs stride 1 and expand_stride 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    apply, message = MISTAKES[mistake]
    arguments = {**RESIDUAL.block(torch.float32)._asdict(), **RESIDUAL.options}
    apply(arguments)
    with pytest.raises(UserError, match=f"^mbconv: .*{message}"):
        ops.mbconv(**arguments)


def test_mistakes_beyond_one_argument_are_named() -> None:
    block = RESIDUAL.block(torch.float32)
    ones = torch.ones(RESIDUAL.norm_channels)
    with pytest.raises(UserError, match=r"mean must have the shape \[40\], not \[39\]"):
        ops.mbconv(*block, ones[1:], ones, **RESIDUAL.options)
    with pytest.raises(UserError, match="var must be Float to go with x, not Double"):
        ops.mbconv(*block, ones, ones.double(), **RESIDUAL.options)
    narrow = Case((2, 8, 8), (8, 16, 5))
    with pytest.raises(UserError, match="residual needs 8 output channels, as many as x"):
        ops.mbconv(*narrow.block(torch.float32), eps=1e-3, residual=True)
    no_expand = NO_EXPAND.block(torch.float32)
    with pytest.raises(UserError, match="expand_stride must be 1 without expand"):
        ops.mbconv(*no_expand, eps=1e-3, expand_stride=2)


def test_mistakes_with_moments_are_named() -> None:
    block = BLOCK.block(torch.float32)
    grad = grad_of(BLOCK, block)
    with pytest.raises(UserError, match="kernel must be odd, positive and at most 63, not 2"):
        ops.mbconv_moments(block.x, 2)
    with pytest.raises(UserError, match="stride must be 1 or 2, not 4"):
        ops.mbconv_moments(block.x, 1, 4)
    with pytest.raises(UserError, match="x must have the shape"):
        ops.mbconv_moments(block.x[0])
    moments = ops.mbconv_moments(block.x)
    with pytest.raises(UserError, match=r"moments must have the shape \[4, 3\], not \[3, 3\]"):
        ops.mbconv_gate_probe(grad, *block, moments=moments[1:], **BLOCK.probe_options)
    with pytest.raises(UserError, match="moments must be Double to go with x, not Float"):
        ops.mbconv_gate_probe(grad, *block, moments=moments.float(), **BLOCK.probe_options)
    with pytest.raises(UserError, match="grad must have the shape"):
        ops.mbconv_gate_probe(grad[:1], *block, **BLOCK.probe_options)


def test_backward_needs_what_forward_can_save() -> None:
    block = BLOCK.block(torch.float32).leaves()
    y, *kept = native.mbconv_forward(*block, None, None, *BLOCK.settings, False)
    with pytest.raises(ValueError, match="p must be what forward returned with save=True"):
        y.sum().backward()
    kept[0] = y.detach()
    kept[-1] = kept[-1][1:]
    with pytest.raises(ValueError, match="moments must have the shape"):
        native.mbconv_backward(y.detach(), *block, *kept, *BLOCK.settings, True, True, True)


def test_missing_operators_are_one_clear_sentence() -> None:
    code = """
import torch

def load_library(path):
    raise OSError("no such file")

torch.ops.load_library = load_library
import proxyless_ext
from proxyless_ext import UserError, ops

try:
    ops.mbconv_moments(torch.ones(1, 1, 1, 1))
except UserError as error:
    print(error, end="")
"""
    command = [sys.executable, "-c", code]
    message = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert message.startswith("The compiled part of proxyless_ext cannot be loaded (no such file)")
    assert message.endswith("`pip install --no-build-isolation .` in the source folder.")


def refusal(isa: str) -> str:
    os.environ["PROXYLESS_CPU_ISA"] = isa
    with pytest.raises(UserError) as error:
        ops.mbconv_moments(torch.ones(1, 1, 1, 1))
    return str(error.value)


def test_unknown_instruction_set_is_one_clear_sentence() -> None:
    (message,) = on_ranks(refusal, "mmx", world=1)
    assert message.startswith('PROXYLESS_CPU_ISA is "mmx", but this CPU can use only ')
