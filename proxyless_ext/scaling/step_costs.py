"""What a step of each kind costs a device: seconds, memory, and bytes that go over the wire."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..bench.memory import SavedTensors
from ..config import Config
from ..data import random_pictures
from ..latency import Costs, CountName, count_table
from ..latency.sampling import draw_uniform
from ..nn import SuperNet
from ..runtime import Runtime
from ..search import Task
from ..search.pace import Pace
from ..spaces import Space, StrictModel
from .work import KINDS, Kind, with_batches

FLOAT = torch.float32.itemsize

PASSES: Mapping[Kind, float] = {"weight": 3, "gate": 2, "score": 1, "train": 3}
"""Forward passes of the path that runs, to which a backward adds two, or one without weights; a
gate step adds a forward of every candidate.
"""

TIMED_NETWORKS = 3


class Line(StrictModel):
    """What grows with the pictures of a step.

    Attributes:
        fixed: of a step.
        each: of a picture.
    """

    fixed: float
    each: float

    def at(self, pictures: float) -> float:
        """For so many pictures."""
        return self.fixed + self.each * pictures

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> Line:
        """The line through two points of (pictures, value), neither falling nor below 0 at 0."""
        (few, low), (many, high) = points
        each = max((high - low) / (many - few), 0.0)
        return cls(fixed=max(low - each * few, 0.0), each=each)


class StepCosts(StrictModel):
    """What steps of a space cost a device.

    Attributes:
        seconds: of a step, by its kind, without reading pictures and without other devices.
        reduced: bytes of a step that every device sends, by its kind, before they are spread over
            the others.
        memory: bytes of the largest weight step: parameters, momentum, gradients, what is kept for
            backward, and the pictures.
        source: where seconds come from.
    """

    seconds: dict[Kind, Line]
    reduced: dict[Kind, float]
    memory: Line
    source: str


def measure_steps(config: Config, space: Space, batch_sizes: tuple[int, int]) -> StepCosts:
    """Take some steps of each kind, on random pictures, where the configuration would run.

    Args:
        config: of the search.
        space: with the classes of the pictures.
        batch_sizes: a smaller and a larger one; what steps take in between and beyond is on the
            line through both.
    """
    runtime = Runtime.set_up(config.runtime)
    pictures = random_pictures(space.num_classes, space.resolution, batch_sizes[1])
    task = Task(space, pictures, runtime, {})
    rng = random.Random(config.seed)
    networks = [tuple(draw_uniform(space.counts, rng)) for _ in range(TIMED_NETWORKS)]
    paces = [
        Pace.measure(with_batches(config, size), task, networks, reading=False)
        for size in batch_sizes
    ]
    seconds = {
        kind: Line.through(
            [
                (size, size * getattr(pace, kind))
                for size, pace in zip(batch_sizes, paces, strict=True)
            ]
        )
        for kind in KINDS
    }
    source = f"steps of {batch_sizes[0]} and {batch_sizes[1]} pictures, measured here"
    return StepCosts(seconds=seconds, **_counted(config, space), source=source)


def count_steps(config: Config, space: Space, tflops: float) -> StepCosts:
    """By arithmetic: two operations for each multiply-accumulate, on a device of a given speed.

    Args:
        config: of the search.
        space: with the classes of the pictures.
        tflops: 10^12 operations a second that the device sustains in such networks, which is a
            small part of what its maker says.
    """
    macs = _costs(space, "macs")
    path, every = macs.uniform, float(macs.edges.sum())
    seconds = {
        kind: Line(
            fixed=0,
            each=2e-12 * (passes * path + (every if kind == "gate" else 0)) / tflops,
        )
        for kind, passes in PASSES.items()
    }
    source = f"multiply-accumulates, at {tflops:g} TFLOP/s"
    return StepCosts(seconds=seconds, **_counted(config, space), source=source)


def _costs(space: Space, count: CountName) -> Costs:
    return count_table(space, count).costs(space)


def _counted(config: Config, space: Space) -> dict[str, Any]:
    parameters = _costs(space, "parameters")
    return {
        "reduced": {
            "weight": FLOAT * _used_by(config.most_paths, parameters, space.weights == "shared"),
            "gate": FLOAT * parameters.edges.numel(),
            "score": 0.0,
            "train": FLOAT * parameters.uniform,
        },
        "memory": _memory(space, FLOAT * parameters.bounds[1]),
    }


def _used_by(paths: int, parameters: Costs, shared: bool) -> float:
    """Parameters that several paths of a step use together, on average; of shared weights those of
    the largest candidate among them.
    """
    total = parameters.fixed
    for row, count in zip(parameters.edges.tolist(), parameters.counts, strict=True):
        drawn, sizes = min(paths, count), sorted(row[:count])
        # In how many draws each candidate is: the largest one, or any.
        draws = [math.comb(other, drawn - 1) for other in range(count)]
        if not shared:
            draws = [math.comb(count - 1, drawn - 1)] * count
        total += math.fsum(map(operator.mul, draws, sizes)) / math.comb(count, drawn)
    return total


def _memory(space: Space, path_bytes: float) -> Line:
    supernet = SuperNet(space).to(memory_format=torch.channels_last)
    macs = _costs(space, "macs")
    supernet.edges.activate(macs.edges.argmax(dim=1).tolist())
    weights = sum(each.nbytes for each in supernet.parameters())
    picture = FLOAT * 3 * space.resolution**2
    points = []
    for size in (2, 4):
        pictures = torch.rand(size, 3, space.resolution, space.resolution)
        with SavedTensors(supernet) as saved:
            supernet(pictures.to(memory_format=torch.channels_last))
        points.append((size, 2 * weights + path_bytes + saved.bytes + size * picture))
    return Line.through(points)
