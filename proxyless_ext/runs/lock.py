"""A lock that one process holds on a run folder, and that nothing but the process keeps."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from pathlib import Path

from ..errors import UserError
from ..files import write_error

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderLock:
    """The lock on a folder, held from `take` on until the process ends or lets it go.

    It is a record lock of the operating system: neither a kill nor a power cut leaves it behind,
    and processes that were forked, such as those that read pictures, do not hold it.

    Args:
        path: of the file that is locked; it says who holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock; nothing happens if this object has it.

        Raises:
            UserError: another process has it, or the file cannot be written.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise write_error(self._path, error) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                owner = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise UserError(
                    f"{self._path.parent} is in the hands of {owner}; wait until it has ended, or "
                    "stop it"
                ) from error
            warnings.warn(
                f"{self._path.parent} lies on a file system without locks: see to it that no other "
                "process works on it",
                stacklevel=2,
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._descriptor = descriptor

    def let_go(self) -> None:
        """Give the lock up, if this object has it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(path: Path) -> str | None:
    """Who holds the lock on the folder of the file `path` now, from another process's view."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return os.read(descriptor, 1000).decode(errors="replace")
    except OSError:  # A file system without locks.
        return None
    else:
        return None
    finally:
        os.close(descriptor)
