"""The chart of what a search takes on ever more devices."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..report.colours import BLUE, ORANGE
from ..report.plot import add_legend, new_figure, styled
from .cluster import Estimate


@styled
def draw_estimates(estimates: Sequence[Estimate], name: str, price: float | None = None) -> Figure:
    """Hours until the end, and hours of all devices together, over the number of devices.

    Args:
        estimates: of one search.
        name: of what is searched.
        price: of a device for an hour, for a second scale.
    """
    figure = new_figure(560, 340)
    axes = figure.subplots()
    devices = [each.devices for each in estimates]
    for values, colour, label, offset in (
        ([each.device_hours for each in estimates], ORANGE, "of all devices together", 7),
        ([each.total / 3600 for each in estimates], BLUE, "until a trained network", -15),
    ):
        axes.plot(devices, values, color=colour, marker="o", markersize=4, label=label)
        for point in zip(devices, values, strict=True):
            axes.annotate(
                f"{point[1]:,.3g}" if point[1] < 1000 else f"{point[1]:,.0f}",
                point,
                xytext=(0, offset),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=8.5,
            )
    axes.set(title=f"A search of {name}", xlabel="devices", xscale="log", yscale="log")
    axes.set_ylabel("hours")
    axes.margins(y=0.15)
    axes.set_xticks(devices, labels=list(map(str, devices)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    if price:
        scales = partial(operator.mul, price), partial(operator.mul, 1 / price)
        costs = axes.secondary_yaxis("right", functions=scales)
        costs.set_ylabel(f"cost of all devices, at {price:g} an hour")
        costs.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        costs.minorticks_off()
    axes.minorticks_off()
    add_legend(axes, columns=2)
    return figure
