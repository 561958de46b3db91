"""What a phase is: a fixed number of epochs over batches, which `running` drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ..runs import Epoch, phase_kind
from .meter import Meter

Batch = tuple[Tensor, Tensor]
"""Pictures [B, 3, R, R] and labels [B]."""


class Phase(ABC):
    """One phase of a run: what a step does, and what must survive a kill.

    Attributes:
        name: of its checkpoint and its records.
        section: of the configuration that holds its learning rate.
        batch_settings: of the configuration, which say how large its batches are.
        epochs: how many there are.
        num_batches: in every epoch.
    """

    name: str
    section: str
    epochs: int
    num_batches: int

    @property
    def batch_settings(self) -> Sequence[str]:
        return (f"{self.section}.batch_size",)

    @property
    def kind(self) -> str:
        """What its random decisions are named after: equal for phases that do the same for
        different networks.
        """
        return phase_kind(self.name)

    def networks(self, epoch: int) -> int:
        """How many networks a step of an epoch trains, and so how long it takes."""
        return 1

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on; with several ranks, slices of them.

        Whatever else a step has to wait for is taken here, too, before it changes anything.
        """

    @abstractmethod
    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        """Train on one batch, the `step`-th of the phase; add ``loss`` of all of it to `meter`."""

    @abstractmethod
    def end_epoch(self, epoch: int, meter: Meter) -> Sequence[Epoch]:
        """After an epoch: its records, one for each network that it is about."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a kill."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`."""
