"""The kernels of `_C`, on NumPy arrays, called as the operators are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import proxyless_ext.ops  # noqa: F401, loads torch.ops.proxyless
from proxyless_ext import _C

native = torch.ops.proxyless

Array = NDArray[np.floating]

PICTURES = ("x", "grad", "y", "p", "dx")


def array_of(name: str, tensor: Tensor) -> Array:
    """A tensor as the entry points take it."""
    values = tensor.detach()
    dense = values.permute(0, 2, 3, 1) if name in PICTURES and values.dim() == 4 else values
    return dense.contiguous().numpy()


class OnArrays:
    """The operators, by the kernels of `_C`.

    Args:
        isa: the instruction set.
        threads: how many.
        lay_out: moves x and grad to where kernels are to read them.
    """

    def __init__(
        self, isa: str, threads: int = 1, lay_out: Callable[[Array], Array] = lambda array: array
    ) -> None:
        self.options: dict[str, Any] = {"isa": isa, "threads": threads}
        self.lay_out = lay_out

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        return partial(self._run, operator)

    def _run(self, operator: str, *values: Any) -> Any:
        schema = getattr(native, operator).default._schema
        given = {a.name: v for a, v in zip(schema.arguments, values, strict=False)}
        arguments = {
            name: array_of(name, value) if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        for name in {"x", "grad"} & set(arguments):
            arguments[name] = self.lay_out(arguments[name])
        found = getattr(_C, operator)(**arguments, **self.options)
        if isinstance(found, float):
            return torch.tensor(found, dtype=given["scale"].dtype)
        if not isinstance(found, tuple):
            return self._tensor("y" if found.ndim == 4 else "moments", found, given["x"])
        names = [result.name for result in schema.returns]
        return [self._tensor(*each, given["x"]) for each in zip(names, found, strict=True)]

    @staticmethod
    def _tensor(name: str, array: Array | None, x: Tensor) -> Tensor:
        if array is None:
            return x.new_empty(0, dtype=torch.float64 if name == "moments" else x.dtype)
        tensor = torch.from_numpy(array)
        return tensor.permute(0, 3, 1, 2) if name in PICTURES else tensor
