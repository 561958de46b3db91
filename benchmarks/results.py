"""What a benchmark leaves behind: bars that are met or missed, tables and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Bar:
    """A measured ratio, and how large it must be (`at_least`) or may be (`at_most`).

    Attributes:
        aim: what would be better still.
    """

    measure: str
    value: float
    kind: Literal["at_least", "at_most"]
    bar: float
    aim: float

    @property
    def is_met(self) -> bool:
        return self.value >= self.bar if self.kind == "at_least" else self.value <= self.bar

    def cells(self) -> list[str]:
        """Its row of `bars_table`."""
        sign = ">=" if self.kind == "at_least" else "<="
        limits = [f"{sign} {limit:.3g}" for limit in (self.bar, self.aim)]
        return [self.measure, *limits, f"{self.value:.3g}", "yes" if self.is_met else "NO"]


def bars_table(bars: Sequence[Bar]) -> str:
    """All bars in Markdown."""
    return table(["measure", "bar", "aim", "measured", "met"], [bar.cells() for bar in bars])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def with_spread(time: dict[str, float] | None) -> str:
    """A `Timing` in milliseconds: the median ± half the distance of the quartiles."""
    if time is None:
        return ""
    return f"{1e3 * time['median']:.4g} ± {500 * (time['high'] - time['low']):.2g}"


def write(folder: Path, name: str, results: dict[str, Any], bars: Sequence[Bar], text: str) -> None:
    """Write `results` and `bars` as JSON and `text` as Markdown; print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = [{**asdict(bar), "is_met": bar.is_met} for bar in bars]
    (folder / f"{name}.json").write_text(json.dumps({**results, "bars": judged}, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def conditions_line(conditions: dict[str, Any]) -> str:
    """Where the numbers below it come from, as one line."""
    load = conditions["load_average"][0]
    commit, _, dirty = (conditions["commit"] or "unknown").partition("-")
    return (
        f"{conditions['cpu']}, {conditions['threads']} threads, {conditions['isa']} kernels, "
        f"torch {conditions['torch']}, commit {commit[:12]}{' and changes' if dirty else ''}, "
        f"load average {load:.2f} at the start."
    )


def gpu_line(conditions: dict[str, Any]) -> str:
    """The same of a GPU."""
    return f"{conditions['gpu']}, CUDA {conditions['cuda']}; host: {conditions_line(conditions)}"
