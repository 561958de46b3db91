"""The charts of one run, each as SVG for its page.

Charts over epochs take the records of metrics.jsonl and draw what they hold: a single record as
points, and a figure that no record has not at all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..runs import Comparison, Competitor, Epoch, SearchEpoch
from ..spaces import EdgeGroup, Layer
from .colours import (
    BLUE,
    FIXED,
    GREEN,
    GREY,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PURPLE,
    operation_colour,
)
from .compare import SearchedPoint, pareto_front
from .parts import parts
from .plot import add_legend, new_figure, styled, to_svg
from .words import cost_name, layer_name, shapes, three_digits


@styled
def learning_curves(records: Sequence[Epoch], phase: str, lines: Sequence[tuple[str, str]]) -> str:
    """Accuracy above loss over the epochs of a phase.

    Args:
        records: of the phase.
        phase: its name.
        lines: pairs of a prefix of the figures' names (such as ``val_``) and what it stands for.
    """
    figure = new_figure(370, 330)
    accuracy, loss = figure.subplots(2, 1, sharex=True)
    for (prefix, label), colour in zip(lines, (BLUE, ORANGE), strict=True):
        _plot(accuracy, records, f"{prefix}accuracy", colour, label, scale=100)
        _plot(loss, records, f"{prefix}loss", colour, label)
    accuracy.set(title="Accuracy, %", ylim=(0, 100))
    loss.set(title="Loss")
    _over_epochs(accuracy, loss)
    return to_svg(figure, f"Accuracy and loss over the epochs of {phase}", f"{phase}-")


@styled
def cost_over_search(records: Sequence[SearchEpoch], tolerance: float) -> str:
    """Expected and derived cost against the target, and below them its weight.

    Args:
        records: of the search.
        tolerance: how near to the target the derived network should come, as a fraction of it.
    """
    figure = new_figure(400, 320)
    cost, weight = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    targets = _series(records, "target")
    if targets:
        target = targets[-1][1]
        low, high = (1 - tolerance) * target, (1 + tolerance) * target
        label = f"target ± {100 * tolerance:.3g} %"
        cost.axhspan(low, high, color=LINE, alpha=0.5, linewidth=0, label=label)
        cost.axhline(target, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    _plot(cost, records, "expected", BLUE, "expected over all paths")
    _plot(cost, records, "derived", ORANGE, "most probable")
    _plot(weight, records, "trade_off", MUTED, None)
    unit = records[-1].unit
    cost.set(title=f"Predicted {cost_name(unit)}, {unit}")
    weight.set(title="Trade-off λ")
    _over_epochs(cost, weight)
    return to_svg(figure, f"Predicted {cost_name(unit)} and trade-off over the search", "cost-")


@styled
def edge_probabilities(rows: Sequence[Sequence[float]], group: EdgeGroup, label: str) -> str:
    """The probabilities of an edge's candidates over the search, the first candidate lowest.

    Args:
        rows: probabilities of the candidates at the end of every epoch [epochs, N].
        group: the edge, or several that share one choice.
        label: says which.
    """
    if len(rows) == 1:
        rows = [*rows, *rows]  # An area needs some width.
    figure = new_figure(150, 92)
    figure.set_layout_engine("none")  # Nothing stands around these axes.
    axes = figure.add_axes((0, 0, 1, 1))
    colours = [operation_colour(name) for name in group.candidates]
    columns = list(zip(*rows, strict=True))
    axes.stackplot(range(len(rows)), columns, colors=colours, edgecolor="white", linewidth=0.5)
    axes.set(xlim=(0, len(rows) - 1), ylim=(0, 1))
    axes.axis("off")
    ending = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(group.candidates, rows[-1], strict=True)
    )
    title = f"Edge {label}, probabilities at the end: {ending}"
    return to_svg(figure, title, f"edge-{group.indices[0] + 1}-")


@styled
def layer_costs(layers: Sequence[Layer], costs: Sequence[float], unit: str) -> str:
    """A bar for what each layer of a network costs, or each block with the edges inside it."""
    of_each = iter(costs)
    drawn = parts(layers)
    costs = [sum(islice(of_each, 1 + len(part.inside))) for part in drawn]
    layers = [part.layer for part in drawn]
    figure = new_figure(400, 50 + 15 * len(layers))
    axes = figure.subplots()
    colours = [
        operation_colour(layer.operation) if layer.kind == "block" else FIXED for layer in layers
    ]
    bars = axes.barh(range(len(layers)), costs, height=0.76, color=colours, zorder=2)
    labels = [three_digits(value) for value in costs]
    axes.bar_label(bars, labels, padding=4, size=9, color=MUTED)
    axes.set_yticks(
        range(len(layers)), [f"{layer_name(layer)}   {shapes(layer)}" for layer in layers], size=9
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    name = cost_name(unit).capitalize()
    axes.set(title=f"{name}, {unit}", ylim=(len(layers) - 0.4, -0.6))
    axes.set_xlim(0, 1.1 * max(*costs, 1e-9))
    return to_svg(figure, f"{name} of each layer of the derived network", "layers-")


@styled
def accuracy_against_cost(derived: Competitor, comparison: Comparison) -> str:
    """The derived network among others of its space and yardsticks.

    Latencies are the measured ones, or costs the predicted ones where nothing was measured. Random
    networks come with mean and standard deviation; a yardstick without an accuracy is a line at its
    latency.
    """
    kind = "predicted" if derived.measured is None else "measured"
    name = f"{kind} {cost_name(derived.unit)}"
    figure = new_figure(400, 320)
    axes = figure.subplots()
    points = [point for network in comparison.short_list if (point := _point(network, kind))]
    if points:
        axes.plot(*zip(*points, strict=True), "o", color=ORANGE, alpha=0.5, label="short list")
    points = [point for network in comparison.random if (point := _point(network, kind))]
    if points:
        costs, accuracies = zip(*points, strict=True)
        axes.plot(costs, accuracies, "o", color=GREY, alpha=0.6, label="random networks")
    if len(points) > 1:
        axes.errorbar(
            statistics.mean(costs),
            statistics.mean(accuracies),
            xerr=statistics.stdev(costs),
            yerr=statistics.stdev(accuracies),
            color=GREY,
            capsize=3,
            label="their mean ± deviation",
        )
    for yardstick in comparison.yardsticks:
        draw_yardstick(axes, yardstick)
    if point := _point(derived, kind):
        style: dict[str, Any] = {"markersize": 16, "markeredgecolor": "white"}
        axes.plot(*point, "*", color=ORANGE, label="derived network", **style)
    axes.margins(0.15)
    axes.set(title="Accuracy, %", xlabel=f"{name}, {derived.unit}")
    add_legend(axes, columns=3)
    return to_svg(figure, f"Accuracy against {name}", "comparison-")


@styled
def front(
    device: str,
    unit: str,
    groups: Mapping[str, Sequence[SearchedPoint]],
    yardsticks: Sequence[Competitor],
) -> str:
    """Accuracy against cost on a device, with the front of those that no other beats in both.

    Args:
        device: its name.
        unit: of the costs.
        groups: trained networks by what they are; the first group is labelled.
        yardsticks: published networks, with or without an accuracy; lines lie too close for names.
    """
    figure = new_figure(400, 330)
    axes = figure.subplots()
    _draw_front(axes, [point for points in groups.values() for point in points])
    looks = (("o", ORANGE, 1.0), ("D", BLUE, 0.8), ("o", GREY, 0.6))
    for (label, points), (marker, colour, alpha) in zip(groups.items(), looks, strict=True):
        if points:  # The first lies on top, since a network may be for several devices.
            look: dict[str, Any] = {"alpha": alpha, "zorder": 2 + alpha}
            axes.plot(*_places(points), marker, color=colour, label=label, **look)
    first, *_ = groups.values()
    _name_points(axes, first)
    for yardstick in yardsticks:
        draw_yardstick(axes, yardstick, is_line_named=False)
    axes.margins(0.18)
    axes.set(title="Accuracy, %", xlabel=f"{cost_name(unit)} on {device}, {unit}")
    add_legend(axes, columns=2)
    return to_svg(figure, f"Accuracy against {cost_name(unit)} on {device}", f"front-{device}-")


@styled
def sizes(device: str, unit: str, points: Sequence[SearchedPoint]) -> str:
    """Accuracy against cost on a device of networks of several sizes, with their front.

    Args:
        device: its name.
        unit: of costs.
        points: trained networks, called as their targets and grouped by their sizes.
    """
    figure = new_figure(460, 360)
    axes = figure.subplots()
    _draw_front(axes, points)
    for index, size in enumerate(dict.fromkeys(point.group for point in points)):
        members = [point for point in points if point.group == size]
        marker, colour = _MARKERS[index % len(_MARKERS)], _COLOURS[index % len(_COLOURS)]
        axes.plot(*_places(members), marker, color=colour, label=size)
    _name_points(axes, points)
    axes.margins(0.18)
    axes.set(title="Accuracy, %", xlabel=f"{cost_name(unit)} on {device}, {unit}")
    add_legend(axes, columns=3)
    return to_svg(figure, f"Accuracy against {cost_name(unit)} on {device}", f"sizes-{device}-")


_MARKERS, _COLOURS = "oDs^v", (ORANGE, BLUE, GREEN, PURPLE)
"""Of sizes in turn; 20 pairs are different."""


def _draw_front(axes: Axes, points: Sequence[SearchedPoint]) -> None:
    """Those that no other beats in both accuracy and cost, as a line."""
    axes.step(*_places(pareto_front(points)), where="post", color=LINE, label="front")


def _places(points: Sequence[SearchedPoint]) -> tuple[list[float], list[float]]:
    """Costs, and accuracies in %."""
    return [point.cost for point in points], [100 * point.accuracy for point in points]


def _name_points(axes: Axes, points: Sequence[SearchedPoint]) -> None:
    for point in points:
        place = (point.cost, 100 * point.accuracy)
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "size": 9}
        axes.annotate(point.name, place, (0, 7), **text)


def draw_yardstick(axes: Axes, yardstick: Competitor, is_line_named: bool = True) -> None:
    """A point at its latency and accuracy, or a line at its latency where that is all there is."""
    text: dict[str, Any] = {"textcoords": "offset points", "size": 9}
    if point := _point(yardstick):
        axes.plot(*point, "s", color=BLUE)
        axes.annotate(yardstick.name, point, (0, 7), ha="center", **text)
    elif yardstick.measured is not None:
        axes.axvline(yardstick.measured, color=BLUE, linewidth=1, linestyle=(0, (2, 2)))
        if not is_line_named:
            return
        top: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "rotation": 90,
            "ha": "right",
            "va": "top",
        }
        axes.annotate(yardstick.name, (yardstick.measured, 1), (-3, -3), **top, **text)


def _point(network: Competitor, kind: str = "measured") -> tuple[float, float] | None:
    """Measured or predicted cost and accuracy in %, where both are known."""
    cost: float | None = getattr(network, kind)
    if cost is None or network.accuracy is None:
        return None
    return cost, 100 * network.accuracy


def _plot(
    axes: Axes,
    records: Sequence[Epoch],
    key: str,
    colour: str,
    label: str | None,
    scale: float = 1,
) -> None:
    points = _series(records, key)
    marker = "o" if len(points) == 1 else None
    epochs = [epoch for epoch, _ in points]
    values = [scale * value for _, value in points]
    axes.plot(epochs, values, color=colour, marker=marker, label=label if points else None)


def _series(records: Sequence[Epoch], key: str) -> list[tuple[int, float]]:
    """Epoch, counted from 1, and value of the records that have a finite one."""
    values = ((record.epoch + 1, getattr(record, key, None)) for record in records)
    return [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]


def _over_epochs(upper: Axes, lower: Axes) -> None:
    """Finish two panels that share an axis of epochs: whole numbers, and one legend below."""
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(upper, columns=3)
