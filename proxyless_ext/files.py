"""Writing files so that neither a kill nor a full disk leaves half a file behind."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import DiskFullError, UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.part")


def write_atomically(path: str | Path, content: str | bytes | memoryview) -> None:
    """Make `content` (text as UTF-8) the content of `path` in one step.

    At every moment `path` has the old content or the new, whatever kills this process or writes
    `path` beside it; the new is on the disk when this returns.

    Raises:
        UserError: it cannot be written; what was there before is intact.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(path, error) from error
    _sync_folder(path.parent)


def check_writable(path: str | Path) -> None:
    """Find out before the work whether `path` can be written after it.

    Raises:
        UserError: it cannot, as `write_atomically` would say it.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: Path) -> Path:
    """Make a folder, and those it lies in, where there is none; it is returned.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder that nobody else writes to now."""
    for path in folder.glob(".*.part"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_error(path: str | Path, error: OSError) -> UserError:
    """What to tell the user when `path` cannot be written."""
    problem = f"cannot write {path}: {error.strerror}"
    if error.errno in _NO_SPACE:
        remedy = "what was there before is intact, so free some disk space"
        return DiskFullError(f"{problem}; {remedy}")
    return UserError(f"{problem}; choose another place, or make this one writable")


def _sync_folder(folder: Path) -> None:
    """Let a rename in `folder` survive a power failure, on file systems that can promise it."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # Some network file systems refuse; the rename is whole even so.
        os.fsync(descriptor)
    os.close(descriptor)
