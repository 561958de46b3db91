"""What the steps of a search take on this machine."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch.nn import functional

from .. import ranks
from ..config import Config
from ..nn import SuperNet, batch_statistics
from ..seeding import derive_seed, generator
from ..training.meter import Meter
from ..training.networks import for_data, seeded_network
from ..training.phase import Batch
from ..training.train import Train
from ..training.weight_phase import WeightPhase
from .candidates import Choices
from .path_scores import PathScores
from .phases import WarmUp
from .task import Task

WARM_UP_STEPS, TIMED_STEPS = 2, 12


@dataclass(frozen=True)
class Pace:
    """Seconds per picture.

    Attributes:
        weight: of a weight step of the supernet, reading included.
        gate: of a gate step.
        score: of a network on the short list, or in a validation.
        train: of a training step of a network of the target's latency, reading included.
    """

    weight: float
    gate: float
    score: float
    train: float

    @classmethod
    def sum(cls, paces: Iterable[Pace]) -> Pace:
        """Of a step of each of several searches."""
        return cls(*map(sum, zip(*map(astuple, paces), strict=True)))

    @classmethod
    def measure(
        cls, config: Config, task: Task, band: Sequence[Choices], reading: bool = True
    ) -> Pace:
        """Take some steps with networks that are thrown away.

        Args:
            config: its batch sizes are those of the search.
            task: of the search.
            band: networks of the latency of a target, at least one.
            reading: whether every step reads a batch of its own.
        """
        runtime, data = task.runtime, task.data
        torch.manual_seed(derive_seed(config.seed, "pace"))
        supernet = SuperNet(task.space).to(memory_format=torch.channels_last)
        edges, draw = supernet.to(runtime.device).edges, generator(config.seed, "pace", "paths")
        scores = PathScores(list(task.space.counts))
        warm_up = WarmUp(supernet, scores, config, runtime, data)
        pictures, labels = map(runtime.put, next(warm_up.batches(0, 0)))
        batch_size = ranks.share(len(labels)).total

        def gate() -> None:
            with edges.gate_step("full", draw) as step, runtime.autocast():
                functional.cross_entropy(supernet(pictures), labels).backward()
            step.update(lambda: step.gates.cpu())

        @torch.no_grad()
        def score() -> None:
            edges.sample(draw, uniformly=True)
            with batch_statistics(supernet), runtime.autocast():
                supernet(pictures).cpu()

        trainings: list[WeightPhase] = []
        for choices in band:
            architecture = for_data(task.space.architecture(choices), config, data)
            network = seeded_network(architecture, config, runtime, "pace")
            trainings.append(Train(network, config, runtime, data, "pace"))
        train = _weight_steps(trainings, reading)
        return cls(
            weight=_per_picture(_weight_steps([warm_up], reading), config.warmup.batch_size),
            gate=_per_picture(gate, batch_size),
            score=_per_picture(score, batch_size),
            train=_per_picture(train, config.train.batch_size, len(trainings)),
        )


def _weight_steps(phases: Sequence[WeightPhase], reading: bool) -> Callable[[], None]:
    """Takes the next step of one of the phases, in turn, on its next batch or always the same."""
    batches = _endless if reading else _same
    streams = itertools.cycle([(phase, batches(phase)) for phase in phases])
    numbers = itertools.count()  # Of which each has paths of its own.

    def step() -> None:
        phase, stream = next(streams)
        pictures, labels = next(stream)
        phase.step(next(numbers), pictures, labels, meter := Meter())
        meter.means()  # Waits for the device.

    return step


def _endless(phase: WeightPhase) -> Iterator[Batch]:
    while True:
        yield from phase.batches(0, 0)


def _same(phase: WeightPhase) -> Iterator[Batch]:
    return itertools.repeat(next(phase.batches(0, 0)))


def _per_picture(step: Callable[[], None], batch_size: int, phases: int = 1) -> float:
    """Seconds of steps that several phases take in turn."""
    times = []
    warm_up = max(WARM_UP_STEPS, phases)
    for _ in range(warm_up + max(TIMED_STEPS, phases)):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.fmean(times[warm_up:]) / batch_size
