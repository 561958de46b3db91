"""What was measured, kept as soon as it was: nothing is measured twice, whatever stops it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..files import write_error

HASH_BYTES = 8


class Journal:
    """Measurements, one a line of JSON, in a file that only grows, and that one process writes.

    Args:
        path: of the file; it is made with the first measurement.
        settings: that everything is measured under from now on. Measurements under others stay in
            the file, and do not count.

    Raises:
        UserError: the file is something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        text = json.dumps(settings, sort_keys=True)
        self._under = hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()
        self._settings = settings
        self._values: dict[str, list[float]] = {}
        self._is_known = False
        """Whether the file says what the settings are."""
        self._file: IO[bytes] | None = None
        self._length, self._whole = self._read()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Let other processes write."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def count(self) -> int:
        """How many measurements under these settings there are."""
        return sum(map(len, self._values.values()))

    def values(self, what: str) -> tuple[float, ...]:
        """All measurements of a thing under these settings, oldest first."""
        return tuple(self._values.get(what, ()))

    def add(self, what: str, value: float) -> None:
        """Keep a measurement; it is on the disk when this returns.

        Raises:
            UserError: it cannot be written, or another process writes there.
        """
        lines = [{"under": self._under, "what": what, "value": value}]
        if not self._is_known:
            lines.insert(0, {"under": self._under, "settings": self._settings})
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._length = self._whole = self._file.tell()
        except OSError as error:
            raise write_error(self.path, error) from error
        self._is_known = True
        self._values.setdefault(what, []).append(value)

    def _open(self) -> IO[bytes]:
        """The file, for this process alone until it ends, without what a kill left of a line."""
        file = self.path.open("ab")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = False
        except OSError as error:
            is_taken = error.errno in (errno.EACCES, errno.EAGAIN)  # Else there are no locks here.
        if is_taken or os.fstat(file.fileno()).st_size != self._length:
            file.close()
            raise UserError(
                f"another process writes to {self.path}; wait until it has ended and give the same "
                "command again, or choose another place"
            )
        file.truncate(self._whole)
        return file

    def _read(self) -> tuple[int, int]:
        """Take all lines; the length of the file in bytes, and that of its whole lines."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        whole = [line for line in lines if line.endswith(b"\n")]
        for number, line in enumerate(whole, start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"line {number} of {self.path} is no measurement; remove it, or move the file "
                    "away to measure anew"
                ) from error
        return sum(map(len, lines)), sum(map(len, whole))

    def _take(self, line: dict[str, Any]) -> None:
        if line["under"] != self._under:
            return
        if "settings" in line:
            self._is_known = True
            return
        what, value = line["what"], line["value"]
        if not isinstance(what, str) or not math.isfinite(value) or value <= 0:
            raise ValueError(line)
        self._values.setdefault(what, []).append(value)
