"""Whole steps of the supernet search, fused against PyTorch's layers: time and memory.

    python -m benchmarks.supernet_step --out build/bench
    python -m benchmarks.supernet_step --gates recompute two_path full --rounds 5
    python -m benchmarks.supernet_step --space cifar_tree --batch 8
    python -m benchmarks.supernet_step --quick

Weight steps (forward, loss, backward, SGD) on random paths that are the same for all, and gate
steps (forward, loss, backward: the gates' gradients of all edges) on the ImageNet space, or on that
of the CIFAR-10 trees, at full size. Peers:

    fused          proxyless_ext's supernet, channels-last pictures
    plain          PyTorch's layers, contiguous, as published
    channels_last  the same layers, channels-last
    checkpointed   the same layers, channels-last, every block computed again in backward; there is
                   none of trees

Modes of gate steps, of the published algorithm: ``recompute`` runs the inactive candidates one at
a time in backward, ``full`` keeps the graphs of all, ``two_path`` runs two. `fused` computes what
the first two do, the gates' gradients over all candidates, in one way.

First every result is compared with that of the layers in float64: `fused` may be at most four times
as far from it as PyTorch's layers in float32. Then the peers take turns; a time is the median of
all rounds. Peaks of memory come from fresh processes, see bench/peak_memory.py. Writes
supernet_step.json, supernet_step.md and the figure supernet_step.svg, for trees under the name
supernet_step_cifar_tree.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, get_args

from proxyless_ext.bench.peak_memory import peaks_apart
from proxyless_ext.bench.plain import GateMode
from proxyless_ext.bench.records import Conditions, StepFigures
from proxyless_ext.bench.steps import check_steps, time_gate_steps, time_weight_steps
from proxyless_ext.bench.supernets import SPACES, Batch, Trainee, build
from proxyless_ext.bench.text import table, with_spread
from proxyless_ext.bench.timing import Timing
from proxyless_ext.errors import UserError
from proxyless_ext.spaces.builtin import BUILTIN

from . import figures
from .options import new_parser, parse
from .results import Bar, bars_table, write


def main() -> None:
    """Check, measure, judge and write."""
    arguments = _arguments()
    results = measure(arguments)
    bars = judge(results)
    text = "\n\n".join(
        [
            "# Whole steps of a supernet",
            Conditions(**results["conditions"]).describe(),
            bars_table(bars),
            times_table(results),
            memory_table(results),
        ]
    )
    name = "supernet_step" if arguments.space == "imagenet" else f"supernet_step_{arguments.space}"
    write(arguments.out, name, results, bars, text)
    figures.draw(arguments.out, name)


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--space", choices=SPACES, default="imagenet")
    parser.add_argument("--width", type=float, help="of the supernet (default: 1)")
    parser.add_argument("--paths", type=int, default=2, help="per round (default: %(default)s)")
    parser.add_argument(
        "--gates",
        nargs="+",
        choices=get_args(GateMode),
        default=["recompute", "two_path"],
        help="modes of gate steps; 'full' needs much memory (default: recompute two_path)",
    )
    parser.add_argument("--peaks", nargs="+", help="peers whose peaks to measure (default: all)")
    usual = {"width": 1.0, "rounds": 3, "resolution": None}
    quick = {"width": 0.25, "rounds": 1, "peaks": ["fused"], "batch": 4, "resolution": 32}
    arguments = parse(parser, usual, quick)
    arguments.resolution = arguments.resolution or BUILTIN[arguments.space]().resolution
    peers = list(SPACES[arguments.space])
    arguments.peaks = arguments.peaks or peers
    if unknown := sorted({*arguments.peaks} - {*peers}):
        parser.error(f"--peaks {' '.join(unknown)}: the peers are {', '.join(peers)}")
    return arguments


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that goes into supernet_step.json but the bars."""
    conditions = Conditions.here()
    space = BUILTIN[arguments.space](width_mult=arguments.width)
    batch = Batch(space, arguments.batch, arguments.resolution)
    trainees = build(SPACES[space.name], space, batch)
    print("checking ...", flush=True)
    errors = check_steps(trainees, space, batch, arguments.gates)
    seconds = times(trainees, arguments)
    print("measuring memory ...", flush=True)
    sized = ("space", "batch", "resolution", "width", "threads")
    sizes = {name: getattr(arguments, name) for name in sized}
    steps = StepFigures(
        errors=errors,
        seconds=seconds,
        saved_bytes={name: trainee.saved_bytes(seed=0) for name, trainee in trainees.items()},
        peak_bytes=peaks_apart(arguments.peaks, **sizes),
    )
    settings = ("space", "batch", "resolution", "width", "rounds", "paths", "gates")
    return {
        "conditions": conditions.model_dump(mode="json"),
        "settings": {name: getattr(arguments, name) for name in settings},
        **steps.model_dump(mode="json"),
    }


