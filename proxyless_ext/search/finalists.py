"""The finalists: the best of the short list begin their training, and the worse half drops out.

All of them take the same batches of the training with which the winner goes on. A first round is a
part of it, and every other doubles the training so far, so that the rounds cost about the same
(successive halving: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", 2016). After each the half drops out whose training loss in it was
higher: how low the loss has fallen early in a training tells how well a network will do (Ru et al.,
"Speedy Performance Estimation for Neural Architecture Search", 2021), and no picture has to be held
out for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..config import Config
from ..data import Pictures, batches_per_epoch, endless
from ..runs import Finalist, FinalistsEpoch
from ..runtime import Runtime
from ..training.meter import Meter
from ..training.phase import Batch, Phase
from ..training.running import seed_step
from ..training.train import Train
from .candidates import Choices
from .objective import Objective


@dataclass
class Contest:
    """Finalists that compete for one network to be found.

    Attributes:
        phase: of its records.
        objective: of the search.
        left: the finalists that have not dropped out.
        rounds: that it takes.
    """

    phase: str
    objective: Objective
    left: list[Choices]
    rounds: list[Round]

    def is_on(self, epoch: int) -> bool:
        """Whether an epoch belongs to one of its rounds."""
        return any(each.is_at(epoch) for each in self.rounds)

    def best_first(self, losses: Mapping[Choices, float]) -> list[Choices]:
        """Those that are left, by their training losses."""
        return sorted(
            self.left, key=lambda choices: self.objective.network_loss(losses[choices], choices)
        )

    def survivors(self, epoch: int) -> int | None:
        """How many are left after a round that ends with an epoch; None where none does."""
        after = pairwise([*self.rounds, Round(1, 0, 0)])
        return next((later.finalists for each, later in after if each.end == epoch + 1), None)


class Finalists(Phase):
    """Trains networks beside each other; an epoch is as long as the first round.

    Attributes:
        trainings: of the networks that have not dropped out, by their choices.
        steps: that each of all networks has taken.

    A network that competes in several contests is trained once for all of them: what a finalist is
    trained with depends on the seed and the step alone.

    Args:
        networks: as their trainings begin with, by their choices.
        contests: what they compete in, one for each network to be found.
        config: `config.train` for the training, `config.derive` for the rounds.
        runtime: where the networks are.
        data: the pictures.
    """

    name = "finalists"
    section = "train"

    def __init__(
        self,
        networks: Mapping[Choices, nn.Module],
        contests: Sequence[Contest],
        config: Config,
        runtime: Runtime,
        data: Pictures,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.data = data
        self.contests = contests
        self.choices = list(networks)
        self.trainings = {
            choices: Train(networks[choices], config, runtime, data, self.name)
            for choices in self._competing(0)
        }
        self.epochs = max((each.end for contest in contests for each in contest.rounds), default=0)
        self.num_batches = round_steps(config, len(data.train))
        self.competing = list(self.trainings)
        # Steps that were taken.
        self.steps = dict.fromkeys(self.trainings, 0)
        # Of the round so far.
        self.meters = {choices: Meter() for choices in self.trainings}

    def networks(self, epoch: int) -> int:
        """At most, where contests share networks."""
        all_rounds = (each for contest in self.contests for each in contest.rounds)
        competing = sum(each.finalists for each in all_rounds if each.is_at(epoch))
        return min(competing, len(self.choices))

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        stream = endless(
            self.data.train,
            self.config.train.batch_size,
            self.config.seed,
            "train",  # The winner's training goes on with the next ones.
            start=epoch * self.num_batches + start,
            workers=self.config.data.workers,
            **self.runtime.reading,
        )
        return islice(stream, self.num_batches - start)

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        for choices in self.competing:
            training = self.trainings[choices]
            epoch, batch = divmod(step, training.num_batches)
            # Dropout, too, is that of the training that goes on, whoever else takes part.
            seed_step(self.config.seed, "train", epoch, batch)
            figures = Meter()
            training.step(step, pictures, labels, figures)
            meter.include(figures)
            self.meters[choices].include(figures)
            self.steps[choices] += 1

    def end_epoch(self, epoch: int, meter: Meter) -> list[FinalistsEpoch]:
        figures = {choices: self.meters[choices].means() for choices in self.competing}
        losses = {choices: each["loss"] for choices, each in figures.items()}
        contests = [contest for contest in self.contests if contest.is_on(epoch)]
        orders = [contest.best_first(losses) for contest in contests]
        records = [
            FinalistsEpoch(
                phase=contest.phase,
                step=(epoch + 1) * self.num_batches,
                epoch=epoch,
                **self._means(order),
                finalists=tuple(Finalist(choices=each, **figures[each]) for each in order),
            )
            for contest, order in zip(contests, orders, strict=True)
        ]
        has_round_ended = False
        for contest, order in zip(contests, orders, strict=True):
            if left := contest.survivors(epoch):
                contest.left = order[:left]
                has_round_ended = True  # Rounds of all contests end together.
        if has_round_ended:
            kept = {choices for contest in self.contests for choices in contest.left}
            self.trainings = {
                choices: each for choices, each in self.trainings.items() if choices in kept
            }
            self.competing = self._competing(epoch + 1)
            self.meters = {choices: Meter() for choices in self.competing}
        return records

    def _means(self, networks: Iterable[Choices]) -> dict[str, float]:
        """Of the round so far, over networks."""
        meter = Meter()
        for choices in networks:
            meter.include(self.meters[choices])
        return meter.means()

    def _competing(self, epoch: int) -> list[Choices]:
        """Networks that an epoch trains."""
        competing = {
            choices for contest in self.contests if contest.is_on(epoch) for choices in contest.left
        }
        return [choices for choices in self.choices if choices in competing]

    def state_dict(self) -> dict[str, Any]:
        places = {choices: index for index, choices in enumerate(self.choices)}
        return {
            "choices": [list(choices) for choices in self.choices],
            "left": [[places[each] for each in contest.left] for contest in self.contests],
            "competing": [places[choices] for choices in self.competing],
            "steps": {places[choices]: each for choices, each in self.steps.items()},
            "meters": {places[choices]: each.state for choices, each in self.meters.items()},
            "trainings": {
                places[choices]: each.state_dict() for choices, each in self.trainings.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if [tuple(choices) for choices in state["choices"]] != self.choices:
            raise ValueError("the finalists are others")
        for contest, left in zip(self.contests, state["left"], strict=True):
            contest.left = [self.choices[place] for place in left]
        self.competing = [self.choices[place] for place in state["competing"]]
        self.steps = {self.choices[place]: each for place, each in state["steps"].items()}
        self.meters = {self.choices[place]: Meter(each) for place, each in state["meters"].items()}
        trainings = {self.choices[place]: each for place, each in state["trainings"].items()}
        self.trainings = {choices: self.trainings[choices] for choices in trainings}
        for choices, training in trainings.items():
            self.trainings[choices].load_state_dict(training)


class Round(NamedTuple):
    """A round of the finalists.

    Attributes:
        finalists: that take part.
        start, end: of it, in lengths of the first round.
    """

    finalists: int
    start: int
    end: int

    def is_at(self, epoch: int) -> bool:
        """Whether it holds an epoch."""
        return self.start <= epoch < self.end


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


def race(finalists: int, part: float) -> float:
    """What the rounds cost, in trainings.

    Args:
        finalists, part: as of `rounds`.
    """
    return sum(part * (each.end - each.start) * each.finalists for each in rounds(finalists, part))


def begun(finalists: int, part: float) -> float:
    """The part of the winner's training that it has had in the rounds.

    Args:
        finalists, part: as of `rounds`.
    """
    return part * max((each.end for each in rounds(finalists, part)), default=0)


def round_steps(config: Config, pictures: int) -> int:
    """Steps of the first round.

    Args:
        config: of the run.
        pictures: that are trained on.
    """
    epoch_steps = batches_per_epoch(pictures, config.train.batch_size)
    return max(1, int(config.derive.round * config.train.epochs * epoch_steps))
