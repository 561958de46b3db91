"""What the ranks of torch.distributed have in common, where there are several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from .errors import UserError

Made = TypeVar("Made")


def are_several() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def mean(values: Tensor, *common: Tensor) -> Tensor:
    """The mean of `values` over the ranks; the values themselves where this process is alone.

    Args:
        values: of any shape, the same on all ranks.
        common: on the same device: paths and alphas that the values are of, which must be the same
            on all ranks up to rounding.

    Raises:
        UserError: they are not.
    """
    if not are_several():
        return values
    dtype = torch.promote_types(values.dtype, torch.float32)
    own = torch.cat([each.detach().flatten().to(dtype) for each in common])
    both = torch.cat([values.flatten().to(dtype), own]) / distributed.get_world_size()
    distributed.all_reduce(both)
    averaged, theirs = both.split([values.numel(), own.numel()])
    if not torch.allclose(theirs, own, rtol=1e-3, atol=1e-5):
        raise UserError(
            "the ranks of torch.distributed have drawn different paths or have different alphas; "
            "give all of them generators of one seed, the same alphas and the same costs"
        )
    return averaged.view_as(values).to(values.dtype)


def of_first(make: Callable[[], Made]) -> Made:
    """What the first rank makes, on all ranks; the others do not call `make`.

    Raises:
        UserError: on all of them, if `make` does.
    """
    if not are_several():
        return make()
    made: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            made = [make()]
        except UserError as error:
            made = [error]
    distributed.broadcast_object_list(made)
    result: Made | UserError = made[0]
    if isinstance(result, UserError):
        raise result
    return result