def times(
    trainees: Mapping[str, Trainee], arguments: argparse.Namespace, device: str = "cpu"
) -> dict[str, dict[str, Timing]]:
    """Seconds of a weight step, and of a gate step in each mode."""
    print("measuring weight steps ...", flush=True)
    found = {"weight": time_weight_steps(trainees, arguments.rounds, arguments.paths, device)}
    for mode in arguments.gates:
        print(f"measuring gate steps, {mode} ...", flush=True)
        found[mode] = time_gate_steps(trainees, arguments.rounds, mode, device)
    return found


TIME_BARS: dict[str, list[tuple[str, str, float, float]]] = {
    "imagenet": [
        ("weight", "plain", 3.5, 5),
        ("weight", "channels_last", 1.8, 2.5),
        ("weight", "checkpointed", 2, 2),
        ("recompute", "plain", 3, 5),
    ],
    "cifar_tree": [("recompute", "plain", 2.5, 4)],
}
"""Step, rival, bar and aim, by space."""

SAVED_BARS = {"imagenet": (8.0, 10.0), "cifar_tree": (3.0, 5.0)}
"""What PyTorch's layers keep is to be so many times as much."""


def judge(results: dict[str, Any]) -> list[Bar]:
    """The bars that the measurements allow to judge."""
    space = results["settings"]["space"]
    seconds, saved, peaks = results["seconds"], results["saved_bytes"], results["peak_bytes"]
    bars = []
    for step, rival, bar, aim in TIME_BARS[space]:
        if step in seconds:
            name = "weight step" if step == "weight" else "gate step over all"
            ratio = seconds[step][rival]["median"] / seconds[step]["fused"]["median"]
            bars.append(Bar(f"{name}, {rival} / fused", ratio, "at_least", bar, aim))
    ratio = saved["plain"] / saved["fused"]
    bars.append(Bar("saved tensors, plain / fused", ratio, "at_least", *SAVED_BARS[space]))
    if "checkpointed" in peaks["weight"]:
        ratio = peaks["weight"]["fused"] / peaks["weight"]["checkpointed"]
        bars.append(Bar("peak of a weight step, fused / checkpointed", ratio, "at_most", 1, 0.5))
    ratio = peaks["gate"]["fused"] / peaks["weight"]["fused"]
    bars.append(Bar("peak of fused, gate step / weight step", ratio, "at_most", 1.1, 1))
    return bars


def times_table(results: dict[str, Any]) -> str:
    """Milliseconds of the steps of all peers."""
    names = list(results["seconds"]["weight"])
    rows = [
        [
            "weight step" if step == "weight" else f"gate step, {step}",
            *(with_spread(Timing(**by_name[name])) if name in by_name else "" for name in names),
        ]
        for step, by_name in results["seconds"].items()
    ]
    return "Milliseconds of a step.\n\n" + table(["step", *names], rows)


def memory_table(results: dict[str, Any]) -> str:
    """Megabytes that each peer keeps, and needs at most."""
    names = list(results["saved_bytes"])
    peaks = results["peak_bytes"]
    rows = {
        "saved for backward of a weight step": results["saved_bytes"],
        "peak of a weight step": peaks["weight"],
        "peak of a gate step, recompute": peaks["gate"],
    }
    cells = [
        [what, *(f"{sizes[name] / 1e6:.4g}" if name in sizes else "" for name in names)]
        for what, sizes in rows.items()
    ]
    return "Megabytes (1e6).\n\n" + table(["memory", *names], cells)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
