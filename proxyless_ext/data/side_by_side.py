"""Work on many files by several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ..errors import InterruptionError
from ..progress import progress_bar

Work = TypeVar("Work")
Made = TypeVar("Made")


def side_by_side(
    function: Callable[[Work], Made], work: Sequence[Work], processes: int, label: str
) -> Iterator[Made]:
    """`function` of all pieces of work in order, in so many processes, with a progress bar.

    Raises:
        UserError: `function` raises it, or a process is killed.
    """
    with progress_bar(label, len(work)) as bar:
        if processes == 1:
            for each in work:
                yield function(each)
                bar.advance()
            return
        pool = ProcessPoolExecutor(processes, initializer=_ignore_interrupts)
        try:
            for made in pool.map(function, work):
                yield made
                bar.advance()
        except BrokenProcessPool as error:
            raise InterruptionError(
                "a process that works on shards was killed, perhaps for want of memory; lower "
                "--processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
