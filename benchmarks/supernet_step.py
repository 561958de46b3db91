"""Whole steps of the supernet search, fused against PyTorch's layers: time and memory.

    python benchmarks/supernet_step.py --out build/bench
    python benchmarks/supernet_step.py --gates recompute two_path full --rounds 5
    python benchmarks/supernet_step.py --quick

Weight steps (forward, loss, backward, SGD) on random paths that are the same for all, and gate
steps (forward, loss, backward: the gates' gradients of all edges) on the ImageNet space. Peers:

    fused          proxyless_ext's supernet, channels-last pictures
    plain          PyTorch's layers, contiguous, as published
    channels_last  the same layers, channels-last
    checkpointed   the same layers, channels-last, every block computed again in backward

Modes of gate steps, of the published algorithm: ``recompute`` runs the inactive candidates one at
a time in backward, ``full`` keeps the graphs of all, ``two_path`` runs two. `fused` computes what
the first two do, the gates' gradients over all candidates, in one way.

First every result is compared with that of the layers in float64: `fused` may be at most four times
as far from it as PyTorch's layers in float32. Then the peers take turns; a time is the median of
all rounds. Peaks of memory come from fresh processes, see peak_memory.py. Writes
supernet_step.json, supernet_step.md and the figure supernet_step.svg.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import figures
import torch
from measuring import DisagreementError, alternate, describe_conditions, relative_difference
from options import new_parser, parse
from peak_memory import measure_apart
from plain import GateMode
from results import Bar, bars_table, conditions_line, table, with_spread, write
from steps import TRAINEES, Batch, Trainee, build
from torch import Tensor

from proxyless_ext.spaces import Space, imagenet

# Whose results are checked: `checkpointed` computes what `channels_last` does.
CHECKED = ("fused", "plain", "channels_last")
# How many times farther from float64 than PyTorch's layers. Rounding moves values across the kinks
# of ReLU6, and so changes gradients by chance, in a deep network by some percent.
MARGIN = 4
NEGLIGIBLE = 1e-6


def main() -> None:
    """Check, measure, judge and write."""
    arguments = _arguments()
    results = measure(arguments)
    bars = judge(results)
    text = "\n\n".join(
        [
            "# Whole steps of a supernet",
            conditions_line(results["conditions"]),
            bars_table(bars),
            times_table(results),
            memory_table(results),
        ]
    )
    write(arguments.out, "supernet_step", results, bars, text)
    figures.draw(arguments.out, "supernet_step")


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--width", type=float, help="of the supernet (default: 1)")
    parser.add_argument("--paths", type=int, default=2, help="per round (default: %(default)s)")
    parser.add_argument(
        "--gates",
        nargs="+",
        choices=get_args(GateMode),
        default=["recompute", "two_path"],
        help="modes of gate steps; 'full' needs much memory (default: recompute two_path)",
    )
    parser.add_argument(
        "--peaks", nargs="+", choices=TRAINEES, help="peers whose peaks to measure (default: all)"
    )
    usual = {"width": 1.0, "rounds": 3, "peaks": list(TRAINEES)}
    quick = {"width": 0.25, "rounds": 1, "peaks": ["fused"], "batch": 4, "resolution": 32}
    return parse(parser, usual, quick)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that goes into supernet_step.json but the bars."""
    conditions = describe_conditions()
    space = imagenet(width_mult=arguments.width)
    batch = Batch(space, arguments.batch, arguments.resolution)
    trainees = build(TRAINEES, space, batch)
    settings = ("batch", "resolution", "width", "rounds", "paths", "gates")
    return {
        "conditions": conditions,
        "settings": {name: getattr(arguments, name) for name in settings},
        "errors": check(trainees, space, batch, arguments.gates),
        "seconds": times(trainees, arguments),
        "saved_bytes": {name: trainee.saved_bytes(seed=0) for name, trainee in trainees.items()},
        "peak_bytes": _peaks(arguments),
    }


