"""Train every network of a small space, so that searches of it are scored by looking up networks.

    python benchmarks/ground_truth.py --config benchmarks/ground_truth/fashion.yaml \\
        --set data.root=FOLDER --out build/fashion.json

Trainings are those of `proxyless train`, in as many processes as there are cores, one thread each.
They are kept in `build/fashion.jsonl` as they end; the same command goes on after an interruption.
Prints how well the seeds agree, in the whole space and within bands of latency.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from scipy.stats import kendalltau, pearsonr
from truth import CURVE, Training, Truth, TruthNetwork, truth_settings

from proxyless_ext.config import Config, load_config, parse_override
from proxyless_ext.data import Pictures, load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.latency import LatencyTable
from proxyless_ext.processor import cpu_name
from proxyless_ext.progress import progress_bar
from proxyless_ext.runtime import Runtime
from proxyless_ext.spaces import Space
from proxyless_ext.training.evaluation import evaluate
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.networks import for_data, fresh_network, network_size
from proxyless_ext.training.train import Train

Job = tuple[tuple[int, ...], int]
"""Choices and seed."""


@dataclass(frozen=True)
class Trainer:
    """What every process trains with."""

    config: Config
    space: Space
    data: Pictures
    runtime: Runtime

    @classmethod
    def load(cls, config: Config) -> Trainer:
        """Read the pictures and the space."""
        runtime = Runtime.set_up(config.runtime)
        space = config.space.build()
        data = load_pictures(config.data, space.resolution, config.seed)
        plain = {"weights": "separate"}  # It is the supernets of searches that share any.
        space = space.with_classes(len(data.classes)).model_copy(update=plain)
        return cls(config, space, data, runtime)

    def train(self, choices: tuple[int, ...], seed: int) -> Training:
        """Train one network as a run of this seed does; the split of the pictures stays."""
        config = self.config.model_copy(update={"seed": seed})
        architecture = for_data(self.space.architecture(choices), config, self.data)
        network = fresh_network(architecture, config, self.runtime, "train")
        phase = Train(network, config, self.runtime, self.data)
        meters = [Meter() for _ in range(CURVE)]
        steps = phase.epochs * phase.num_batches
        step = itertools.count()
        for epoch in range(phase.epochs):
            for pictures, labels in phase.batches(epoch, 0):
                number = next(step)
                phase.step(number, pictures, labels, meters[number * CURVE // steps])
        scores = evaluate(phase.result, self.data.val, 500, self.runtime)
        return Training(
            accuracy=round(scores.accuracy, 5),
            loss=round(scores.loss, 5),
            curve=tuple(round(meter.means()["loss"], 5) for meter in meters),
        )


_trainer: Trainer


def _begin(config: Config) -> None:
    global _trainer
    _trainer = Trainer.load(config)


def _run(job: Job) -> tuple[Job, Training]:
    return job, _trainer.train(*job)


class Journal:
    """The trainings that have ended, a line each, after one line that says of what they are."""

    def __init__(self, path: Path, heading: str) -> None:
        self.path = path
        self.done: dict[Job, Training] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{heading}\n")
        first, *lines = path.read_text().splitlines()
        if first != heading:
            raise UserError(f"{path} is of other settings, pictures or networks; move it away")
        for line in lines:
            try:
                fields = json.loads(line)
            except ValueError:  # The last one, if the machine stopped while it was written.
                continue
            job = tuple(fields["choices"]), fields["seed"]
            self.done[job] = Training.model_validate(fields["training"])

    def add(self, job: Job, training: Training) -> None:
        """Keep a training."""
        choices, seed = job
        fields = {"choices": choices, "seed": seed, "training": training.model_dump()}
        with self.path.open("a") as file:
            file.write(f"{json.dumps(fields)}\n")
        self.done[job] = training


def make(config: Config, out: Path, seeds: int, processes: int) -> Truth:
    """Train what is not trained yet, and write the table."""
    trainer = Trainer.load(config)
    settings = truth_settings(config)
    table = LatencyTable.load(config.latency.table or _no_table())
    inventory = trainer.data.inventory
    heading = json.dumps(
        {"settings": settings, "space": trainer.space.model_dump(), "data": inventory.model_dump()}
    )
    journal = Journal(out.with_suffix(".jsonl"), heading)
    networks = list(all_networks(trainer.space))
    # In an order that makes every part of them a fair sample.
    random.Random(0).shuffle(networks)
    jobs = [(choices, seed) for seed in range(seeds) for choices in networks]
    left = [job for job in jobs if job not in journal.done]
    context = get_context("spawn")
    with (
        progress_bar("trainings", len(jobs), len(jobs) - len(left)) as bar,
        ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(config,)) as pool,
    ):
        for job, training in pool.map(_run, left):
            journal.add(job, training)
            bar.advance()
    truth = Truth(
        settings=settings,
        pictures=inventory,
        processor=cpu_name(),
        space=trainer.space,
        networks=tuple(
            _network(
                trainer, table, choices, [journal.done[choices, seed] for seed in range(seeds)]
            )
            for choices in sorted(networks)
        ),
    )
    truth.save(out)
    return truth


def all_networks(space: Space) -> Iterator[tuple[int, ...]]:
    """The choices of every network of a space."""
    yield from itertools.product(*(range(len(edge.candidates)) for edge in space.edges))


def _network(
    trainer: Trainer, table: LatencyTable, choices: tuple[int, ...], trainings: list[Training]
) -> TruthNetwork:
    architecture = trainer.space.architecture(choices)
    network = fresh_network(architecture, trainer.config, trainer.runtime, "size")
    return TruthNetwork(
        choices=choices,
        **network_size(network, trainer.space.resolution),
        predicted_ms=round(table.predict(architecture), 7),
        trainings=tuple(trainings),
    )


def _no_table() -> Path:
    raise UserError("latency.table is missing; measure one with `proxyless latency measure SPACE`")


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
    truth = make(config, arguments.out, arguments.seeds, arguments.processes)
    print("\n".join(describe(truth, config.latency.tolerance)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
