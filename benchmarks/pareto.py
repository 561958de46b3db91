"""Accuracy against latency over several search runs: a table in Markdown and a figure.

    python -m benchmarks.pareto runs/a runs/b runs/c --figure docs/images/pareto.svg

Each run gives its derived network and, where it trained any, the random networks of the same
latency.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from proxyless_ext.errors import UserError
from proxyless_ext.report import SearchedPoint, draw_pareto
from proxyless_ext.runs import Figures, Result, Run, SearchEpoch, read_metrics
from proxyless_ext.spaces import Architecture, parse_operation


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished searches")
    parser.add_argument("--figure", type=Path, help="where to draw: .svg, .png or .pdf")
    arguments = parser.parse_args()
    points: list[SearchedPoint] = []
    comparisons: list[str] = []
    print("| run | target | argmax | derived | measured | accuracy | parameters | MACs | network |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run in map(Run.open, arguments.runs):
        result = run.outcome.result
        target = f"{result.target:.3f} ms"
        label = "" if any(point.name == target for point in points) else target
        points.append(_point(run, label, result, "searched"))
        rivals = run.outcome.comparison.random
        points += [_point(run, "", rival, "random") for rival in rivals]
        if rivals:
            accuracies = [rival.accuracy or 0.0 for rival in rivals]
            comparisons.append(_against(run, result, accuracies))
        print(_row(run, result))
    print("\n" + "\n".join(comparisons))
    if arguments.figure:
        draw_pareto(points, arguments.figure)


def _point(run: Run, label: str, figures: Figures, group: str) -> SearchedPoint:
    if figures.accuracy is None or figures.measured is None:
        raise UserError(
            f"{run.folder} has a network without accuracy or measured latency, which has no place "
            "in the figure; leave this run out, or search with a latency table of this machine"
        )
    return SearchedPoint(label, figures.accuracy, figures.measured, group)


def _row(run: Run, result: Result) -> str:
    searched = [each for each in read_metrics(run.metrics_path) if isinstance(each, SearchEpoch)]
    blocks = Architecture.load(run.outcome.architecture_path).blocks
    network = " ".join(
        "-" if parse_operation(block.operation).skips else block.operation for block in blocks
    )
    cells = [
        run.folder.name,
        f"{result.target:.4f} ms",
        f"{searched[-1].derived:.4f} ms",
        f"{result.predicted:.4f} ms",
        f"{result.measured:.4f} ms",
        f"{result.accuracy:.2%}",
        f"{result.parameters:,}",
        f"{result.macs:,}",
        f"`{network}`",
    ]
    return f"| {' | '.join(cells)} |"


def _against(run: Run, result: Result, accuracies: list[float]) -> str:
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    return (
        f"{run.folder.name}: {result.accuracy:.2%} against {mean:.2%} ± {deviation:.2%} "
        f"(best {max(accuracies):.2%}) of {len(accuracies)} random networks"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
