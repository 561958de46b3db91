"""Whether results agree: what computes something else is not timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..errors import UserError

OUTPUT_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 3e-3, "tf32": 3e-3}
GRADIENT_TOLERANCE = {"float32": 5e-2, "bfloat16": 3e-1, "float16": 1e-1, "tf32": 1e-1}
"""How far rounding may take a block's output and each gradient from float64, relatively.

Where it moves a value across a kink of ReLU6, a gradient is let through or not. PyTorch's layers in
channels-last need the most: their BatchNorms sum up in float32. TF32 rounds factors as float16
does.
"""

MARGIN = 4
"""How many times farther from float64 than PyTorch's layers a step of the supernet may be.

Rounding changes gradients by chance here, too, in a deep network by some percent.
"""
NEGLIGIBLE = 1e-6


class DisagreementError(UserError):
    """A result that rounding does not explain."""

    def __init__(self, difference: str) -> None:
        super().__init__(f"{difference}, which rounding does not explain; please report it")


def relative_difference(result: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """||result - expected|| / ||expected|| over all the tensors together, in float64."""
    difference = norm = 0.0
    for one, other in zip(result, expected, strict=True):
        difference += (one.double() - other.double()).square().sum().item()
        norm += other.double().square().sum().item()
    return float((difference / norm) ** 0.5)


def check_block(
    name: str, result: Sequence[Tensor], expected: Sequence[Tensor], kind: str = "float32"
) -> dict[str, float]:
    """Relative differences from `expected` of the output, and of the gradient that differs most.

    Args:
        name: of what gave the result.
        result, expected: the output and all gradients, the latter in float64.
        kind: of numbers, which says how much may be rounded: a key of `OUTPUT_TOLERANCE`.

    Raises:
        DisagreementError: rounding does not explain them.
    """
    output, *gradients = (
        relative_difference([one], [other]) for one, other in zip(result, expected, strict=True)
    )
    gradient = max(gradients)
    if not (output <= OUTPUT_TOLERANCE[kind] and gradient <= GRADIENT_TOLERANCE[kind]):
        raise DisagreementError(
            f"{name} differs from float64: the output by {output:.1e}, a gradient by {gradient:.1e}"
        )
    return {"output": output, "gradient": gradient}


def check_step(what: str, errors: dict[str, float]) -> None:
    """Compare distances from float64 of one result of a step, by trainee.

    Raises:
        DisagreementError: the fused one is farther away than rounding explains.
    """
    limit = MARGIN * max(NEGLIGIBLE, *(errors[name] for name in errors if name != "fused"))
    if not errors["fused"] <= limit:
        raise DisagreementError(f"{what}: errors are {errors}, and fused may have {limit:.1e}")
