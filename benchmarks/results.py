"""What a benchmark leaves behind: bars that are met or missed, text and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from proxyless_ext.bench.text import table


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


def write(folder: Path, name: str, results: dict[str, Any], bars: Sequence[Bar], text: str) -> None:
    """Write `results` and `bars` as JSON and `text` as Markdown; print the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = [{**asdict(bar), "is_met": bar.is_met} for bar in bars]
    (folder / f"{name}.json").write_text(json.dumps({**results, "bars": judged}, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)
