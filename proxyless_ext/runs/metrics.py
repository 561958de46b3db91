"""The records of a run, as lines of JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..errors import UserError
from ..files import write_error
from .records import Epoch, epoch_record

if TYPE_CHECKING:
    from .curves import Curves


class Metrics:
    """Records that survive any kill, and can go back to what a checkpoint knew.

    The lines of JSON are what counts. TensorBoard's curves are a view of them, drawn anew by the
    first record of every process: then they lack nothing, and hold nothing that `rewind` dropped.

    Args:
        path: of the lines; the file exists.
        curves: TensorBoard's folder.
    """

    def __init__(self, path: Path, curves: Path) -> None:
        self.path = path
        self._folder = curves
        self._curves: Curves | None = None

    def __len__(self) -> int:
        return len(_complete_lines(self.path))

    def append(self, record: Epoch) -> None:
        """See `Run.log`."""
        line = json.dumps(record.model_dump()).encode() + b"\n"
        try:
            if self._curves is None:
                self._curves = self._draw()
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._curves.draw(record)
        except OSError as error:
            raise write_error(self.path, error) from error

    def rewind(self, length: int) -> None:
        """See `Run.rewind`."""
        lines = _complete_lines(self.path)
        if len(lines) < length:
            raise UserError(
                f"{self.path} holds {len(lines)} records, but a checkpoint of its run was saved "
                f"after {length}; restore the file, or start a new run"
            )
        os.truncate(self.path, sum(len(line) for line in lines[:length]))
        self._curves = None

    def _draw(self) -> Curves:
        """The curves of all records so far, after dropping what a kill left of a line."""
        from .curves import Curves  # Here, because it takes long to import.

        self.rewind(len(self))
        return Curves(self._folder, read_metrics(self.path))


def read_metrics(path: str | Path) -> list[Epoch]:
    """All records of a ``metrics.jsonl``, but for half a line that a kill may have left at its end.

    Raises:
        UserError: the file cannot be read, or a line is no record.
    """
    records = []
    for number, line in enumerate(_complete_lines(Path(path)), start=1):
        try:
            records.append(epoch_record(json.loads(line)))
        except (ValueError, AttributeError, ValidationError) as error:
            sentence = f"line {number} of {path} is no record; remove it or restore the file"
            raise UserError(sentence) from error
    return records


def _complete_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; restore the file") from error
    return [line for line in lines if line.endswith(b"\n")]
