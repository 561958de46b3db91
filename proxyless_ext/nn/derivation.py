"""From a model with MixedOps to one without."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from ..errors import UserError
from .mixed_op import MixedOp
from .sliced import SlicedConv2d

Model = TypeVar("Model", bound=nn.Module)


def derive(model: Model, choices: Sequence[int]) -> Model:
    """A copy of a model in which every MixedOp is replaced by its chosen candidate.

    The model is left as it is, and the candidates that were not chosen are not copied. A candidate
    that shares weights has a copy of its slices. A MixedOp that stands in several places is one
    module in all of them, as before.

    Args:
        model: with MixedOps.
        choices: a candidate index for each, in the order of `Edges`.

    Raises:
        UserError: there is not one valid choice for every MixedOp.
    """
    mixed_ops = [module for module in model.modules() if isinstance(module, MixedOp)]
    counts = [len(mixed.candidates) for mixed in mixed_ops]
    if len(choices) != len(counts) or not all(
        0 <= choice < count for choice, count in zip(choices, counts, strict=True)
    ):
        raise UserError(
            f"choices {list(choices)} do not pick one candidate of each MixedOp, which have "
            f"{counts} of them"
        )
    copies: dict[int, Any] = {}
    for mixed, choice in zip(mixed_ops, choices, strict=True):
        chosen = mixed.candidates[choice]
        for module in chosen.modules():
            if isinstance(module, SlicedConv2d):
                copies[id(module)] = module.standalone()
        # What deepcopy finds in its memo it takes for the copy.
        copies[id(mixed)] = copy.deepcopy(chosen, copies)
    return copy.deepcopy(model, copies)
