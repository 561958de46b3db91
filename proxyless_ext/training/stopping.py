"""Ctrl-C and SIGTERM as requests: a step is finished, and a wait is not."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from ..data import WorkerError

SAME_SECONDS = 0.5
"""Within which another signal is the same: launchers pass on what the whole group was sent."""

T = TypeVar("T")


class Interrupted(BaseException):
    """A wait was ended by a request to stop; no code that meets damaged files catches this."""


class Stop:
    """Whether a stop was requested."""

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False

    def take(self, items: Iterator[T]) -> T:
        """The next item, which may have to be waited for.

        Raises:
            Interrupted: a stop was requested while waiting.
        """
        self._waiting = True
        try:
            return next(items)
        except WorkerError:
            if self.requested:  # By a signal to the whole group, which has ended workers, too.
                raise Interrupted from None
            raise
        finally:
            self._waiting = False

    def request(self) -> None:
        """Ask for a stop: after the current step, or at once if one only waits."""
        self.requested = True
        if self._waiting:
            raise Interrupted


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request; later ones do what they did before."""
    stop = Stop()
    asked = 0.0

    def request(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = time.monotonic()
        for number in signals:
            signal.signal(number, repeat)
        stop.request()

    def repeat(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - asked > SAME_SECONDS:
            restore()
            signal.raise_signal(signum)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, request) for number in signals}
    try:
        yield stop
    finally:
        restore()
