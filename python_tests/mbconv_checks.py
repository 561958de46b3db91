"""The mbconv operators beside their readable twins."""

from __future__ import annotations

from typing import Any

import torch
from mbconv_cases import Block, Case, random_like, relative_error
from torch import Tensor

import proxyless_ext.ops  # noqa: F401, loads torch.ops.proxyless
from proxyless_ext import reference

native = torch.ops.proxyless

# What rounding may do beyond thrice of what it does to the twin in the same type. In types of 16
# bits kernels may round as often as plain layers do, and the gradient of a value that gets to the
# other side of ReLU6's ends is lost or found, which weighs much in small tensors.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 3e-1,
}


def run_all(
    operators: Any, case: Case, block: Block, grad: Tensor, frozen: bool = False
) -> dict[str, Tensor]:
    """All that operators, compiled ones or twins, give for a block, by name."""
    statistics = case.statistics(block.x.dtype) if frozen else (None, None)
    y, *kept = operators.mbconv_forward(*block, *statistics, *case.settings, True)
    found = operators.mbconv_backward(grad, *block, *kept, *case.settings, not frozen, True, True)
    probe = operators.mbconv_gate_probe(grad, *block, *statistics, None, *case.settings[:3])
    moments = operators.mbconv_moments(block.x, case.expand_kernel or 1, case.expand_stride)
    return {
        **dict(zip(("y", "p", "mean", "var", "kept moments"), (y, *kept), strict=True)),
        **dict(zip((f"d{name}" for name in block._fields), found, strict=True)),
        "probe": probe,
        "moments": moments,
    }


def grad_of(case: Case, block: Block) -> Tensor:
    """Some dL/dy."""
    return random_like(native.mbconv_forward(*block, None, None, *case.settings, False)[0])


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit, NaN included."""
    for name, value in found.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def rounded_anew(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """In float64, each value half a unit of dtype's last place up or down."""
    signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
    return tensor.double() * (1 + 0.5 * torch.finfo(dtype).eps * signs)


def rounding_errors(
    case: Case, block: Block, grad: Tensor, frozen: bool, exact: dict[str, Tensor]
) -> dict[str, float]:
    """How far off rounding takes each result: the twin's in the block's type, and those of inputs
    that were rounded anew.

    That is much where a result is a small difference of large sums.
    """
    generator = torch.Generator().manual_seed(0)
    dtype = block.x.dtype
    others = [run_all(reference, case, block, grad, frozen)]
    for _ in range(8):
        tensors = [*block, grad]
        *inputs, moved = (t if t is None else rounded_anew(t, dtype, generator) for t in tensors)
        others.append(run_all(reference, case, Block(*inputs), moved, frozen))
    return {
        name: max(relative_error(other[name], value) for other in others)
        for name, value in exact.items()
    }


def check_against_twin(
    operators: Any,
    case: Case,
    dtype: torch.dtype,
    frozen: bool,
    seed: int = 0,
    conditioned: bool = False,
) -> None:
    """`conditioned` allows for what `rounding_errors` says, else for the twin's own error only."""
    block = case.block(dtype, seed)
    grad = grad_of(case, block)
    found = run_all(operators, case, block, grad, frozen)
    twin = run_all(reference, case, block, grad, frozen)
    exact = run_all(reference, case, block.to(torch.float64), grad.double(), frozen)
    if conditioned:
        allowed = {k: 20 * v for k, v in rounding_errors(case, block, grad, frozen, exact).items()}
    else:
        allowed = {name: 3 * relative_error(twin[name], value) for name, value in exact.items()}
    for name, value in found.items():
        assert relative_error(value, exact[name]) < TOLERANCES[dtype] + allowed[name], name
        assert value.dtype == twin[name].dtype, name
