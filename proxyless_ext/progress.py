"""How far something is: a bar in a terminal, and a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)

SECONDS = 20.0
"""Between two lines."""


class Pace:
    """How fast steps are taken, over about the last minute.

    Args:
        done: steps that were done before.
    """

    def __init__(self, done: int) -> None:
        self.done = done
        self._pictures = 0
        self._waited = 0.0
        self._marks = [(time.monotonic(), done, 0, 0.0)]

    def advance(self, steps: int, pictures: int, waited: float) -> None:
        """Count steps, the pictures they took, and the seconds that these were waited for."""
        self.done += steps
        self._pictures += pictures
        self._waited += waited
        now = time.monotonic()
        if now - self._marks[-1][0] > 1:
            self._marks = [*self._marks[-60:], (now, self.done, self._pictures, self._waited)]

    @property
    def pictures_per_second(self) -> float | None:
        """None where no pictures are counted, or none were yet."""
        started, _, before, _ = self._marks[0]
        return (self._pictures - before) / (time.monotonic() - started) or None

    @property
    def waiting(self) -> float:
        """The part of the time that pictures were waited for, from 0 to 1."""
        started, _, _, before = self._marks[0]
        passed = time.monotonic() - started
        return (self._waited - before) / passed if passed > 0 else 0.0

    @property
    def steps_alone(self) -> float:
        """Pictures per second of the steps, had none been waited for."""
        started, _, pictures, waited = self._marks[0]
        stepping = time.monotonic() - started - (self._waited - waited)
        return (self._pictures - pictures) / stepping if stepping > 0 else 0.0

    def seconds_left(self, total: int) -> float | None:
        """For the rest of `total` steps; None before the first, and at the end."""
        started, before, _, _ = self._marks[0]
        if self.done in (before, total):
            return None
        return (time.monotonic() - started) / (self.done - before) * (total - self.done)


class Bar:
    """One thing that is under way: `advance` it, and let `note` say what is current."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self.label = label
        self.total = total
        self.text = ""
        self.pace = Pace(done)

    def advance(self, steps: int = 1, pictures: int = 0, waited: float = 0.0) -> None:
        """Count steps, the pictures they took, and the seconds that these were waited for."""
        self.pace.advance(steps, pictures, waited)

    def note(self, text: str) -> None:
        """Show `text` beside the figures."""
        self.text = text


class _TerminalBar(Bar):
    """Drawn in place."""

    def __init__(self, label: str, total: int, done: int, progress: Progress) -> None:
        super().__init__(label, total, done)
        self._progress = progress
        self._task = progress.add_task(label, total=total, completed=done, note="")

    def advance(self, steps: int = 1, pictures: int = 0, waited: float = 0.0) -> None:
        super().advance(steps, pictures, waited)
        self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        super().note(text)
        self._progress.update(self._task, note=text)


class _Lines(Bar):
    """Written line by line, for files and pipes."""

    def __init__(self, label: str, total: int, done: int) -> None:
        super().__init__(label, total, done)
        self._written = time.monotonic()
        self._has_lines = False

    def advance(self, steps: int = 1, pictures: int = 0, waited: float = 0.0) -> None:
        super().advance(steps, pictures, waited)
        if time.monotonic() - self._written >= SECONDS:
            self._has_lines = True
            if self.pace.done < self.total:  # Else `end` does, with what is noted by then.
                self._write()

    def end(self) -> None:
        """A last line, if there was to be one before."""
        if self._has_lines:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        pace = self.pace
        line = describe(
            self.label,
            pace.done,
            self.total,
            self.text,
            pace.pictures_per_second,
            pace.seconds_left(self.total),
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def describe(
    label: str,
    done: int,
    total: int,
    text: str,
    pictures_per_second: float | None,
    seconds_left: float | None,
) -> str:
    """search: 300 of 1200, loss 1.234, 512 pictures/s, 1:23 left."""
    parts = [f"{label}: {done} of {total}"]
    if text:
        parts.append(text)
    if pictures_per_second:
        parts.append(f"{pictures_per_second:.0f} pictures/s")
    if seconds_left:
        parts.append(f"{clock(seconds_left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """1:23, or 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress_bar(label: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar over `total` steps, `done` of them done before, with the time left.

    Where no terminal shows it, there is a line about it every 20 seconds, as long as steps are
    taken, and one at the end if there was one before.
    """
    if not console.is_terminal:
        lines = _Lines(label, total, done)
        yield lines
        lines.end()
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _TerminalBar(label, total, done, progress)
