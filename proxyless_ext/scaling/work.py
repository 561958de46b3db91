"""What a search has to do, as numbers of pictures that steps of each kind take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ..config import Config
from ..data import DataConfig, Pictures, batches_per_epoch
from ..errors import UserError
from ..search.finalists import begun, race
from ..search.phases import first_gate_step

Kind = Literal["weight", "gate", "score", "train"]
"""Of steps: of the supernet's weights, of alphas, of scoring a network, of training one."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class PictureCounts:
    """How many pictures a search has.

    Attributes:
        weights, gates: of the training pictures, those for weights and those for alphas.
        val: to validate on.
    """

    weights: int
    gates: int
    val: int

    @classmethod
    def of(cls, pictures: Pictures) -> PictureCounts:
        """Those of a source at hand."""
        return cls(len(pictures.train_weights), len(pictures.train_gates), len(pictures.val))

    @classmethod
    def split(cls, train: int, val: int, classes: int, config: DataConfig) -> PictureCounts:
        """Those of a source that has so many pictures to train and to validate on.

        Raises:
            UserError: there are too few for its classes.
        """
        train = min(train, config.limit or train)
        if train < 2 * classes:
            raise UserError(
                f"{train} training pictures are too few for {classes} classes; give at least two "
                "of each, or say by --classes how many there are"
            )
        gates = round(config.gate_fraction * train)
        return cls(train - gates, gates, val)

    @property
    def train(self) -> int:
        """All that networks are trained on."""
        return self.weights + self.gates


SUPERNET_PARTS = ("warm-up", "search, weights", "search, gates")


class Work(NamedTuple):
    """A part of a search.

    Attributes:
        part: what it is called; those of the supernet are `SUPERNET_PARTS`.
        kind: of its steps.
        steps: how many there are.
        batch_size: pictures of a step, over all devices, and at most as many as there are.
    """

    part: str
    kind: Kind
    steps: float
    batch_size: int


def with_batches(config: Config, size: int) -> Config:
    """The configuration with batches of one size everywhere."""
    sections = ("warmup", "search", "gates", "train")
    batches = {
        name: getattr(config, name).model_copy(update={"batch_size": size}) for name in sections
    }
    return config.model_copy(update=batches)


def list_work(config: Config, pictures: PictureCounts) -> list[Work]:
    """The parts of a search, in their order.

    Args:
        config: of the search.
        pictures: that it has.

    Raises:
        UserError: the search would have no gate steps.
    """
    warmup, search, gates, train = config.warmup, config.search, config.gates, config.train
    weight_steps = search.epochs * batches_per_epoch(pictures.weights, search.batch_size)
    gate_steps = (weight_steps - first_gate_step(config, pictures.weights)) // gates.every
    sampled = gates.networks if gates.mode == "reinforce" else 1
    gate_kind: Kind = "score" if gates.mode == "reinforce" else "gate"
    train_steps = train.epochs * batches_per_epoch(pictures.train, train.batch_size)
    val_steps = train.epochs * math.ceil(pictures.val / train.batch_size)
    goals = len(config.aims)
    rivals = config.comparison.random_networks + config.comparison.short_list
    warmup_steps = warmup.epochs * batches_per_epoch(pictures.weights, warmup.batch_size)
    warmup_batch, search_batch = (
        min(each.batch_size, pictures.weights) for each in (warmup, search)
    )
    gate_batch = min(gates.batch_size, pictures.gates)
    train_batch, val_batch = (
        min(train.batch_size, each) for each in (pictures.train, pictures.val)
    )
    warm_up, weights, alphas = SUPERNET_PARTS
    parts = [
        Work(warm_up, "weight", warmup_steps, warmup_batch),
        Work(weights, "weight", weight_steps, search_batch),
        Work(alphas, gate_kind, sampled * gate_steps, gate_batch),
    ]
    if derive := config.derive.networks and config.derive:
        per_network = math.ceil(min(derive.pictures, pictures.gates) / gates.batch_size)
        scored = goals * derive.networks * (1 + derive.generations)
        lost = race(derive.finalists, derive.round) - begun(derive.finalists, derive.round)
        parts += [
            Work("short list", "score", scored * per_network, gate_batch),
            Work("finalists", "train", goals * lost * train_steps, train_batch),
        ]
    networks = goals * (1 + rivals)
    parts += [
        Work("training", "train", networks * train_steps, train_batch),
        Work("validation", "score", networks * val_steps, val_batch),
    ]
    return [each for each in parts if each.steps]
