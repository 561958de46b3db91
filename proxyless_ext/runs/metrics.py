"""The records of a run: lines of JSON, and TensorBoard curves drawn from them."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_error

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COORDINATES = {"phase", "step", "time"}


class Metrics:
    """Records that survive any kill, and can go back to what a checkpoint knew.

    The lines of JSON are what counts. TensorBoard's files are a view of them, drawn anew by the first
    `append` of every process: so they lack nothing that a kill kept from being written, and hold nothing that
    `rewind` dropped.

    Args:
        path: the JSON lines.
        curves: TensorBoard's folder.
    """

    def __init__(self, path: Path, curves: Path) -> None:
        self.path = path
        self.curves = curves
        self._writer: SummaryWriter | None = None

    def __len__(self) -> int:
        return len(_complete_lines(self.path))

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it is on the disk when this returns. See `Run.log`."""
        record = {**record, "time": time.time()}
        line = json.dumps(record).encode() + b"\n"
        try:
            if self._writer is None:
                self._writer = self._start()
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            _draw(self._writer, record)
        except OSError as error:
            raise write_error(self.path, error) from error

    def rewind(self, length: int) -> None:
        """Drop all records after the first `length`. See `Run.rewind`."""
        lines = _complete_lines(self.path)
        if len(lines) < length:
            raise UserError(
                f"{self.path} holds {len(lines)} records, but its run's checkpoint was saved after "
                f"{length}; restore the file, or start a new run"
            )
        self.close()
        if lines:
            os.truncate(self.path, sum(len(line) for line in lines[:length]))

    def close(self) -> None:
        """Write what TensorBoard has not yet written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _start(self) -> SummaryWriter:
        """Drop what a kill left of a line, and draw the records so far."""
        from torch.utils.tensorboard import SummaryWriter  # Here, for its import takes long.

        self.rewind(len(self))
        if self.curves.exists():
            shutil.rmtree(self.curves)
        # The purge lets a TensorBoard that is watching forget the removed files.
        writer = SummaryWriter(self.curves, purge_step=0, flush_secs=10)
        for record in read_metrics(self.path):
            _draw(writer, record)
        return writer


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records of a ``metrics.jsonl``, without the half line that a kill may have left at its end.

    Raises:
        UserError: the file cannot be read, or a line is no record.
    """
    records = []
    for number, line in enumerate(_complete_lines(Path(path)), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"line {number} of {path} is no record; remove it or restore the file")
        records.append(record)
    return records


def _complete_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; restore the file") from error
    return [line for line in lines if line.endswith(b"\n")]


def _draw(writer: SummaryWriter, record: dict[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, int | float) and name not in _COORDINATES:
            tag = f"{record['phase']}/{name}"
            writer.add_scalar(tag, value, record["step"], walltime=record["time"])
