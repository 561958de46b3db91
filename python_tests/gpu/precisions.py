"""In what GPUs compute, and how far from float64 that may take results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """What tensors are stored and multiplied in.

    Attributes:
        name: for people.
        dtype: of the tensors.
        factors: the type whose spacing the factors of products have.
        tolerance: what rounding may do where a block does not amplify it.
    """

    name: str
    dtype: torch.dtype
    factors: torch.dtype
    tolerance: float

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def multiplying(self) -> Iterator[None]:
        """Within it, convolutions and our operators take TF32 for float32 in this precision only.

        TF32 has the spacing of float16.
        """
        conv = torch.backends.cudnn.conv
        before = conv.fp32_precision
        conv.fp32_precision = "tf32" if self is TF32 else "ieee"
        try:
            yield
        finally:
            conv.fp32_precision = before


FLOAT32 = Precision("float32", torch.float32, torch.float32, 5e-5)
TF32 = Precision("tf32", torch.float32, torch.float16, 3e-2)
FLOAT16 = Precision("float16", torch.float16, torch.float16, 3e-2)
BFLOAT16 = Precision("bfloat16", torch.bfloat16, torch.bfloat16, 2e-1)
PRECISIONS = [FLOAT32, TF32, FLOAT16, BFLOAT16]
