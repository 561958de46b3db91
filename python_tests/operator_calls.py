"""Which of our operators PyTorch runs, and with what."""

from __future__ import annotations

from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorCalls(TorchDispatchMode):
    """Within it, every call of an operator of ours is noted.

    Attributes:
        made: name and arguments by name, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.made]

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "proxyless":
            arguments = func._schema.arguments
            defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
            given = dict(zip((a.name for a in arguments), args, strict=False))
            self.made.append((func._opname, {**defaults, **given}))
        return func(*args, **(kwargs or {}))
