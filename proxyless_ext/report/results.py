"""What came out of a run, in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..quantities import COUNTED
from ..runs import Result, Run
from .words import cost, cost_name, describe_limit, deviation


def describe_results(run: Run) -> Iterator[str]:
    """The networks of a run that has found them all.

    Raises:
        UserError: a file of the run cannot be understood.
    """
    results = {name: run.outcome_of(name).result for name in run.networks}
    if "" in results:
        yield from _describe_one(results[""])
    elif results:
        yield from _describe_several(results)


def _describe_one(result: Result) -> Iterator[str]:
    """What is known of it, a line each."""
    unit = result.unit
    if result.accuracy is not None:
        yield f"accuracy:          {result.accuracy:.2%} (top-5 {result.top5:.2%})"
        yield f"parameters:        {result.parameters:,}"
        yield f"MACs:              {result.macs:,}"
    if result.predicted is None:
        return
    aim = f" (target {cost(result.target, unit)})" if result.target is not None else ""
    predicted = f"predicted {cost_name(unit)}:"
    yield f"{predicted:<18} {cost(result.predicted, unit)}{aim}"
    for kept in result.limits:
        yield f"{f'{kept.name}:':<18} {describe_limit(kept)}"
    if unit not in COUNTED:
        yield f"measured latency:  {_measured(result, 'not on this machine')}"


def _describe_several(results: Mapping[str, Result]) -> Iterator[str]:
    """A line each."""
    width = max(map(len, results))
    for name, result in results.items():
        yield (
            f"{name:<{width}}  accuracy {result.accuracy:.2%}, predicted "
            f"{cost(result.predicted, result.unit)} (target {cost(result.target, result.unit)}), "
            f"measured {_measured(result, 'not here')}"
        )


def _measured(result: Result, elsewhere: str) -> str:
    if result.measured is None or result.predicted is None:
        return elsewhere
    apart = deviation(result.measured, result.predicted, "prediction")
    return f"{cost(result.measured, result.unit)} ({apart})"
