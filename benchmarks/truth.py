"""A ground truth: what every network of a small space comes to when it is trained.

The tables lie in `benchmarks/ground_truth`; `ground_truth.py` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from proxyless_ext.config import Config
from proxyless_ext.data import Inventory
from proxyless_ext.errors import UserError
from proxyless_ext.files import write_atomically
from proxyless_ext.spaces import Space, StrictModel, read_model, validate

CURVE = 8
"""Parts of a training whose mean losses are kept."""


class Training(StrictModel):
    """One training of one network.

    Attributes:
        accuracy, loss: of pictures that no training saw.
        curve: mean training loss of each eighth of the steps.
    """

    accuracy: float
    loss: float
    curve: tuple[float, ...]

    def loss_between(self, start: float, end: float) -> float:
        """Mean training loss of a part of the training, which begins and ends at whole eighths."""
        parts = self.curve[round(start * CURVE) : round(end * CURVE)]
        return sum(parts) / len(parts)


class TruthNetwork(StrictModel):
    """A network: the candidate at every edge, its size, and its trainings, one per seed."""

    choices: tuple[int, ...]
    parameters: int
    macs: int
    predicted_ms: float
    trainings: tuple[Training, ...]

    @property
    def accuracy(self) -> float:
        """The truth: the mean over the seeds."""
        return sum(training.accuracy for training in self.trainings) / len(self.trainings)


class Truth(StrictModel):
    """All networks of a space, trained.

    Attributes:
        settings: how they were trained, and on what.
        pictures: which those were.
        processor: on which latencies were measured.
        space: that they are of.
        networks: in the order of their choices.
    """

    settings: dict[str, Any]
    pictures: Inventory
    processor: str
    space: Space
    networks: tuple[TruthNetwork, ...]

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any], space: Space, data: Inventory) -> Truth:
        """Read a table for searches of `space` on `data`.

        Raises:
            UserError: it cannot be read, or is of another space, other pictures or other trainings.
        """
        truth = read_model(cls, path)
        if truth.space != space.model_copy(update={"weights": truth.space.weights}):
            raise UserError(f"{path} is of another space than '{space.name}'; give its own table")
        if changes := data.changes_since(truth.pictures):
            raise UserError(f"{path} is of other pictures: {changes}; give the same")
        # Settings that came after the table have their defaults.
        if truth_settings(validate(Config, truth.settings, str(path))) != settings:
            raise UserError(f"{path} was made with other settings of data or train; restore them")
        return truth

    def save(self, path: Path) -> None:
        """Write it, a line for each network."""
        tree = self.model_dump(mode="json")
        networks = ",\n".join(json.dumps(network) for network in tree.pop("networks"))
        head = json.dumps(tree, indent=1)[:-2]
        write_atomically(path, f'{head},\n "networks": [\n{networks}\n]}}\n')

    @cached_property
    def by_choices(self) -> dict[tuple[int, ...], TruthNetwork]:
        """The networks by their choices."""
        return {network.choices: network for network in self.networks}

    def __getitem__(self, choices: Sequence[int]) -> TruthNetwork:
        return self.by_choices[tuple(choices)]

    def band(self, target_ms: float, tolerance: float) -> list[TruthNetwork]:
        """The networks within the tolerance of a latency."""
        slack = tolerance * target_ms
        return [each for each in self.networks if abs(each.predicted_ms - target_ms) <= slack]


def truth_settings(config: Config) -> dict[str, Any]:
    """What a truth depends on besides space and pictures; where the pictures lie is no part."""
    tree = config.model_dump(mode="json")
    data = {key: value for key, value in tree["data"].items() if key not in _PLACES}
    return {"data": data, "train": tree["train"]}


_PLACES = ("root", "download", "workers")
