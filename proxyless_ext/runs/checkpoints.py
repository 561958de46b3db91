"""The checkpoints of a phase: written while its steps go on, and the last few kept."""

from __future__ import annotations

import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UserError
from ..files import write_error
from .checkpoint import Snapshot, load_checkpoint


class Checkpoints:
    """Writes the newest checkpoint beside the work that goes on, one at a time.

    Those before it lie in the folder ``older`` until the phase ends, and serve where the newest
    turns out to be damaged. Leaving the context waits for what is being written.

    Args:
        path: of the newest.
        kept: how many there are to be, the newest included.
    """

    def __init__(self, path: Path, kept: int) -> None:
        self.path = path
        self._folder = path.parent / "older"
        names = [f"{path.stem}-{age}{path.suffix}" for age in range(1, kept)]
        self._older = [self._folder / name for name in names]
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.shutdown()

    def read(self) -> Any:
        """The newest state that is whole, with a warning if it is an older one; None without any.

        Raises:
            UserError: there are checkpoints, and all are damaged.
        """
        problem: UserError | None = None
        for path in filter(Path.exists, [self.path, *self._older]):
            try:
                state = load_checkpoint(path)
            except UserError as error:
                problem = problem or error
            else:
                if problem:
                    warnings.warn(
                        f"{self.path} is damaged, so the run goes on from {path.name}", stacklevel=2
                    )
                return state
        if problem:
            raise problem
        return None

    def begin(self, state: Any) -> None:
        """Copy a state and begin to write it, when the one before is written.

        Args:
            state: as of `save_checkpoint`; it may change afterwards.

        Raises:
            UserError: the one before could not be written; this one is begun even so.
        """
        snapshot = Snapshot.of(state)
        try:
            self.finish()
        finally:
            self._written = self._writer.submit(self._write, snapshot)

    def finish(self) -> None:
        """Wait until what was begun is on the disk.

        Raises:
            UserError: it could not be written; the one before is intact.
        """
        written, self._written = self._written, None
        if written:
            written.result()

    def end(self) -> None:
        """`finish`, and remove the older ones, however many were kept when they were written."""
        self.finish()
        if not self._folder.exists():
            return
        of_phase = re.compile(rf"{re.escape(self.path.stem)}-\d+{re.escape(self.path.suffix)}")
        for path in self._folder.iterdir():
            if of_phase.fullmatch(path.name):
                path.unlink()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _write(self, snapshot: Snapshot) -> None:
        if self._older and self.path.exists():
            try:
                self._age()
            except OSError as error:
                raise write_error(self._older[0], error) from error
        snapshot.write(self.path)

    def _age(self) -> None:
        """Make the newest one, which stays where it is, the first of the older ones."""
        first = self._older[0]
        self._folder.mkdir(exist_ok=True)
        for newer, older in reversed([*pairwise(self._older)]):
            if newer.exists():
                newer.replace(older)
        first.unlink(missing_ok=True)
        try:
            first.hardlink_to(self.path)
        except OSError:  # Some file systems have no links.
            shutil.copyfile(self.path, first)
