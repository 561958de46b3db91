"""The finalists: the best of the short list begin their training, and the worse half drops out.

All of them take the same batches of the training that the winner will be given. A first round is a
part of it, and every other doubles the training so far, so that the rounds cost about the same
(successive halving: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", 2016). After each the half drops out whose training loss in it was
higher: how low the loss has fallen early in a training tells how well a network will do (Ru et al.,
"Speedy Performance Estimation for Neural Architecture Search", 2021), and no picture has to be held
out for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

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
    """Trains networks beside each other; an epoch is as long as the first round.

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
        self.rounds = rounds(len(networks), config.derive.round)
        self.epochs = self.rounds[-1].end if self.rounds else 0
        self.survivors = {
            each.end: after.finalists for each, after in pairwise([*self.rounds, Round(1, 0, 0)])
        }
        self.num_batches = round_steps(config, len(data.train))
        # Of the round so far.
        self.meters = [Meter() for _ in networks]

    @property
    def winner(self) -> Choices:
        """The one that is left."""
        (index,) = self.trainings
        return self.choices[index]

    def networks(self, epoch: int) -> int:
        return next(each.finalists for each in self.rounds if epoch < each.end)

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
        for index, training in self.trainings.items():
            figures = Meter()
            training.step(step, pictures, labels, figures)
            meter.include(figures)
            self.meters[index].include(figures)

    def end_epoch(self, epoch: int, meter: Meter) -> FinalistsEpoch:
        figures = {index: self.meters[index].means() for index in self.trainings}
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
        if left := self.survivors.get(epoch + 1):
            self.trainings = {index: self.trainings[index] for index in sorted(order[:left])}
            self.meters = [Meter() for _ in self.choices]
        return record

    def state_dict(self) -> dict[str, Any]:
        return {
            "choices": [list(choices) for choices in self.choices],
            "meters": [meter.state for meter in self.meters],
            "trainings": {index: each.state_dict() for index, each in self.trainings.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if [tuple(choices) for choices in state["choices"]] != self.choices:
            raise ValueError("the finalists are others")
        self.meters = [Meter(figures) for figures in state["meters"]]
        self.trainings = {index: self.trainings[index] for index in state["trainings"]}
        for index, training in self.trainings.items():
            training.load_state_dict(state["trainings"][index])


class Round(NamedTuple):
    """A round of the finalists.

    Attributes:
        finalists: that take part.
        start, end: of it, in lengths of the first round.
    """

    finalists: int
    start: int
    end: int


def rounds(finalists: int, part: float) -> list[Round]:
    """The rounds, until one finalist is left or the training is over.

    Args:
        finalists: how many there are.
        part: length of the first round, as a part of the training.
    """
    found: list[Round] = []
    end = 1
    while finalists > 1 and end * part <= 1:
        found.append(Round(finalists, end // 2, end))
        finalists, end = math.ceil(finalists / 2), 2 * end
    return found


def round_steps(config: Config, pictures: int) -> int:
    """Steps of the first round.

    Args:
        config: of the run.
        pictures: that are trained on.
    """
    epoch_steps = batches_per_epoch(pictures, config.train.batch_size)
    return max(1, int(config.derive.round * config.train.epochs * epoch_steps))
