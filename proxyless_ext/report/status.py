"""Where a run stands, in a few lines of text, with the curves so far."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence

from ..progress import describe
from ..quantities import show
from ..runs import Epoch, Position, Run, read_metrics
from ..spaces import read_model
from .results import describe_results
from .words import BEYOND, plural

UNCOMPARED = "networks found, but not yet compared"
"""Of a search whose random networks are yet to be trained."""

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60

_CURVES = (
    "loss",
    "accuracy",
    "val_accuracy",
    "gate_accuracy",
    "derived",
    "entropy",
    "reduced_bytes",
)


_COMPARED = re.compile(r"(random|shortlist)-\d+((?:@.*)?)")
"""Phases that train networks to compare with."""


def describe_status(run: Run) -> Iterator[str]:
    """The lines: who works on the run, where it stands, and what its epochs gave.

    Raises:
        UserError: a file of the run cannot be understood.
    """
    worker = run.worker
    yield f"{run.folder}: {f'{worker} works on it' if worker else _describe_rest(run)}"
    for size, part in run.sizes.items():
        if part.has_begun and not part.has_ended and part.num_records:
            yield f"{size}:"
            yield from _describe_progress(part, worker)
        else:
            yield f"{size}: {_describe_state(part)}"
            if part.has_begun and part.has_ended:
                yield from describe_results(part)
    if run.has_ended and not run.sizes:
        yield from describe_results(run)
    yield from _describe_progress(run, worker)


def _describe_rest(run: Run) -> str:
    """What is left to do of a run that nobody works on."""
    if not run.has_ended:
        return f"stopped; go on with {run.going_on}"
    searches = [each for each in (run, *run.sizes.values()) if each.space_path.exists()]
    if not all(map(_is_compared, searches)):
        return f"{UNCOMPARED}; go on with {run.going_on}"
    if run.report_path.exists():
        return f"finished, with {run.report_path}"
    if searches:
        return f"finished, but for its report; write it with report {shlex.quote(str(run.folder))}"
    return "finished"


def _describe_state(part: Run) -> str:
    """Of a size that nothing is trained for, before, after or at all."""
    if not (part.has_begun and part.has_ended):
        return "waits"
    if not part.networks:
        return BEYOND
    return "finished" if _is_compared(part) else UNCOMPARED


def _is_compared(search: Run) -> bool:
    """Whether nothing is left to do of one that has found its networks, if it has any."""
    return search.beginning.ended or not search.networks


def _describe_progress(run: Run, worker: str | None) -> Iterator[str]:
    """The position of one that is worked on, and the curves."""
    if worker and run.position_path.exists():
        position = read_model(Position, run.position_path)
        yield describe(**position.model_dump(exclude={"time"}))
    records = read_metrics(run.metrics_path)
    compared: dict[str, list[Sequence[Epoch]]] = {}
    for phase in dict.fromkeys(record.phase for record in records):
        own = [record for record in records if record.phase == phase]
        if match := _COMPARED.fullmatch(phase):
            compared.setdefault("".join(match.groups()), []).append(own)
        else:
            yield from _describe_phase(own)
    for kind, trainings in compared.items():
        yield _describe_compared(kind, trainings)


def _describe_phase(records: Sequence[Epoch]) -> Iterator[str]:
    yield f"{records[0].phase}, {plural(len(records), 'epoch')}:"
    for name in _CURVES:
        values = [value for record in records if (value := getattr(record, name, None)) is not None]
        if values:
            last = f"{values[-1]:.4g}"
            if name == "derived":
                last = show(values[-1], getattr(records[-1], "unit", ""))
            yield f"  {name:<14}{sparkline(values)}  {last}"


def _describe_compared(kind: str, trainings: Sequence[Sequence[Epoch]]) -> str:
    """Networks beside the derived one, of which there are many."""
    told = f"{kind}: {plural(len(trainings), 'network')} trained to compare with"
    ends = [getattr(records[-1], "val_accuracy", None) for records in trainings]
    if known := [accuracy for accuracy in ends if accuracy is not None]:
        told = f"{told}, val_accuracy {min(known):.4g} to {max(known):.4g}"
    return told


def sparkline(values: Sequence[float]) -> str:
    """Numbers as a row of bars from the lowest to the highest, in at most 60 columns.

    More numbers than columns are thinned out, the last being kept; those that are not finite leave
    a gap.
    """
    if len(values) > WIDTH:
        places = range(1, WIDTH + 1)
        values = [values[math.ceil(place * len(values) / WIDTH) - 1] for place in places]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values
    )
