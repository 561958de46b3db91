"""Train every network of a small space, so that searches of it are scored by looking up networks.

    python -m benchmarks.ground_truth --config benchmarks/ground_truth/fashion.yaml \\
        --set data.root=FOLDER --out build/fashion.json

Trainings are those of `proxyless train`, in as many processes as there are cores, one thread each.
They are kept in `build/fashion.jsonl` as they end; the same command goes on after an interruption.
Prints how well the seeds agree, in the whole space and within bands of latency.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from scipy.stats import kendalltau, pearsonr

from proxyless_ext.config import load_config, parse_override
from proxyless_ext.errors import UserError
from proxyless_ext.spaces import Space

from .trainings import Trainer, train_all
from .truth import Truth, TruthNetwork


def all_networks(space: Space) -> Iterator[tuple[int, ...]]:
    """The choices of every network of a space."""
    yield from itertools.product(*map(range, space.counts))


def describe(truth: Truth, tolerance: float) -> Iterator[str]:
    """A table of how well two seeds agree, within bands and in the whole space."""
    latencies = [network.predicted_ms for network in truth.networks]
    low, high = min(latencies), max(latencies)
    yield "| networks | number | mean | sd | of one training | correlation | tau | of the mean |"
    yield "|---|---|---|---|---|---|---|---|"
    for part in (0.3, 0.5, 0.7):
        target = low + part * (high - low)
        band = truth.band(target, tolerance)
        yield _agreement(f"{part:.0%}: {target:.4g} ms +- {tolerance:.0%}", band)
    yield _agreement("all", list(truth.networks))


def _agreement(name: str, networks: list[TruthNetwork]) -> str:
    first, second = ([each.trainings[seed].accuracy for each in networks] for seed in (0, 1))
    means = [each.accuracy for each in networks]
    noise = (statistics.fmean((a - b) ** 2 for a, b in zip(first, second, strict=True)) / 2) ** 0.5
    r = pearsonr(first, second).statistic
    tau = kendalltau(first, second).statistic
    cells = [
        *(name, str(len(networks)), f"{statistics.fmean(means):.2%}"),
        *(f"{statistics.stdev(means):.2%}", f"{noise:.2%}"),
        *(f"{r:.2f}", f"{tau:.2f}", f"{2 * r / (1 + r):.2f}"),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make the table and print how good it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="data, space and training")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="the table, .json")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    config = load_config(arguments.config, dict(map(parse_override, arguments.set)))
    trainer = Trainer.load(config)
    networks = all_networks(trainer.space)
    truth = train_all(trainer, networks, arguments.out, arguments.seeds, arguments.processes)
    print("\n".join(describe(truth, config.latency.tolerance)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
