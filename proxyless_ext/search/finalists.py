"""The finalists: the best of the short list begin their training, and the worse half drops out.

All of them take the same batches of the training that the winner will be given. After every round
the half drops out whose training loss was higher in the latter half of the training so far: how low
the loss has fallen early in a training tells how well a network will do (Ru et al., "Speedy
Performance Estimation for Neural Architecture Search", 2021), the first steps tell little
(docs/search.md), and no picture has to be held out for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ..config import Config
from ..data import Pictures, batches_per_epoch, endless
from ..runs import Finalist, FinalistsEpoch
from ..runtime import Runtime
from ..training.meter import Meter
from ..training.phase import Batch, Phase
from ..training.train import Train
from .candidates import Choices
from .objective import Objective


class Finalists(Phase):
    """Trains networks beside each other; an epoch is a round, after which half of them go on.

    Args:
        networks: as the training of the winner will begin with, by their choices.
        config: `config.train` for the training, `config.derive` for the rounds.
        runtime: where the networks are.
        data: the pictures.
        objective: of the search.
    """

    name = "finalists"
    section = "train"

    def __init__(
        self,
        networks: Sequence[tuple[Choices, nn.Module]],
        config: Config,
        runtime: Runtime,
        data: Pictures,
        objective: Objective,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.data = data
        self.objective = objective
        self.choices = [choices for choices, _ in networks]
        self.trainings = {
            index: Train(network, config, runtime, data, self.name)
            for index, (_, network) in enumerate(networks)
        }
        self.epochs = rounds(len(networks), config.derive.round)
        self.num_batches = round_steps(config, len(data.train))
        # Of every network one for each half of a round.
        self.meters = [[Meter() for _ in range(2 * self.epochs)] for _ in networks]

    @property
    def winner(self) -> Choices:
        """The one that is left."""
        (index,) = self.trainings
        return self.choices[index]

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        stream = endless(
            self.data.train,
            self.config.train.batch_size,
            self.config.seed,
            "train",  # The winner's training takes the same again.
            start=epoch * self.num_batches + start,
            workers=self.config.data.workers,
            pin=self.runtime.is_asynchronous,
        )
        return islice(stream, self.num_batches - start)

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        epoch, batch = divmod(step, self.num_batches)
        half = 2 * epoch + (batch >= self.num_batches // 2)
        for index, training in self.trainings.items():
            figures = Meter()
            training.step(step, pictures, labels, figures)
            meter.include(figures)
            self.meters[index][half].include(figures)

    def end_epoch(self, epoch: int, meter: Meter) -> FinalistsEpoch:
        figures = {index: self._latter_half(index, epoch) for index in self.trainings}
        order = sorted(
            figures,
            key=lambda index: self.objective.network_loss(
                figures[index]["loss"], self.choices[index]
            ),
        )
        record = FinalistsEpoch(
            phase=self.name,
            step=(epoch + 1) * self.num_batches,
            epoch=epoch,
            **meter.means(),
            finalists=tuple(
                Finalist(choices=self.choices[index], **figures[index]) for index in order
            ),
        )
        left = set(order[: survivors(len(order), self.epochs - epoch - 1)])
        self.trainings = {index: each for index, each in self.trainings.items() if index in left}
        return record

    def state_dict(self) -> dict[str, Any]:
        return {
            "choices": [list(choices) for choices in self.choices],
            "meters": [[meter.state for meter in halves] for halves in self.meters],
            "trainings": {index: each.state_dict() for index, each in self.trainings.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if [tuple(choices) for choices in state["choices"]] != self.choices:
            raise ValueError("the finalists are others")
        self.meters = [[Meter(figures) for figures in halves] for halves in state["meters"]]
        self.trainings = {index: self.trainings[index] for index in state["trainings"]}
        for index, training in self.trainings.items():
            training.load_state_dict(state["trainings"][index])

    def _latter_half(self, index: int, epoch: int) -> dict[str, float]:
        """Means over the latter half of a network's training up to the end of a round."""
        whole = Meter()
        for meter in self.meters[index][epoch + 1 : 2 * (epoch + 1)]:
            whole.include(meter)
        return whole.means()


def rounds(finalists: int, part: float) -> int:
    """How many rounds there are: until one is left, or the training is over.

    Args:
        finalists: how many there are.
        part: length of a round, as a part of the training.
    """
    return min(math.ceil(math.log2(finalists)), int(1 / part))


def survivors(finalists: int, rounds_left: int) -> int:
    """How many of them go on after a round: the better half, and after the last one the best."""
    return math.ceil(finalists / 2) if rounds_left else 1


def round_steps(config: Config, pictures: int) -> int:
    """Steps of a round, of which there are not more than a training has.

    Args:
        config: of the run.
        pictures: that are trained on.
    """
    epoch_steps = batches_per_epoch(pictures, config.train.batch_size)
    return max(1, round(config.derive.round * config.train.epochs * epoch_steps))