def check(
    trainees: dict[str, Trainee], space: Space, batch: Batch, modes: list[GateMode]
) -> dict[str, dict[str, float]]:
    """Relative distances of every result from that in float64, by trainee.

    Raises:
        DisagreementError: the fused one is farther away than rounding explains.
    """
    print("checking ...", flush=True)
    (exact,) = build(["plain"], space, batch).values()
    exact.take(batch, torch.float64)
    expected = _outcomes(exact, modes)
    errors: dict[str, dict[str, float]] = {what: {} for what in expected}
    for name in CHECKED:
        for what, outcome in _outcomes(trainees[name], modes).items():
            errors[what][name] = relative_difference(outcome, expected[what])
    for what, by_name in errors.items():
        limit = MARGIN * max(NEGLIGIBLE, *(by_name[name] for name in CHECKED[1:]))
        if not by_name["fused"] <= limit:
            raise DisagreementError(f"{what}: errors are {by_name}, and fused may have {limit:.1e}")
    return errors


def _outcomes(trainee: Trainee, modes: list[GateMode]) -> dict[str, list[Tensor]]:
    return {
        "gradients of weights": trainee.weight_gradients(seed=0),
        "running statistics": trainee.statistics(),
        **{f"gradients of gates, {mode}": [trainee.gate_step(0, mode)] for mode in modes},
    }


def times(
    trainees: dict[str, Trainee], arguments: argparse.Namespace, device: str = "cpu"
) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of a weight step, the mean of all paths, and of a gate step in each mode."""
    print("measuring weight steps ...", flush=True)
    paths = arguments.paths
    weight_steps = {
        name: partial(_weight_steps, trainee, paths) for name, trainee in trainees.items()
    }
    found = {"weight": alternate(weight_steps, arguments.rounds, steps=paths, device=device)}
    for mode in arguments.gates:
        print(f"measuring gate steps, {mode} ...", flush=True)
        gate_steps = {
            name: partial(trainee.gate_step, 0, mode)
            for name, trainee in trainees.items()
            if name != "checkpointed"
        }
        found[mode] = alternate(gate_steps, arguments.rounds, device=device)
    return {
        step: {name: asdict(time) for name, time in by_name.items()}
        for step, by_name in found.items()
    }


def _weight_steps(trainee: Trainee, paths: int) -> None:
    for seed in range(paths):
        trainee.weight_step(seed)


def _peaks(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Peak bytes of a weight step and of a gate step, by trainee."""
    print("measuring memory ...", flush=True)
    sizes = {name: getattr(arguments, name) for name in ("batch", "resolution", "width", "threads")}
    peaks: dict[str, dict[str, int]] = {"weight": {}, "gate": {}}
    for name in arguments.peaks:
        peaks["weight"][name] = measure_apart(name, "weight", **sizes)
        if name != "checkpointed":
            peaks["gate"][name] = measure_apart(name, "gate", **sizes)
    return peaks


def judge(results: dict[str, Any]) -> list[Bar]:
    """The bars that the measurements allow to judge."""
    seconds, saved, peaks = results["seconds"], results["saved_bytes"], results["peak_bytes"]

    def speedup(step: str, rival: str) -> float:
        return float(seconds[step][rival]["median"] / seconds[step]["fused"]["median"])

    bars = [
        Bar("weight step, plain / fused", speedup("weight", "plain"), "at_least", 3.5, 5),
        Bar(
            "weight step, channels_last / fused",
            speedup("weight", "channels_last"),
            "at_least",
            1.8,
            2.5,
        ),
        Bar(
            "weight step, checkpointed / fused", speedup("weight", "checkpointed"), "at_least", 2, 2
        ),
        Bar("saved tensors, fused / plain", saved["fused"] / saved["plain"], "at_most", 1 / 8, 0.1),
    ]
    if "recompute" in seconds:
        ratio = speedup("recompute", "plain")
        bars.append(Bar("gate step over all, plain / fused", ratio, "at_least", 3, 5))
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
            *(with_spread(by_name.get(name)) for name in names),
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
    main()
