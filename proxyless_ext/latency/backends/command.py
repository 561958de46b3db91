"""Any device that a command can measure on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn

from ...errors import UserError
from ..conditions import Conditions
from .base import Run
from .onnx import to_onnx


class Command:
    """Writes the module as ONNX, and runs the command of the conditions on it.

    Raises:
        UserError: there is no such program.
    """

    def __init__(self, conditions: Conditions) -> None:
        if conditions.remote is None or conditions.remote.command is None:
            raise UserError("backend 'command' needs a command; give one")
        self.remote = conditions.remote
        self.counts = {"threads": str(conditions.threads), "batch": str(conditions.batch_size)}
        program = self.remote.words()[0]
        if shutil.which(program) is None:
            raise UserError(
                f"there is no program '{program}'; install it, or correct the command "
                f"'{self.remote.command}'"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="proxyless-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.written = 0

    def build(self, module: nn.Module, example: Tensor) -> Run:
        self.written += 1
        onnx = self.folder / f"{self.written}.onnx"
        onnx.write_bytes(to_onnx(module, example))
        return lambda: self.remote.readout.read(self._run(onnx))

    def _run(self, onnx: Path) -> str:
        """What the command prints about an ONNX file."""
        words = self.remote.words(onnx=str(onnx), **self.counts)
        # Files, since a pipe stays open as long as anything that the command leaves behind.
        printed, complained = onnx.with_name("stdout"), onnx.with_name("stderr")
        with printed.open("wb") as stdout, complained.open("wb") as stderr:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,  # So that what asks for a password fails.
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"cannot be started: {error.strerror}") from error
            try:
                status = process.wait(self.remote.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise UserError(f"did not end within {self.remote.timeout_s:g} s") from error
            finally:
                _end(process)
        if status != 0:
            said = (_text(complained).strip() or _text(printed).strip()).splitlines()
            last = said[-1] if said else "it said nothing"
            raise UserError(f"failed with exit status {status}: {last}")
        return _text(printed)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that runs on, with all that it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
