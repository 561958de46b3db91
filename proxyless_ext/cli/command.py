"""How every command ends: with its result, or with one sentence and a non-zero exit."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from .. import progress, ranks
from ..errors import InterruptionError, UserError
from .app import on_rank
from .restarting import restartable

P = ParamSpec("P")
R = TypeVar("R")

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def command(
    app: typer.Typer, name: str | None = None, resumable: bool = False, on_ranks: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as a command of `app` whose errors are sentences.

    Args:
        app: of the command line.
        name: of the command, if it is not the function's.
        resumable: whether it has ``--out`` and ``--resume``, so that what was stopped can go on; it
            gets ``--auto-resume``, too.
        on_ranks: whether it runs on several ranks of torch.distributed, of which the first speaks.
    """
    again = "then go on with --resume" if resumable else "then start again"

    def register(function: Callable[P, R]) -> Callable[P, R]:
        if resumable:
            function = restartable(function)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                if not on_ranks:
                    _check_alone()
                with ranks.group(), _only_first_speaks():
                    return function(*args, **kwargs)
            except InterruptionError as error:
                raise _failure(f"{error}; {again}") from error
            except UserError as error:
                raise _failure(str(error)) from error
            except KeyboardInterrupt:
                sentence = "stopped"
                if resumable:
                    sentence += "; if a run folder was named, go on with --resume and that folder"
                raise _failure(sentence, 130) from None
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    sentence = "the disk is full; free some space, then start again"
                    if resumable:
                        sentence += ", or go on with --resume if the run folder has a config.yaml"
                elif error.filename:
                    sentence = f"cannot use {error.filename}: {error.strerror}; check this path"
                else:
                    raise
                raise _failure(sentence) from error

        return app.command(name)(guarded)

    return register


def _check_alone() -> None:
    _, world = ranks.launched()
    if world > 1:
        raise UserError(
            f"this command is one process, and it was started as one of {world}; start it without "
            "torchrun"
        )


@contextmanager
def _only_first_speaks() -> Iterator[None]:
    consoles = (console, progress.console)
    for each in consoles:
        each.quiet = not ranks.is_first()
    try:
        yield
    finally:
        for each in consoles:
            each.quiet = False


def _failure(sentence: str, code: int = 1) -> typer.Exit:
    _errors.print(f"[bold red]error{on_rank()}:[/] {escape(sentence)}")
    return typer.Exit(code)
