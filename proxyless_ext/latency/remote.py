"""How a device is reached that is not this process's: by a command or a plug-in, with patience."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

from pydantic import Field, model_validator

from ..errors import UserError
from ..spaces import StrictModel
from .readout import Readout

REMOTE_REPETITIONS = 3
"""Of what a remote device measures: most of their programs repeat by themselves."""

NotNegative = Annotated[float, Field(ge=0)]


class Remote(StrictModel):
    """The way to a device, and how much patience it gets.

    Attributes:
        command: that measures one ONNX file, with ``{onnx}`` where its path is to stand and
            perhaps ``{threads}`` and ``{batch}``; None for a plug-in. It is split into words as a
            shell would, and run without one: nothing in it is expanded, so that what is recorded is
            what ran. Whoever needs a shell says so: ``sh -c '...'``.
        readout: where the number stands in what it prints.
        timeout_s: after which a command is ended.
        retries: of a run that fails, and runs more of what spreads too much.
        max_spread: largest distance of the runs that count, the lower half of them, as a fraction
            of the smallest.
        pause_s: before every run, for the device to cool.
    """

    command: str | None = None
    readout: Readout = Readout()
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0)] = 2
    max_spread: NotNegative = 0.1
    pause_s: NotNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> Remote:
        if self.command is None:
            return self
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UserError(
                f"command '{self.command}' cannot be split into words ({error}); correct its quotes"
            ) from error
        if not any("{onnx}" in word for word in words):
            raise UserError(
                f"command '{self.command}' does not say where the network goes; write {{onnx}} "
                "where the path of its ONNX file is to stand"
            )
        return self

    @property
    def what(self) -> str:
        """What measures."""
        return "the plug-in" if self.command is None else f"the command '{self.command}'"

    @property
    def takes_threads(self) -> bool:
        """Whether it is told how many threads there are to be."""
        return self.command is None or "{threads}" in self.command

    def words(self, **values: str) -> list[str]:
        """The command's words, with values in place of the names between braces that they have."""

        def value(match: re.Match[str]) -> str:
            return values.get(match[1], match[0])

        return [re.sub(r"\{(\w+)\}", value, word) for word in shlex.split(self.command or "")]
