"""Figures as tables, which are Markdown and lie in columns in a terminal, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .records import COMPARED, Results
from .timing import Timing


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and the others are numbers."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [header, rule, *rows]))


def with_spread(time: Timing | None) -> str:
    """Milliseconds: the median ± half the distance of the quartiles."""
    if time is None:
        return ""
    return f"{1e3 * time.median:.4g} ± {500 * (time.high - time.low):.2g}"


def describe(results: Results) -> str:
    """The results of `proxyless bench` as one table, below where they come from."""
    settings, steps = results.settings, results.steps
    rows = [
        _time_row(f"{block.operation} {block.name}, ms", block.seconds) for block in results.blocks
    ]
    rows += [_time_row(f"{name} step, ms", steps.seconds[name]) for name in ("weight", "gate")]
    rows.append(_memory_row("saved by a weight step, MB", steps.saved_bytes))
    rows += [
        _memory_row(f"peak of a {name} step, MB", by_peer)
        for name, by_peer in steps.peak_bytes.items()
    ]
    ratios = [f"{rival} / fused" for rival in COMPARED[1:]]
    return (
        f"{results.conditions.describe()}\n"
        f"Batches of {settings.batch}; blocks: forward and backward by channels, input size and "
        f"stride; steps: of the ImageNet supernet at {settings.resolution} px; medians of "
        f"{settings.rounds} rounds, of steps at most {settings.step_rounds}, ± half the distance "
        "of the quartiles."
        f"\n\n{table(['', *COMPARED, *ratios], rows)}"
    )


def _time_row(what: str, seconds: Mapping[str, Timing]) -> list[str]:
    cells = [with_spread(seconds[name]) for name in COMPARED]
    return [what, *cells, *_ratios({name: time.median for name, time in seconds.items()})]


def _memory_row(what: str, sizes: Mapping[str, int]) -> list[str]:
    cells = [f"{sizes[name] / 1e6:.4g}" if name in sizes else "" for name in COMPARED]
    return [what, *cells, *_ratios(sizes)]


def _ratios(values: Mapping[str, float]) -> list[str]:
    return [
        f"{values[rival] / values['fused']:.2f}" if rival in values else ""
        for rival in COMPARED[1:]
    ]
