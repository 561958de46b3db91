"""The processes that read pictures: whose signals they obey, and what can happen to them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils.data import get_worker_info

from ..errors import InterruptionError

KILLED = "a process that reads pictures was killed, perhaps for want of memory; lower data.workers"


class WorkerError(InterruptionError):
    """Processes that read pictures were killed, or have no room for what they read."""


def share(tensor: Tensor) -> Tensor:
    """A tensor as a worker hands it on; outside a worker, the tensor itself.

    Left to the loader, this would happen in a thread of the worker whose errors reach nobody, so
    that the main process would wait for ever.

    Raises:
        WorkerError: shared memory is full.
    """
    if get_worker_info() is None:
        return tensor
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        raise WorkerError(
            "the processes that read pictures have no room in shared memory (/dev/shm) for their "
            "batches; set data.workers to 0, or enlarge it (as by docker's --shm-size)"
        ) from error


@contextmanager
def worker_failures() -> Iterator[None]:
    """Within it, the death of a worker is a sentence, wherever torch's signal handler raises it.

    Raises:
        WorkerError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerError(KILLED) from error


@contextmanager
def handover_failures() -> Iterator[None]:
    """Within it, a batch that a dying worker did not hand over whole is a sentence.

    The loader looks which worker died only where the system has told of its death already.

    Raises:
        WorkerError: a connection to a worker broke.
    """
    try:
        yield
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        raise WorkerError(KILLED) from error


def leave_stops_to_main_process(worker: int) -> None:
    """In a worker: signals to its group end nothing, since the main process may want more batches.

    A SIGTERM of the main process itself does: so it ends the workers that it has still at its exit,
    and waits for them.
    """

    def end_with_main_process() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process:
            pass
        os._exit(0)

    main_process = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_with_main_process, daemon=True).start()
