"""Pictures that cannot be read, and what to do about them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from .config import BadPicturePolicy


class PictureError(UserError):
    """A picture file cannot be read; `path` names it and `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot read picture {self.path}: {self.reason}; mend the file, or set "
            "data.bad_pictures to 'skip' to leave it out"
        )


@dataclass
class BadPictures:
    """The policy for bad pictures, and which of them were met.

    Readers in other processes only hand on what they met: the policy is applied in the main
    process, where an exception keeps its sentence and a file is warned of once.
    """

    policy: BadPicturePolicy
    limit: int = 0
    met: set[Path] = field(default_factory=set)

    def meet(self, error: PictureError) -> None:
        """Raise `error`, or warn of its file the first time, as the policy says.

        Raises:
            UserError: it is not to be left out, or one too many were.
        """
        if self.policy == "fatal":
            raise error
        if error.path not in self.met:
            self.met.add(error.path)
            if len(self.met) > self.limit:
                raise UserError(
                    f"{len(self.met)} pictures cannot be read, at last {error.path}: "
                    f"{error.reason}; mend them, of which `proxyless data check` has a list, or "
                    "raise data.bad_limit"
                )
            warnings.warn(f"left out picture {error.path}: {error.reason}", stacklevel=2)
