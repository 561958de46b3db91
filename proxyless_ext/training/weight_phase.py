"""The weight steps that every phase takes: SGD on batches of labelled pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..config import Config, OptimizerConfig
from ..data import PictureSet, batches_per_epoch, endless
from ..nn import Slices
from ..runtime import Runtime
from .gradients import GradientMean
from .meter import Meter
from .optim import (
    load_optimizer_state,
    optimizer_state,
    scheduled_rate,
    set_rate,
    weight_optimizer,
)
from .phase import Batch, Phase


class WeightPhase(Phase):
    """Trains a model's weights with SGD, a cosine rate per batch and label smoothing.

    Args:
        name: of the phase.
        model: trained in place.
        weights: those of its parameters that are trained.
        dataset: the pictures.
        schedule: epochs, rate, batch size and the like.
        config: seed and workers.
        runtime: where the model is.
        decay_norms: whether weight decay applies to BatchNorm and biases too.

    Attributes:
        num_paths: of the model that a step trains, each on its part of the batch.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        weights: Iterable[nn.Parameter],
        dataset: PictureSet,
        schedule: OptimizerConfig,
        config: Config,
        runtime: Runtime,
        decay_norms: bool,
    ) -> None:
        self.name = name
        self.model = model
        self.dataset = dataset
        self.schedule = schedule
        self.config = config
        self.runtime = runtime
        self.epochs = schedule.epochs
        self.num_batches = batches_per_epoch(len(dataset), schedule.batch_size)
        self.weights = list(weights)
        self.optimizer = weight_optimizer(schedule, self.weights, decay_norms)
        self.gradients = GradientMean(self.weights)
        self.num_paths = 1
        self.scaler = runtime.scaler()
        # Batches, and how many of the phase's come before the next of them.
        self._stream: Iterator[Batch] | None = None
        self._place = 0
        self.criterion = nn.CrossEntropyLoss(label_smoothing=schedule.label_smoothing)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Of one stream, so that its workers live on from one epoch to the next."""
        place = epoch * self.num_batches + start
        if self._stream is None or place != self._place:
            self._stream, self._place = self._stream_from(place), place
        for _ in range(start, self.num_batches):
            batch = next(self._stream)
            self._place += 1
            yield batch

    def _stream_from(self, place: int) -> Iterator[Batch]:
        return endless(
            self.dataset,
            self.schedule.batch_size,
            self.config.seed,
            self.kind,
            start=place,
            workers=self.config.data.workers,
            **self.runtime.reading,
        )

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        share = ranks.share(len(labels))
        _, loss, hits = self.train_on(step, pictures, labels, share.weight).sum(dim=0)
        meter.add(share.total, loss=loss, accuracy=hits)
        if ranks.are_several():
            meter.add(share.total, reduced_bytes=float(self.gradients.num_bytes))

    def train_on(self, step: int, pictures: Tensor, labels: Tensor, weight: float) -> Tensor:
        """One update of the weights: for each path its part of the batch, and by this part its
        loss and its accuracy [num_paths, 3].

        Of mixed pictures the likeliest class counts.

        Args:
            step: of the phase.
            pictures, labels: this rank's slice of the batch.
            weight: of the slice, as `ranks.Share` has it.
        """
        self.model.train()
        set_rate(self.optimizer, self._rate(step))
        self.optimizer.zero_grad(set_to_none=True)
        pictures, targets = self.mix(step, *map(self.runtime.put, (pictures, labels)))
        paths = self.paths_of_parts(len(targets))
        parts = zip(
            paths, pictures.tensor_split(len(paths)), targets.tensor_split(len(paths)), strict=True
        )
        figures = torch.zeros(self.num_paths, 3, dtype=torch.float64, device=targets.device)
        for left, (path, own, wanted) in enumerate(parts, 1 - len(paths)):
            self.take_path(path)
            loss = self._loss(own, wanted, weight * (len(wanted) / len(targets)), figures[path])
            if left:
                loss.backward()
        with self.gradients.over_ranks(figures, self.slices, apart=self.num_paths > 1):
            loss.backward()
        if self.schedule.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.weights, self.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return figures

    def _loss(self, pictures: Tensor, targets: Tensor, weight: float, figures: Tensor) -> Tensor:
        """The scaled loss of a part of a batch; weighted loss and accuracy are added to figures."""
        with self.runtime.autocast():
            logits = self.model(pictures)
            loss = self.criterion(logits, targets)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        hits = (logits.detach().argmax(dim=1) == labels).float().mean()
        one = torch.ones_like(figures[0])
        figures += weight * torch.stack([one, loss.detach().double(), hits.double()])
        scaled: Tensor = self.scaler.scale(weight * loss)
        return scaled

    def paths_of_parts(self, pictures: int) -> Sequence[int]:
        """For each part of this rank's slice of a batch the path that is trained on it."""
        return [0] * min(self.schedule.parts, pictures)

    def take_path(self, number: int) -> None:
        """Make the `number`-th path of the step the one that the model runs."""

    def mix(self, step: int, pictures: Tensor, labels: Tensor) -> Batch:
        """Pictures, and their classes or probabilities of these [B, classes], to be trained on."""
        return pictures, labels

    def slices(self) -> Mapping[nn.Parameter, Slices]:
        """Outside of which parts of some weights a step's gradients are 0."""
        return {}

    def measures(self, epoch: int, meter: Meter) -> dict[str, Any]:
        """What the record of every phase that trains weights holds."""
        steps = (epoch + 1) * self.num_batches
        coordinates = {"phase": self.name, "step": steps, "epoch": epoch}
        return {**coordinates, **meter.means(), "lr": self._rate(steps - 1)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _rate(self, step: int) -> float:
        return scheduled_rate(self.schedule, step, self.num_batches)
