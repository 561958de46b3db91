"""Writing files so that neither a kill nor a full disk leaves half a file behind."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from glob import escape
from pathlib import Path

from .errors import UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Make `content` (text as UTF-8) the content of `path` in one step.

    At every moment `path` has the old content or the new, whatever kills this process; the new is
    on the disk when this returns. What killed writers of `path` left beside it is removed.

    Raises:
        UserError: it cannot be written; what was there before is intact.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        for stale in path.parent.glob(f".{escape(path.name)}.tmp*"):
            stale.unlink(missing_ok=True)
        try:
            with temporary.open("wb") as file:
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


def write_error(path: str | Path, error: OSError) -> UserError:
    """What to tell the user when `path` cannot be written."""
    if error.errno in _NO_SPACE:
        remedy = (
            "what was there before is intact, so free some disk space and start again (a run with "
            "--resume)"
        )
    else:
        remedy = "choose another place, or make this one writable"
    return UserError(f"cannot write {path}: {error.strerror}; {remedy}")


def _sync_folder(folder: Path) -> None:
    """Let a rename in `folder` survive a power failure, on file systems that can promise it."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # Some network file systems refuse; the rename is whole even so.
        os.fsync(descriptor)
    os.close(descriptor)
