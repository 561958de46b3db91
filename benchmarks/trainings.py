"""Trainings of many networks of one space, in processes beside each other, kept as they end."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from proxyless_ext.config import Config
from proxyless_ext.data import Pictures, load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.latency import LatencyTable
from proxyless_ext.processor import cpu_name
from proxyless_ext.progress import progress_bar
from proxyless_ext.runtime import Runtime
from proxyless_ext.search.candidates import Choices
from proxyless_ext.spaces import Space, load_plugins
from proxyless_ext.training.evaluation import evaluate
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.networks import for_data, network_size, seeded_network
from proxyless_ext.training.train import Train

from .truth import CURVE, Training, Truth, TruthNetwork, truth_settings

Job = tuple[Choices, int]
"""Choices and seed."""


@dataclass(frozen=True)
class Trainer:
    """What every process trains with; the table is of the space's layers."""

    config: Config
    space: Space
    table: LatencyTable
    data: Pictures
    runtime: Runtime

    @classmethod
    def load(cls, config: Config) -> Trainer:
        """Read the pictures, the space and its latencies.

        Raises:
            UserError: there is no latency table.
        """
        if config.latency.table is None:
            raise UserError(
                "latency.table is missing; set that of a run, or measure one with `proxyless "
                "latency measure SPACE`"
            )
        load_plugins(config.plugins)  # In a process of its own nothing is registered yet.
        table = LatencyTable.load(config.latency.table)
        runtime = Runtime.set_up(config.runtime)
        space = config.space.build()
        data = load_pictures(config.data, space.resolution, config.seed, distortions=config.train)
        plain = {"weights": "separate"}  # It is the supernets of searches that share any.
        space = space.with_classes(len(data.classes)).model_copy(update=plain)
        return cls(config, space, table, data, runtime)

    def train(self, choices: Choices, seed: int) -> Training:
        """Train one network as a run of this seed does; the split of the pictures stays."""
        config = self.config.model_copy(update={"seed": seed})
        architecture = for_data(self.space.architecture(choices), config, self.data)
        network = seeded_network(architecture, config, self.runtime, "train")
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


def train_all(
    trainer: Trainer, networks: Iterable[Choices], out: Path, seeds: int, processes: int
) -> Truth:
    """Train what is not trained yet, and write the table.

    Args:
        trainer: of this process.
        networks: by their choices.
        out: the table; trainings are kept beside it as they end.
        seeds: trainings of each network.
        processes: beside each other, one thread each.

    Raises:
        UserError: what was kept is of something else.
    """
    config, settings = trainer.config, truth_settings(trainer.config)
    inventory = trainer.data.inventory
    heading = json.dumps(
        {"settings": settings, "space": trainer.space.model_dump(), "data": inventory.model_dump()}
    )
    journal = Journal(out.with_suffix(".jsonl"), heading)
    networks = sorted(networks)
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
            _network(trainer, choices, [journal.done[choices, seed] for seed in range(seeds)])
            for choices in sorted(networks)
        ),
    )
    truth.save(out)
    return truth


def _network(trainer: Trainer, choices: Choices, trainings: list[Training]) -> TruthNetwork:
    architecture = trainer.space.architecture(choices)
    network = seeded_network(architecture, trainer.config, trainer.runtime, "size")
    return TruthNetwork(
        choices=choices,
        **network_size(network, trainer.space.resolution),
        predicted_ms=round(trainer.table.predict(architecture), 7),
        trainings=tuple(trainings),
    )
