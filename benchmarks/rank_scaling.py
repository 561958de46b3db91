"""What a weight step takes on several ranks of this machine, and what `proxyless plan` says.

    python -m benchmarks.rank_scaling --resolution 96 --batch 16 --ranks 1 --ranks 2 --ranks 4

Every rank has one thread and takes as many pictures as any other, so the work of a rank is fixed.
Ranks share the machine's caches, its memory and perhaps its cores, so what is planned is from steps
that as many processes have timed at once, before they met. `waiting` is the part of a step in which
a rank waited for gradients of the others. Bytes are what a rank has to add up, beside those of
DistributedDataParallel, which adds up the gradients of all weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from proxyless_ext import ranks
from proxyless_ext.bench.text import table
from proxyless_ext.config import load_config
from proxyless_ext.data import random_pictures
from proxyless_ext.nn import SuperNet
from proxyless_ext.runtime import Runtime
from proxyless_ext.scaling import Cluster, PictureCounts, StepCosts, estimate, measure_steps
from proxyless_ext.search.path_scores import PathScores
from proxyless_ext.search.phases import WarmUp
from proxyless_ext.spaces import BUILTIN
from proxyless_ext.training.meter import Meter

WARM_UP_STEPS = 3
MESSAGE, LARGE = 4, 16 * 2**20
"""Bytes of the messages by which the link is measured."""


def main() -> None:
    """Start the ranks and print the table, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", choices=[*BUILTIN], default="imagenet")
    parser.add_argument("--resolution", type=int, default=96, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="of a rank (default: %(default)s)")
    parser.add_argument("--ranks", type=int, action="append", help="may be repeated")
    parser.add_argument("--steps", type=int, default=20, help="timed (default: %(default)s)")
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.told:
        config = load_config(None, _settings(arguments))
        sizes = (arguments.batch // 4, arguments.batch)
        costs = measure_steps(config, config.space.build(), sizes)
        with ranks.group():
            told = {**measure(arguments), "costs": costs.model_dump()}
            if ranks.is_first():
                arguments.told.write_text(json.dumps(told))
        return
    rows = [_row(arguments, number) for number in arguments.ranks or (1, 2, 4)]
    header = ["ranks", "step, ms", "planned, ms", "error", "waiting", "bytes / path's", "DDP's"]
    print(table(header, rows))


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "space.name": arguments.space,
        "space.resolution": arguments.resolution,
        "runtime.threads": 1,
    }


def _row(arguments: argparse.Namespace, number: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        told_path = Path(folder) / "told.json"
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        command = [sys.executable, "-m", *launcher, "-m", "benchmarks.rank_scaling"]
        for name in ("space", "resolution", "batch", "steps"):
            command += [f"--{name}", str(getattr(arguments, name))]
        subprocess.run([*command, "--told", str(told_path)], check=True)
        told = json.loads(told_path.read_text())
    config = load_config(None, {**_settings(arguments), "derive.networks": 0})
    cluster = Cluster(told["bandwidth"], told["latency"], overlap=0.0)
    pictures = PictureCounts(10_000, 10_000, 0)
    planned = estimate(
        config,
        pictures,
        StepCosts.model_validate(told["costs"]),
        cluster,
        number,
        batch_per_device=arguments.batch,
    )
    step = planned.steps["weight"].total
    return [
        str(number),
        f"{1e3 * told['step']:.4g}",
        f"{1e3 * step:.4g}",
        f"{step / told['step'] - 1:+.1%}",
        f"{told['waiting']:.1%}",
        f"{told['bytes'] / told['path_bytes']:.4f}",
        f"{told['all_bytes'] / told['path_bytes']:.2f}",
    ]


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Weight steps of this rank, which others take at the same time."""
    config = load_config(None, _settings(arguments))
    space = config.space.build()
    runtime = Runtime.set_up(config.runtime)
    torch.manual_seed(0)
    supernet = SuperNet(space).to(memory_format=torch.channels_last)
    pictures = random_pictures(space.num_classes, space.resolution, arguments.batch)
    scores = PathScores(list(space.counts))
    phase = WarmUp(supernet, scores, config, runtime, pictures)
    batch = next(iter(_batches(phase, arguments.batch)))
    waits: list[float] = []
    _time_waiting(waits)
    times, waiting, sent, used = [], [], [], []
    for step in range(WARM_UP_STEPS + arguments.steps):
        waits.clear()
        started = time.perf_counter()
        phase.step(step, *batch, Meter())
        times.append(time.perf_counter() - started)
        waiting.append(sum(waits))
        sent.append(phase.gradients.num_bytes)
        slices = phase.slices()
        used.append(
            sum(
                each.grad[slices.get(each, ())].nbytes
                for each in supernet.edges.weights
                if each.grad is not None
            )
        )
    several = ranks.are_several()
    large = _seconds(LARGE) if several else 0.0
    return {
        "step": statistics.median(times[WARM_UP_STEPS:]),
        "waiting": sum(waiting[WARM_UP_STEPS:]) / sum(times[WARM_UP_STEPS:]),
        "bytes": sum(sent) if several else sum(used),
        "path_bytes": sum(used),
        "all_bytes": len(used) * sum(each.nbytes for each in supernet.edges.weights),
        "bandwidth": Cluster.wire_bytes(LARGE, ranks.place()[1]) / large if several else 1e9,
        "latency": _seconds(MESSAGE) if several else 0.0,
    }


def _batches(phase: WarmUp, size: int) -> list[tuple[Tensor, Tensor]]:
    pictures = [phase.dataset[index] for index in range(size)]
    return [(torch.stack([each for each, _ in pictures]), torch.tensor([c for _, c in pictures]))]


def _time_waiting(waits: list[float]) -> None:
    """Note from now on how long sums over ranks keep this one waiting."""
    begin = ranks.sum_later

    def timed(values: Tensor) -> Callable[[], None]:
        started = time.perf_counter()
        wait = begin(values)
        waits.append(time.perf_counter() - started)

        def end() -> None:
            started = time.perf_counter()
            wait()
            waits.append(time.perf_counter() - started)

        return end

    ranks.sum_later = timed


def _seconds(num_bytes: int) -> float:
    """Of adding up so many bytes over the ranks, the median."""
    values, times = torch.zeros(num_bytes // 4), []
    for _ in range(10):
        started = time.perf_counter()
        ranks.sum_over_ranks(values)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
