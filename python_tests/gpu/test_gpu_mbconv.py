"""The operators on a GPU against their readable twins in float64 on the CPU."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import pytest
import torch
from mbconv_cases import (
    CASES,
    EMPTY_CASES,
    Block,
    Case,
    Statistics,
    gradients,
    plain_mbconv,
    relative_error,
)
from mbconv_checks import assert_same, grad_of, rounding_errors, run_all
from precisions import FLOAT32, PRECISIONS, Precision
from test_ops import LAYOUTS
from torch import Tensor

from proxyless_ext import MBConv, UserError, ops, reference
from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.nn.statistics import InputStatistics

pytestmark = pytest.mark.gpu

# How many times what rounding of the inputs does all other rounding in a block may do.
AMPLIFIED = 20
# Of medians: single channels may owe most of their gradient to values next to ReLU6's ends.
SEEDS = range(5)
CPU = torch.device("cpu")
SHORT_SLEEP = 100_000_000  # Cycles of the GPU; a tenth of a second at most.
GIB = 1 << 30


def small_case(kernel: int, stride: int, ratio: int) -> Case:
    """A block whose channels fill no unit of the kernels, with a shortcut if it can have one."""
    channels = 5 + ratio
    return Case(
        size=(3, 9, 11),
        channels=(channels, channels * ratio, channels if stride == 1 else 13),
        kernel=kernel,
        stride=stride,
        expand_kernel=int(ratio > 1),
        residual=stride == 1,
    )


SMALL_CASES = [
    small_case(kernel, stride, ratio)
    for kernel in (3, 5, 7)
    for stride in (1, 2)
    for ratio in range(1, 7)
]
ALL_CASES = [
    *(case for case in CASES if case.kernel in (3, 5, 7)),
    *EMPTY_CASES,
    *SMALL_CASES,
    Case((2, 15, 13), (3, 19, 10), expand_kernel=3, expand_stride=2),
]
# Several tiles of pixels, inputs and outputs each.
LARGE_CASES = [
    Case((4, 33, 35), (24, 144, 24), kernel=5, residual=True),
    Case((4, 37, 18), (16, 96, 24), kernel=7, stride=2),
    Case((4, 20, 20), (80, 480, 96), kernel=3),
    Case((4, 30, 31), (70, 70, 33), kernel=3, expand_kernel=0),
    Case((4, 63, 65), (3, 32, 16), kernel=3, expand_kernel=3, expand_stride=2),
]
BLOCK, STEM, NO_EXPAND = LARGE_CASES[0], LARGE_CASES[4], LARGE_CASES[3]
KINDS = [BLOCK, STEM, NO_EXPAND, CASES[0]]

in_both_modes = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
in_all_precisions = pytest.mark.parametrize("precision", PRECISIONS, ids=str)
for_all_kinds = pytest.mark.parametrize("case", KINDS, ids=str)


def on(device: torch.device, block: Block) -> Block:
    return Block(*(tensor if tensor is None else tensor.to(device) for tensor in block))


def block_on(
    device: torch.device, case: Case, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Block, Tensor]:
    """A block and some dL/dy."""
    block = case.block(dtype, seed)
    return on(device, block), grad_of(case, block).to(device)


def statistics_on(device: torch.device, case: Case, frozen: bool) -> list[Tensor]:
    return [vector.to(device) for vector in case.statistics(torch.float32)] if frozen else []


def results(case: Case, block: Block, grad: Tensor, frozen: bool = False) -> dict[str, Tensor]:
    """All that users get of a block, by the names that `run_all` has for it."""
    given = statistics_on(block.x.device, case, frozen)
    leaves = block.leaves()
    result = ops.mbconv(*leaves, *given, **case.options)
    found = gradients(result.y, leaves, grad)._asdict()
    return {
        **{name: value.detach() for name, value in result._asdict().items()},
        **{f"d{name}": value for name, value in found.items() if value is not None},
        "probe": ops.mbconv_gate_probe(grad, *block, *given, **case.probe_options),
        "moments": ops.mbconv_moments(block.x, case.expand_kernel or 1, case.expand_stride),
    }


# --- What they compute ---


@in_both_modes
@in_all_precisions
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_matches_the_twin(
    device: torch.device, case: Case, precision: Precision, frozen: bool
) -> None:
    block = case.block(precision.dtype)
    grad = grad_of(case, block)
    with precision.multiplying():
        found = results(case, on(device, block), grad.to(device), frozen)
    exact = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)
    rounded = (block.to(precision.factors), grad.to(precision.factors))
    errors = rounding_errors(case, *rounded, frozen, exact)
    for name, value in found.items():
        assert value.device == device, name
        bar = precision.tolerance + AMPLIFIED * errors[name]
        assert relative_error(value.cpu(), exact[name]) < bar, name


@in_both_modes
@in_all_precisions
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_rounds_as_plain_layers_do(
    device: torch.device, case: Case, precision: Precision, frozen: bool
) -> None:
    errors = defaultdict[str, list[tuple[float, float]]](list)
    for seed in SEEDS:
        block, grad = block_on(device, case, precision.dtype, seed)
        with precision.multiplying():
            found = results(case, block, grad, frozen)
            leaves = block.leaves()
            given = Statistics(*statistics_on(device, case, frozen)) if frozen else None
            plain = plain_mbconv(case, leaves, given)
            of_plain = gradients(plain.y, leaves, grad)._asdict()
        exact = run_all(
            reference, case, on(CPU, block).to(torch.float64), grad.cpu().double(), frozen
        )
        rounded = {"y": plain.y, **{f"d{name}": value for name, value in of_plain.items()}}
        for name, value in rounded.items():
            if value is not None:
                pair = (found[name], value)
                errors[name].append(tuple(relative_error(each.cpu(), exact[name]) for each in pair))
    for name, pairs in errors.items():
        own, plains = map(median, zip(*pairs, strict=True))
        assert own < precision.tolerance / 5 + 1.5 * plains, name


def test_tf32_is_used_only_where_convolutions_may(device: torch.device) -> None:
    block, grad = block_on(device, BLOCK)
    exact = reference.mbconv_forward(
        *BLOCK.block(torch.float32).to(torch.float64), None, None, *BLOCK.settings, False
    )[0]
    errors = {}
    for precision in PRECISIONS[:2]:
        with precision.multiplying():
            y = results(BLOCK, block, grad)["y"]
        errors[precision.name] = relative_error(y.cpu(), exact)
    assert errors["float32"] < 1e-5
    if torch.cuda.get_device_capability(device) >= (8, 0):
        assert errors["tf32"] > 10 * errors["float32"]


# --- How tensors lie in memory ---


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@for_all_kinds
def test_strides_and_alignment_change_nothing(
    device: torch.device, case: Case, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    block, grad = block_on(device, case, dtype)
    expected = results(case, block, grad)
    moved = [tensor if tensor is None else layout(tensor) for tensor in block[:4]]
    vectors = [torch.stack([vector, vector], 1)[:, 0] for vector in block[4:]]
    assert_same(results(case, Block(*moved, *vectors), layout(grad)), expected)


def test_y_and_dx_are_channels_last(device: torch.device) -> None:
    found = results(BLOCK, *block_on(device, BLOCK))
    for name in ("y", "dx"):
        assert found[name].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_pictures_may_have_more_values_than_int32_can_count(device: torch.device) -> None:
    needed = 48 * GIB
    free = torch.cuda.mem_get_info(device)[0]
    if free < needed:
        pytest.skip(f"needs {needed // GIB} GiB of free memory, here are {free / GIB:.1f}")
    # Everything happens in the last rows of the last picture, so they alone give the same.
    rows, case = 128, Case((2, 11600, 11600), (8, 16, 8), kernel=5)
    few = Case((1, rows, 11600), case.channels, kernel=5)
    part, part_grad = block_on(device, few, torch.float16)
    part_grad[:, :, : -rows // 4] = 0
    x, grad = (
        torch.zeros(
            (2, 8, 11600, 11600),
            dtype=torch.float16,
            device=device,
            memory_format=torch.channels_last,
        )
        for _ in range(2)
    )
    assert x.numel() > 2**31
    x[-1:, :, -rows:] = part.x
    grad[-1:, :, -rows:] = part_grad

    found = results(case, part._replace(x=x), grad, frozen=True)
    expected = results(few, part, part_grad, frozen=True)
    for name in ("y", "dx"):
        ends = [each.pop(name)[-1:, :, -rows // 2 :] for each in (found, expected)]
        assert relative_error(*ends) < 1e-3, name

    # Moments are means over all pixels.
    share = part.x.numel() / x.numel()
    mean, covariance = expected["moments"][0], expected["moments"][1:]
    second = share * (covariance + mean.outer(mean))
    mean = share * mean
    expected["moments"] = torch.cat([mean[None], second - mean.outer(mean)])
    for name, value in found.items():
        error = (value - expected[name]).norm() / expected[name].norm()
        assert error < 1e-2, name


# --- When and where they run ---


@in_both_modes
@in_all_precisions
@for_all_kinds
def test_every_run_gives_the_same_bits(
    device: torch.device, case: Case, precision: Precision, frozen: bool
) -> None:
    block, grad = block_on(device, case, precision.dtype)
    with precision.multiplying():
        first = results(case, block, grad, frozen)
        for _ in range(3):
            assert_same(results(case, block, grad, frozen), first)


@for_all_kinds
def test_runs_on_the_current_stream(device: torch.device, case: Case) -> None:
    block, grad = block_on(device, case)
    expected = results(case, block, grad)
    late = block._replace(x=torch.zeros_like(block.x))
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SHORT_SLEEP)
        late.x.copy_(block.x)  # Another stream would read zeros.
        found = results(case, late, grad)
    torch.cuda.current_stream(device).wait_stream(stream)
    assert_same(found, expected)


@in_both_modes
@for_all_kinds
def test_a_captured_graph_replays_with_new_values(
    device: torch.device, case: Case, frozen: bool
) -> None:
    block, grad = block_on(device, case)
    other, other_grad = block_on(device, case, seed=1)
    expected = results(case, other, other_grad, frozen)
    given = statistics_on(device, case, frozen)
    leaves = block.leaves()

    def run() -> dict[str, Tensor | None]:
        result = ops.mbconv(*leaves, *given, **case.options)
        found = gradients(result.y, leaves, grad)._asdict()
        probe = ops.mbconv_gate_probe(grad, *block, *given, **case.probe_options)
        named = {f"d{name}": value for name, value in found.items()}
        return {"y": result.y, "mean": result.mean, "probe": probe, **named}

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    for tensor, value in zip(block.tensors(), other.tensors(), strict=True):
        tensor.copy_(value)
    grad.copy_(other_grad)
    for _ in range(2):
        graph.replay()
        assert_same({name: v.detach() for name, v in found.items() if v is not None}, expected)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Within it, waiting for the GPU through torch is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("training", [True, False])
def test_the_host_does_not_wait(device: torch.device, training: bool) -> None:
    module = MBConv(24, 24, 5, fused=True).to(device).train(training)
    x = torch.randn(4, 24, 33, 35, device=device, requires_grad=True)
    grad = torch.randn(4, 24, 33, 35, device=device)

    def run() -> None:
        module(x, residual=True).backward(grad)
        module.gate_probe(grad, x.detach(), InputStatistics(x.detach()))

    run()  # So that memory and kernels are there.
    torch.cuda.synchronize(device)
    end = torch.cuda.Event()
    with without_waiting():
        torch.cuda._sleep(10 * SHORT_SLEEP)
        run()
        end.record()
        assert not end.query()
    torch.cuda.synchronize(device)


def test_runs_on_the_device_of_its_tensors(device: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    block, grad = block_on(device, BLOCK)
    second = torch.device("cuda", 1)
    with FLOAT32.multiplying():
        expected = results(BLOCK, block, grad)
        found = results(BLOCK, on(second, block), grad.to(second))
    assert torch.cuda.current_device() == device.index
    for name, value in found.items():
        assert value.device == second
        assert relative_error(value.cpu(), expected[name].cpu()) < FLOAT32.tolerance, name
    with pytest.raises(UserError, match=r"^mbconv: project must be on the same device as x"):
        ops.mbconv(*block._replace(project=block.project.to(second)), **BLOCK.options)


# --- Memory ---


def peak_of_a_step(module: MBConv, x: Tensor) -> int:
    """Bytes beyond what is there before, in the second of two steps."""
    for _ in range(2):
        module.zero_grad()
        x.grad = None
        torch.cuda.synchronize(x.device)
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        y = module(x)
        y.backward(torch.ones_like(y))
        del y
    return torch.cuda.max_memory_allocated(x.device) - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_step_needs_less_memory_than_plain_layers(
    device: torch.device, dtype: torch.dtype
) -> None:
    fused = MBConv(24, 24, 5, fused=True).to(device, dtype)
    plain = copy.deepcopy(fused)
    plain.fused = False
    x = torch.randn(32, 24, 56, 56, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert peak_of_a_step(fused, x) < peak_of_a_step(plain, x)
    saved = []
    for module in (fused, plain):
        with SavedTensors(module) as kept:
            module(x)
        saved.append(kept.bytes)
    assert saved[0] <= saved[1] / 8


# --- Mistakes ---

REFUSED = [
    (torch.float64, 3, "x must be Float, BFloat16 or Half on a GPU, not Double"),
    (torch.float32, 1, "depthwise must have a kernel of 3, 5 or 7 on a GPU"),
    (torch.float32, 9, "depthwise must have a kernel of 3, 5 or 7 on a GPU"),
]


@pytest.mark.parametrize(("dtype", "kernel", "message"), REFUSED, ids=str)
def test_blocks_without_kernels_are_refused(
    device: torch.device, dtype: torch.dtype, kernel: int, message: str
) -> None:
    case = Case((2, 7, 6), (4, 8, 4), kernel=kernel)
    block, grad = block_on(device, case, dtype)
    assert ops.unsupported(block.x, kernel) is not None
    with pytest.raises(UserError, match=f"^mbconv: {message}"):
        ops.mbconv(*block, **case.options)
    with pytest.raises(UserError, match=message):
        ops.mbconv_gate_probe(grad, *block, **case.probe_options)


@pytest.mark.parametrize("name", ["expand", "depthwise", "project", "scale", "shift"])
def test_tensors_on_the_cpu_are_named(device: torch.device, name: str) -> None:
    block, _ = block_on(device, BLOCK)
    mixed = block._replace(**{name: getattr(block, name).cpu()})
    with pytest.raises(UserError, match=f"^mbconv: {name} must be on the same device as x"):
        ops.mbconv(*mixed, **BLOCK.options)


def test_a_picture_on_the_cpu_is_named(device: torch.device) -> None:
    block, grad = block_on(device, BLOCK)
    with pytest.raises(UserError, match=r"must be on a GPU|must be on the same device"):
        ops.mbconv(*block._replace(x=block.x.cpu()), **BLOCK.options)
    with pytest.raises(UserError, match="grad must be on the same device as x"):
        ops.mbconv_gate_probe(grad.cpu(), *block, **BLOCK.probe_options)


def test_values_that_are_not_finite_do_as_in_plain_layers(device: torch.device) -> None:
    block, _ = block_on(device, BLOCK)
    block.scale[-2] = torch.nan
    block.shift[-1] = torch.inf
    y = ops.mbconv(*block, **BLOCK.options).y
    plain = plain_mbconv(BLOCK, block).y
    assert y.isnan().any()
    assert y.isnan().equal(plain.isnan())
    assert y.isinf().any()
    assert y.isinf().equal(plain.isinf())
