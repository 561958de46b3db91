"""The chart of what a search takes on ever more devices."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..report.colours import BLUE, ORANGE
from ..report.plot import add_legend, new_figure, styled
from .cluster import Estimate


@styled
def draw_estimates(estimates: Sequence[Estimate]) -> Figure:
    """Hours until the end, and hours of all devices together, over the number of devices."""
    figure = new_figure(420, 300)
    axes = figure.subplots()
    devices = [each.devices for each in estimates]
    for values, colour, label in (
        ([each.total / 3600 for each in estimates], BLUE, "until the end"),
        ([each.device_hours for each in estimates], ORANGE, "of all devices together"),
    ):
        axes.plot(devices, values, color=colour, marker="o", markersize=4, label=label)
    axes.set(title="Hours", xlabel="devices", xscale="log", yscale="log")
    axes.set_xticks(devices, labels=list(map(str, devices)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    add_legend(axes, columns=2)
    return figure
