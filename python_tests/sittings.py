"""Sittings of tiny runs in processes of their own, where signals and full disks can reach them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rank_processes import context, environments, run_together

from proxyless_ext import cli
from proxyless_ext.runs import Epoch, Run
from proxyless_ext.search.short_list import ShortList
from proxyless_ext.training import networks
from proxyless_ext.training.phase import Phase
from proxyless_ext.training.weight_phase import WeightPhase


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
    process = context.Process(target=_sitting, args=({}, run.folder, errors, blow, file_limit))
    (code,) = run_together([process])
    return code, errors.read_text()


def sit_on_ranks(run: Run, blows: Sequence[Blow | None] = (None, None)) -> list[tuple[int, str]]:
    """The same on as many ranks as there are `blows`, of which each gets its own.

    It is an error if another than the first writes to the folder.
    """
    errors = [run.folder.with_name(f"stderr-{rank}.txt") for rank in range(len(blows))]
    processes = [
        context.Process(target=_sitting, args=(environment, run.folder, path, blow, None))
        for environment, path, blow in zip(environments(len(blows)), errors, blows, strict=True)
    ]
    codes = run_together(processes)
    return [(code, path.read_text()) for code, path in zip(codes, errors, strict=True)]


def _sitting(
    environment: dict[str, str],
    folder: Path,
    errors: Path,
    blow: Blow | None,
    file_limit: int | None,
) -> None:
    os.environ.update(environment)
    if os.environ.get("RANK", "0") != "0":
        sys.addaudithook(partial(_refuse_to_write, str(folder)))
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


def _refuse_to_write(folder: str, event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: nothing is written below a folder."""
    if event == "open":
        path, _, flags = args
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    else:
        path = args[0] if args else None
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate", "os.rmdir")
    if writes and str(path).startswith(folder):
        raise AssertionError(f"{event} of {path}")


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
