"""The fused MBConv against PyTorch's layers, edge by edge.

    python -m benchmarks.mbconv --out build/bench
    python -m benchmarks.mbconv --edges 0 5 20 --peers fused channels_last --rounds 9
    python -m benchmarks.mbconv --quick

Forward and backward, with all gradients, of a block at the 21 edges of the ImageNet space in
training mode. Edges of the same shapes are measured once and counted as often as they occur. Peers:

    fused          proxyless_ext.ops.mbconv, channels-last
    fused_bf16     the same under autocast to bfloat16
    plain          PyTorch's layers, contiguous, as published
    channels_last  the same layers, channels-last
    compiled       the same by torch.compile, channels-last

All results are first compared with those of the layers in float64. Then the peers take turns; a
time is the median of all rounds. The floor of an edge is max(flops / matmul, bytes / copy): its
convolutions at the speed of a matrix product, or its input, output and weights and the gradients of
these at the speed of a copy, whichever takes longer; both are measured between the edges. Writes
mbconv.json, mbconv.md and the figures mbconv_times.svg and mbconv_roofline.svg.
"""

from __future__ import annotations

import argparse
from typing import Any

from proxyless_ext.bench.blocks import PEERS, RIVALS, Edge, measure_block
from proxyless_ext.bench.cases import cases
from proxyless_ext.bench.records import Conditions
from proxyless_ext.bench.text import table, with_spread
from proxyless_ext.bench.timing import Timing
from proxyless_ext.errors import UserError
from proxyless_ext.spaces import imagenet

from . import figures
from .options import new_parser, parse
from .results import Bar, bars_table, write
from .roofs import Roofs


def main() -> None:
    """Check, measure, judge and write."""
    arguments = _arguments()
    results = measure(arguments)
    bars = judge(results)
    text = "\n\n".join(
        [
            "# The fused MBConv, edge by edge",
            Conditions(**results["conditions"]).describe(),
            bars_table(bars),
            edges_table(results),
        ]
    )
    write(arguments.out, "mbconv", results, bars, text)
    figures.draw(arguments.out, "mbconv")


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--edges", type=int, nargs="+", help="indices of edges (default: all)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="(default: all)")
    parser.add_argument("--operation", default="k5e6", help="of every edge (default: %(default)s)")
    usual = {"edges": list(range(21)), "peers": list(PEERS), "rounds": 7}
    fast = [name for name in PEERS if name != "compiled"]
    quick = {"edges": [0, 2], "peers": fast, "batch": 2, "resolution": 32, "rounds": 2}
    return parse(parser, usual, quick)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that goes into mbconv.json but the bars."""
    conditions = Conditions.here()
    roofs = Roofs()
    space = imagenet(resolution=arguments.resolution)
    edges = []
    for case in cases(space, arguments.operation, arguments.batch):
        case.edges = [index for index in case.edges if index in arguments.edges]
        if case.edges:
            print(f"measuring {case.name} ...", flush=True)
            roofs.sample()
            found = measure_block(Edge(case), arguments.peers, arguments.rounds)
            edges.append(found.model_dump(mode="json"))
    settings = ("operation", "batch", "resolution", "rounds", "peers")
    return {
        "conditions": conditions.model_dump(mode="json"),
        "settings": {name: getattr(arguments, name) for name in settings},
        **summarise(edges, roofs),
    }


def summarise(edges: list[dict[str, Any]], roofs: Roofs) -> dict[str, Any]:
    """The edges with their floors, beside the roofs these come from and the sums over all."""
    flops, bytes_ = roofs.flops_per_second, roofs.bytes_per_second
    for edge in edges:
        edge["floor"] = max(edge["flops"] / flops, edge["least_bytes"] / bytes_)
    return {
        "roofs": {"flops_per_second": flops, "bytes_per_second": bytes_},
        "edges": edges,
        "totals": _totals(edges),
    }


def _totals(edges: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds over all edges: of every peer, of the best rivals of each edge, and of the floor."""
    rows = [(len(edge["edges"]), _medians(edge), edge["floor"]) for edge in edges]
    names = rows[0][1]
    totals = {name: sum(count * times[name] for count, times, _ in rows) for name in names}
    for total, rivals in {"best": RIVALS, "best_but_plain": RIVALS[1:]}.items():
        if all(name in names for name in rivals):
            totals[total] = sum(
                count * min(times[name] for name in rivals) for count, times, _ in rows
            )
    return {**totals, "floor": sum(count * floor for count, _, floor in rows)}


def _medians(edge: dict[str, Any]) -> dict[str, float]:
    return {name: time["median"] for name, time in edge["seconds"].items()}


def judge(results: dict[str, Any]) -> list[Bar]:
    """The bars that the measured peers allow to judge."""
    totals = results["totals"]
    if "fused" not in totals:
        return []
    fused = totals["fused"]
    bars = []
    if "plain" in totals:
        bars.append(Bar("plain / fused, sum", totals["plain"] / fused, "at_least", 4, 5))
    if "best_but_plain" in totals:
        ratio = totals["best_but_plain"] / fused
        bars.append(Bar("best of channels-last, compiled / fused, sum", ratio, "at_least", 2, 2.5))
    if "best" in totals:
        worst = max(
            times["fused"] / min(times[name] for name in RIVALS)
            for times in map(_medians, results["edges"])
        )
        bars.append(Bar("fused / best of all, worst edge", worst, "at_most", 1.1, 1))
    bars.append(Bar("fused / floor, sum", fused / totals["floor"], "at_most", 2.1, 1.6))
    if "fused_bf16" in totals:
        ratio = fused / totals["fused_bf16"]
        bars.append(Bar("fused float32 / bfloat16, sum", ratio, "at_least", 1, 1.5))
    return bars


def edges_table(results: dict[str, Any]) -> str:
    """Milliseconds of all peers at each edge, and the sums over the edges."""
    peers = list(results["edges"][0]["seconds"])
    rows = []
    for edge in results["edges"]:
        cells = [with_spread(Timing(**edge["seconds"][name])) for name in peers]
        count = f" ({len(edge['edges'])}x)" if len(edge["edges"]) > 1 else ""
        rows.append([edge["name"] + count, *cells, f"{1e3 * edge['floor']:.4g}"])
    totals = results["totals"]
    sums = [f"{1e3 * totals[name]:.4g}" for name in (*peers, "floor")]
    roofs = results["roofs"]
    return (
        "Milliseconds of forward and backward by shape (channels, input size, stride).\n\n"
        + table(["edge", *peers, "floor"], [*rows, ["sum", *sums]])
        + f"\n\nFloor: matrix product {roofs['flops_per_second'] / 1e9:.0f} GFLOP/s, "
        f"copy {roofs['bytes_per_second'] / 1e9:.0f} GB/s read plus written."
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
