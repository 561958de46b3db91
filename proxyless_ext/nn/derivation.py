"""From a model with MixedOps to one without."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from ..errors import UserError
from .mixed_op import group_by_alpha
from .sliced import SlicedConv2d

Model = TypeVar("Model", bound=nn.Module)


def derive(model: Model, choices: Sequence[int]) -> Model:
    """A copy of a model in which every MixedOp is replaced by its chosen candidate.

    The model is left as it is, and the candidates that were not chosen are not copied. A candidate
    that shares weights has a copy of its slices. A MixedOp that stands in several places is one
    module in all of them, as before.

    Args:
        model: with MixedOps.
        choices: a candidate index for each edge of `Edges`.

    Raises:
        UserError: there is not one valid choice for every edge.
    """
    groups = group_by_alpha(model)
    counts = [len(group[0].candidates) for group in groups]
    if len(choices) != len(counts) or not all(
        0 <= choice < count for choice, count in zip(choices, counts, strict=True)
    ):
        raise UserError(
            f"choices {list(choices)} do not pick one candidate of each MixedOp, or of those that "
            f"share an alpha, which have {counts} of them"
        )
    copies: dict[int, Any] = {}
    taken = (
        (mixed, mixed.candidates[choice])
        for group, choice in zip(groups, choices, strict=True)
        for mixed in group
    )
    for mixed, chosen in taken:
        for module in chosen.modules():
            if isinstance(module, SlicedConv2d):
                copies[id(module)] = module.standalone()
        # What deepcopy finds in its memo it takes for the copy.
        copies[id(mixed)] = copy.deepcopy(chosen, copies)
    return copy.deepcopy(model, copies)
