"""Operations of one's own: a function that makes a module, and a name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import UserError
from .operations import Look, Operation
from .registry import register

Build = TypeVar("Build", bound=Callable[..., Any])
Fits = Callable[[int, int, int], bool]


@dataclass(frozen=True)
class CustomOperation(Operation):
    """An operation that `operation` registered.

    Attributes:
        full_name: with its parameters.
        parameters: by name.
        build: makes the module of (in_channels, out_channels, stride, **parameters).
        where: which (in_channels, out_channels, stride) it can have.
        colour: ``#rrggbb``, if one was given.
    """

    full_name: str
    parameters: dict[str, int] = field(compare=False)
    build: Callable[..., Any] = field(compare=False)
    where: Fits = field(compare=False)
    colour: str | None = None

    @property
    def name(self) -> str:
        return self.full_name

    @property
    def look(self) -> Look:
        return Look(self.name, (self.name,), colour=self.colour)

    def fits(self, in_channels: int, out_channels: int, stride: int) -> bool:
        return self.where(in_channels, out_channels, stride)


def operation(
    name: str, *, fits: Fits | None = None, colour: str | None = None
) -> Callable[[Build], Build]:
    """Register a function that makes modules as an operation, which then takes part in everything.

    ```python
    from torch import nn
    from proxyless_ext import operation


    @operation("dilated{rate}")
    def dilated(in_channels, out_channels, stride, rate):
        return nn.Conv2d(in_channels, out_channels, 3, stride, padding=rate, dilation=rate)
    ```

    Spaces call it ``dilated2``, ``dilated3`` and so on.

    Args:
        name: letters, digits and underscores; whole numbers stand in the place of ``{parameters}``.
        fits: which (in_channels, out_channels, stride) it can have; all without it.
        colour: ``#rrggbb``, in which it is drawn; one that its name gives without it.

    Returns:
        The decorator. What it decorates is called with in_channels, out_channels, stride and the
        parameters, and makes an nn.Module from [N, in_channels, H, W] to [N, out_channels,
        ceil(H / stride), ceil(W / stride)].

    Raises:
        UserError: the name or the colour cannot be one, or an operation has this name.
    """
    pattern = re.sub(r"\\{([A-Za-z_]\w*)\\}", r"(?P<\1>[0-9]+)", re.escape(name))
    if not re.fullmatch(r"[A-Za-z]\w*", re.sub(r"\{\w+\}", "0", name)):
        raise UserError(
            f"'{name}' cannot name an operation; write letters, digits and underscores, and "
            "parameters as in 'ghost{ratio}'"
        )
    if colour is not None and not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise UserError(f"colour '{colour}' of operation '{name}' is none; write it as #0a6ab0")

    def decorate(build: Build) -> Build:
        register(
            pattern,
            lambda match: CustomOperation(
                full_name=match[0],
                parameters={key: int(value) for key, value in match.groupdict().items()},
                build=build,
                where=fits or (lambda *_: True),
                colour=colour,
            ),
        )
        return build

    return decorate
