"""Records as TensorBoard curves.

TensorBoard's own writer keeps events in a thread, where a kill loses them and a full disk prints a
traceback; records are few, so here each is written at once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from .records import Epoch

_COORDINATES = {"phase", "step", "time"}


class Curves:
    """The curves ``phase/name`` of the numbers in records, in one file of events.

    Args:
        folder: what TensorBoard is pointed at; what was in it is removed.
        records: to begin with.
    """

    def __init__(self, folder: Path, records: Iterable[Epoch]) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.0f}.{os.getpid()}"
        # The second event lets a TensorBoard that is running forget what the folder held before.
        restart = SessionLog(status=SessionLog.START)
        self._write(
            [
                Event(wall_time=now, file_version="brain.Event:2"),
                Event(wall_time=now, step=0, session_log=restart),
                *map(_event, records),
            ]
        )

    def draw(self, record: Epoch) -> None:
        """Add the points of `record`."""
        self._write([_event(record)])

    def _write(self, events: list[Event]) -> None:
        with self._path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def _event(record: Epoch) -> Event:
    points = [
        Summary.Value(tag=f"{record.phase}/{name}", simple_value=value)
        for name, value in record
        if isinstance(value, int | float) and name not in _COORDINATES
    ]
    return Event(wall_time=record.time, step=record.step, summary=Summary(value=points))
