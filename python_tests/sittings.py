"""Sittings of tiny runs in processes of their own, where signals and full disks can reach them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_ext import cli
from proxyless_ext.runs import Epoch, Run
from proxyless_ext.search.short_list import ShortList
from proxyless_ext.training import networks
from proxyless_ext.training.phase import Phase
from proxyless_ext.training.weight_phase import WeightPhase

# Processes are forked from a server that has imported everything.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["proxyless_ext.cli", "proxyless_ext.search", "proxyless_ext.runs.curves", "torch._dynamo"]
)


@dataclass(frozen=True)
class Blow:
    """A signal that a sitting gets.

    Attributes:
        phase: in which it comes.
        step: of the phase, from whose beginning time is counted.
        delay: in seconds; None for the moment between a record and its checkpoint.
        number: of the signal.
    """

    phase: str
    step: int = 0
    delay: float | None = None
    number: int = signal.SIGKILL


def sit(run: Run, blow: Blow | None = None, file_limit: int | None = None) -> tuple[int, str]:
    """Go on with a run, as `proxyless search --resume` or `proxyless specialise --resume` does.

    Args:
        run: to go on with; its ONNX file is left out, which takes longer than all the rest.
        blow: what ends the sitting.
        file_limit: bytes that a file can have before the disk counts as full.

    Returns:
        The exit code, negative for a signal, and what was written to stderr.
    """
    errors = run.folder.with_name("stderr.txt")
    process = _context.Process(target=_sitting, args=(run.folder, errors, blow, file_limit))
    process.start()
    process.join(timeout=120)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(errors.read_text())
    return process.exitcode, errors.read_text()


def _sitting(folder: Path, errors: Path, blow: Blow | None, file_limit: int | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # For workers, as it is by default.
    os.setpgrp()  # Ctrl-C goes to the whole group, workers included.
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    networks.export_onnx = lambda *_: 0.0  # type: ignore[assignment]
    if file_limit is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, hard))
    if blow:
        _prepare(blow)
    command = "search" if Run(folder).networks == {"": ""} else "specialise"
    sys.argv = ["proxyless", command, "--resume", str(folder)]
    cli.main()


def _prepare(blow: Blow) -> None:
    log, due = Run.log, threading.Event()

    def timed(step: Callable[..., None]) -> Callable[..., None]:
        def timed_step(self: Phase, number: int, *args: Any) -> None:
            if self.name == blow.phase and number >= blow.step and not due.is_set():
                due.set()
                threading.Timer(blow.delay or 0.0, _strike, [blow.number]).start()
            step(self, number, *args)

        return timed_step

    def deadly_log(self: Run, record: Epoch) -> None:
        log(self, record)
        if record.phase == blow.phase:
            _strike(blow.number)

    if blow.delay is None:
        Run.log = deadly_log  # type: ignore[method-assign]
    else:
        WeightPhase.step = timed(WeightPhase.step)  # type: ignore[method-assign]
        ShortList.step = timed(ShortList.step)  # type: ignore[method-assign]


def _strike(number: int) -> None:
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    os.killpg(os.getpgrp(), number)
