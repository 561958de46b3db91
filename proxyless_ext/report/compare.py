"""Charts that compare networks across runs, written to files for the command line and for docs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..latency import Check, Fit, NetworkRow
from .colours import BLUE, GREY, INK, LINE, MUTED, ORANGE
from .plot import add_legend, new_figure, save, styled
from .words import cost, count, percent


@dataclass(frozen=True)
class SearchedPoint:
    """A trained network; networks of one `group` (such as searched, random) are drawn alike.

    Its cost is a latency, or whatever else it is to be seen against.
    """

    name: str
    accuracy: float
    cost: float
    group: str


@styled
def draw_comparison(rows: Sequence[NetworkRow], path: Path) -> Path:
    """A bar for the latency of each network, with its standard deviation and the network's size.

    Raises:
        UserError: `path` does not end in .svg, .png or .pdf, or cannot be written.
    """
    figure = new_figure(720, 70 + 34 * len(rows))
    axes = figure.subplots()
    positions = range(len(rows))
    latencies = [row.latency.mean for row in rows]
    deviations = [math.sqrt(row.latency.var) for row in rows]
    whiskers = {"ecolor": MUTED, "elinewidth": 1, "capsize": 3}
    bars = axes.barh(
        positions, latencies, xerr=deviations, height=0.7, color=BLUE, error_kw=whiskers, zorder=2
    )
    axes.bar_label(bars, [_describe(row) for row in rows], padding=6, color=INK, size=9)
    axes.set_yticks(positions, [row.name for row in rows], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="latency, ms", ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlim(0, 1.75 * max(latencies, default=1))  # Room for the text behind the longest bar.
    return save(figure, path)


@styled
def draw_pareto(points: Sequence[SearchedPoint], path: Path) -> Path:
    """Accuracy against latency, with the front of those that no other network beats in both.

    Args:
        points: trained networks; accuracies are fractions, costs latencies in ms.
        path: ends in .svg, .png or .pdf.

    Raises:
        UserError: `path` ends otherwise, or cannot be written.
    """
    figure = new_figure(640, 420)
    axes = figure.subplots()
    front = pareto_front(points)
    if front:
        costs = [point.cost for point in front]
        accuracies = [100 * point.accuracy for point in front]
        axes.step(costs, accuracies, where="post", color=LINE, label="Pareto front")
    for group, (colour, marker) in zip(_groups(points), _GROUP_STYLES * len(points), strict=False):
        members = [point for point in points if point.group == group]
        costs = [point.cost for point in members]
        accuracies = [100 * point.accuracy for point in members]
        axes.plot(costs, accuracies, marker, color=colour, label=group)
    for point in points:
        text: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "size": 9,
            "color": MUTED,
        }
        axes.annotate(point.name, (point.cost, 100 * point.accuracy), (0, 7), **text)
    axes.margins(0.12)
    axes.set(title="Accuracy, %", xlabel="latency, ms")
    add_legend(axes, columns=4)
    return save(figure, path)


@styled
def draw_prediction(check: Check, path: Path) -> Path:
    """Measured against predicted latencies of whole networks, with the line of equality ± 10 %.

    Args:
        check: of a latency table.
        path: ends in .svg, .png or .pdf.

    Raises:
        UserError: `path` ends otherwise, or cannot be written.
    """
    predicted, measured = check.rescaled.tolist(), check.measured.tolist()
    figure = new_figure(480, 500)
    axes = figure.subplots()
    reach = [0, 1.08 * max(*predicted, *measured)]
    low, high = ([factor * value for value in reach] for factor in (0.9, 1.1))
    axes.fill_between(reach, low, high, color=LINE, alpha=0.5, linewidth=0, label="± 10 %")
    axes.plot(reach, reach, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="equal")
    axes.plot(predicted, measured, "o", color=ORANGE, alpha=0.75, label="networks")
    axes.set(xlabel=f"predicted, times the slowdown of {check.slowdown:.3f}, ms")
    axes.set(ylabel="measured, ms", xlim=reach, ylim=reach, aspect="equal")
    axes.set_title(f"R² {check.r2:.3f}, median error {percent(check.median_error)}")
    add_legend(axes, columns=3)
    return save(figure, path)


@styled
def draw_fit(fit: Fit, unit: str, path: Path) -> Path:
    """How the error falls with the number of networks, and what is predicted of those held out.

    Args:
        fit: of a table to whole networks.
        unit: of what was measured.
        path: ends in .svg, .png or .pdf.

    Raises:
        UserError: `path` ends otherwise, or cannot be written.
    """
    figure = new_figure(720, 350)
    by_number, held_out = figure.subplots(1, 2)
    errors = [100 * error for error in fit.by_number.values()]
    by_number.plot(list(fit.by_number), errors, "o-", color=ORANGE)
    by_number.set(title="Median error of networks held out, %", xlabel="networks measured")
    by_number.set_ylim(0, 1.15 * max(errors))
    predicted, measured = fit.held_out.predicted.tolist(), fit.held_out.measured.tolist()
    reach = [0.95 * min(*predicted, *measured), 1.05 * max(*predicted, *measured)]
    held_out.plot(reach, reach, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    held_out.plot(predicted, measured, "o", color=ORANGE, alpha=0.75)
    held_out.set(title=f"Measured, {unit}", xlabel=f"predicted without it, {unit}")
    held_out.set(xlim=reach, ylim=reach)
    return save(figure, path)


def pareto_front(points: Sequence[SearchedPoint]) -> list[SearchedPoint]:
    """Those that no other network beats in both accuracy and cost, by rising cost."""
    by_cost = sorted(points, key=lambda point: (point.cost, -point.accuracy))
    best = accumulate((point.accuracy for point in by_cost), max, initial=float("-inf"))
    return [point for point, before in zip(by_cost, best, strict=False) if point.accuracy > before]


def _describe(row: NetworkRow) -> str:
    size = f"{count(row.parameters)} parameters, {count(row.macs)} MACs"
    return f"{cost(row.latency.mean, 'ms')}   {size}"


def _groups(points: Sequence[SearchedPoint]) -> list[str]:
    """Each group once, in the order of the points."""
    return list(dict.fromkeys(point.group for point in points))


_GROUP_STYLES = [(ORANGE, "o"), (GREY, "s"), (BLUE, "D")]
