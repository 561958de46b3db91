"""From any network to one with MixedOps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from ..errors import UserError
from .mixed_op import MixedOp

Model = TypeVar("Model", bound=nn.Module)
Rule = Callable[[str, nn.Module], Iterable[nn.Module] | None]


def wrap(model: Model, rule: Rule) -> Model:
    """A copy of a network in which a rule puts MixedOps in the place of modules.

    ```python
    from torch import nn
    from torchvision.models import resnet18
    from torchvision.models.resnet import BasicBlock
    from proxyless_ext import wrap


    def rule(name, module):
        if isinstance(module, BasicBlock):
            return [module, nn.Identity()] if module.downsample is None else None


    supernet = wrap(resnet18(), rule)
    ```

    The network is left as it is; a candidate that is a module of it is copied, weights included.

    Args:
        model: any network.
        rule: is asked of every module, by its dotted name, and gives the candidates that are to
            stand in its place, or None. What lies within a replaced module is not asked of.

    Raises:
        UserError: the rule replaces nothing, or the network itself, or gives anything but a list of
            modules.
    """
    copies: dict[int, Any] = {}
    replaced: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{other}.") for other in replaced):
            continue
        if (candidates := rule(name, module)) is None:
            continue
        if not name:
            raise UserError("the rule replaces the whole model; let it give None for that")
        if isinstance(candidates, nn.Module) or not isinstance(candidates, Iterable):
            raise UserError(
                f"the rule gives one {type(candidates).__name__} for '{name}'; give a list of "
                "candidates, or None"
            )
        replaced.append(name)
        # What deepcopy finds in its memo it takes for the copy.
        copies[id(module)] = MixedOp([copy.deepcopy(candidate) for candidate in candidates])
    if not replaced:
        raise UserError("the rule gives candidates for no module of the model; correct it")
    return copy.deepcopy(model, copies)
