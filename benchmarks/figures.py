"""The figures of the benchmarks, from their results.

    python -m benchmarks.figures build/bench

draws again what the folder's JSON files hold, as SVG.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from proxyless_ext.bench.blocks import RIVALS
from proxyless_ext.report.colours import BLUE, GREY, INK, LINE, MUTED, ORANGE
from proxyless_ext.report.plot import add_legend, new_figure, save, styled

GREEN = "#1b7f4d"
# Colour, marker and name of every peer: shapes tell apart what colours do not.
LOOKS = {
    "fused": (BLUE, "o", "fused"),
    "compiled": (GREEN, "D", "torch.compile, channels-last"),
    "channels_last": (ORANGE, "^", "PyTorch, channels-last"),
    "plain": (GREY, "s", "PyTorch, contiguous"),
    "checkpointed": (GREEN, "D", "PyTorch, checkpointed"),
}
STEPS = {
    "weight": "weight step",
    "recompute": "gate step,\nall candidates",
    "two_path": "gate step,\ntwo paths",
    "full": "gate step,\nall graphs",
}
# What a peer moves through memory at least. torch.compile is somewhere between.
TRAFFIC = {"fused": "least_bytes", "channels_last": "layered_bytes", "plain": "layered_bytes"}


@styled
def draw_times(results: dict[str, Any], path: Path) -> None:
    """Milliseconds of every edge by peer, and its floor; early edges above."""
    edges, peers = results["edges"], _drawn(results["settings"]["peers"])
    figure = new_figure(740, 110 + 29 * len(edges))
    axes = figure.subplots()
    rows = range(len(edges))
    floors = [1e3 * edge["floor"] for edge in edges]
    times = {name: [1e3 * edge["seconds"][name]["median"] for edge in edges] for name in peers}
    ends = list(zip(floors, *times.values(), strict=True))
    axes.hlines(rows, list(map(min, ends)), list(map(max, ends)), LINE, linewidth=3, zorder=1)
    axes.scatter(floors, rows, marker="|", s=190, linewidth=2, color=INK, zorder=2, label="floor")
    for order, name in enumerate(peers):
        colour, marker, label = LOOKS[name]
        over = 3 - 0.1 * order
        axes.scatter(times[name], rows, s=38, marker=marker, color=colour, zorder=over, label=label)
    axes.set_yticks(rows, [_shapes(edge) for edge in edges], color=INK)
    axes.set_ylim(len(edges) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _use_log_scale(axes, "x")
    axes.set_xlabel("milliseconds")
    if rivals := [name for name in RIVALS if name in peers]:
        _write_speedups(axes, times, rivals)
    settings = results["settings"]
    axes.set_title(
        f"Forward and backward of an MBConv {settings['operation']}, batch {settings['batch']}"
    )
    add_legend(axes, columns=3)
    save(figure, path)


def _write_speedups(axes: Axes, times: dict[str, list[float]], rivals: list[str]) -> None:
    """How many times faster the fused block is than the fastest rival, beside each row."""
    at_right = axes.get_yaxis_transform()
    axes.text(1.09, 1.015, "best rival / fused", ha="right", color=MUTED, transform=axes.transAxes)
    for row, fused in enumerate(times["fused"]):
        ratio = min(times[name][row] for name in rivals) / fused
        axes.text(1.09, row, f"{ratio:.2f}x", ha="right", va="center", transform=at_right)


@styled
def draw_roofline(results: dict[str, Any], path: Path) -> None:
    """GFLOP/s against flops per byte of memory traffic, under the measured roofs.

    A fused block moves its input and output; layers also move every tensor between them.
    """
    edges = results["edges"]
    figure = new_figure(740, 450)
    axes = figure.subplots()
    reached: list[float] = []
    for name in _drawn(results["settings"]["peers"]):
        if name in TRAFFIC:
            intensities = [edge["flops"] / edge[TRAFFIC[name]] for edge in edges]
            rates = [edge["flops"] / edge["seconds"][name]["median"] / 1e9 for edge in edges]
            sizes = [edge["in_size"] for edge in edges]
            _draw_points(axes, name, list(zip(intensities, rates, strict=True)), sizes)
            reached += intensities
    _use_log_scale(axes, "x")
    _use_log_scale(axes, "y")
    _draw_roofs(axes, results["roofs"], reached)
    axes.set_title("GFLOP/s of forward and backward; numbers are the input's height and width")
    axes.set_xlabel("flops per byte of memory traffic")
    add_legend(axes, columns=3)
    save(figure, path)


def _draw_points(
    axes: Axes, name: str, points: list[tuple[float, float]], sizes: list[int]
) -> None:
    """The points of one peer; the first of each size says so."""
    colour, marker, label = LOOKS[name]
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, s=44, marker=marker, color=colour, zorder=3, label=label)
    for index, (size, point) in enumerate(zip(sizes, points, strict=True)):
        if size not in sizes[:index]:
            _write(axes, str(size), point, (6, -5), va="top", color=colour, fontsize=8.5)


def _draw_roofs(axes: Axes, roofs: dict[str, float], reached: list[float]) -> None:
    """The roofs over the whole width of the figure, which shows the intensities `reached`."""
    peak, bandwidth = roofs["flops_per_second"] / 1e9, roofs["bytes_per_second"] / 1e9
    ridge = peak / bandwidth
    left, right = min(*reached, ridge) / 3, 1.7 * max(*reached, ridge)
    corners = [left, ridge, right]
    axes.plot(corners, [left * bandwidth, peak, peak], color=INK, linewidth=1.4, zorder=2)
    axes.set_xlim(left, right)
    middle = (ridge * right) ** 0.5
    _write(axes, f"matrix product: {peak:.0f} GFLOP/s", (middle, peak), (0, 5), ha="center")
    low = 1.3 * left
    _write(axes, f"copy: {bandwidth:.0f} GB/s", (low, low * bandwidth), (10, -3))


def _write(
    axes: Axes, words: str, point: tuple[float, float], offset: tuple[float, float], **look: Any
) -> None:
    axes.annotate(words, point, offset, textcoords="offset points", **look)


@styled
def draw_steps(results: dict[str, Any], path: Path) -> None:
    """Times and memory of whole steps by peer, as bars."""
    seconds = {
        step: {name: time["median"] for name, time in by_name.items()}
        for step, by_name in results["seconds"].items()
    }
    megabytes = {
        what: {name: size / 1e6 for name, size in by_name.items()}
        for what, by_name in {
            "saved for\nbackward": results["saved_bytes"],
            "peak of a\nweight step": results["peak_bytes"]["weight"],
            "peak of a\ngate step": results["peak_bytes"]["gate"],
        }.items()
    }
    figure = new_figure(740, 110 + 75 * max(len(seconds), len(megabytes)))
    times, memory = figure.subplots(1, 2)
    _draw_bars(times, {STEPS[step]: by_name for step, by_name in seconds.items()}, "%.2f")
    _draw_bars(memory, megabytes, "%.0f")
    times.set_title("Seconds")
    memory.set_title("Memory, MB")
    add_legend(times, columns=4)
    save(figure, path)


def _draw_bars(axes: Axes, groups: dict[str, dict[str, float]], numbers: str) -> None:
    """For each of `groups` a horizontal bar for each peer in it, its value as `numbers` says."""
    thickness = 0.19
    for name in _drawn([name for by_name in groups.values() for name in by_name]):
        places, lengths = [], []
        for row, by_name in enumerate(groups.values()):
            if name in by_name:
                names = _drawn(list(by_name))
                places.append(row + thickness * (names.index(name) - (len(names) - 1) / 2))
                lengths.append(by_name[name])
        colour, _, label = LOOKS[name]
        bars = axes.barh(places, lengths, 0.85 * thickness, color=colour, label=label, zorder=2)
        axes.bar_label(bars, fmt=numbers, padding=3, fontsize=8.5, color=INK)
    axes.set_yticks(range(len(groups)), list(groups), color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _drawn(names: list[str]) -> list[str]:
    return [name for name in LOOKS if name in names]


def _shapes(edge: dict[str, Any]) -> str:
    """Such as ``24 to 40, 56 x 56, stride 2``."""
    stride = ", stride 2" if edge["stride"] == 2 else ""
    count = f" ({len(edge['edges'])} edges)" if len(edge["edges"]) > 1 else ""
    size = edge["in_size"]
    return f"{edge['in_channels']} to {edge['out_channels']}, {size} x {size}{stride}{count}"


def _use_log_scale(axes: Axes, axis: str) -> None:
    """A logarithmic scale with the numbers 1, 2, 5, 10, ... written out."""
    axes.set(**{f"{axis}scale": "log"})
    scale = axes.xaxis if axis == "x" else axes.yaxis
    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scale.set_minor_formatter(NullFormatter())


# What each file of results is drawn as.
FIGURES: dict[str, dict[str, Callable[[dict[str, Any], Path], None]]] = {
    "mbconv": {"mbconv_times": draw_times, "mbconv_roofline": draw_roofline},
    "supernet_step": {"supernet_step": draw_steps},
    "supernet_step_cifar_tree": {"supernet_step_cifar_tree": draw_steps},
}


def draw(folder: Path, name: str) -> None:
    """The figures of the results `name` in `folder`, into the same folder."""
    results = json.loads((folder / f"{name}.json").read_text())
    for figure, draw_figure in FIGURES[name].items():
        draw_figure(results, folder / f"{figure}.svg")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in FIGURES:
        if (folder / f"{name}.json").exists():
            draw(folder, name)
