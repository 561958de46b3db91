"""The short list: networks of the band, scored with the supernet's weights.

The alphas and the path scores know what a candidate is worth beside the others on average, and
nothing of how candidates go together. So the networks that they prefer, and others, are measured on
held-out training pictures; the best have offspring, which are measured in turn. BatchNorms
normalise by the batch, since a supernet's running statistics are those of no network. What a
network is worth is its place by measured loss and its place by path scores, added up: the two are
wrong about different networks (docs/search.md).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..config import Config
from ..data import Pictures, batches, batches_per_epoch
from ..nn import SuperNet, batch_statistics
from ..runs import ScoredNetwork, ShortListEpoch
from ..runtime import Runtime
from ..seeding import derive_seed
from ..training.meter import Meter
from ..training.phase import Batch, Phase
from .candidates import Band, Choices
from .path_scores import PathScores

PARENTS = 0.25
"""The part of all scored networks that has offspring, the best ones."""


class ShortList(Phase):
    """Scores networks in generations, of which an epoch is one; all see the same pictures.

    Args:
        supernet: after its training; only which paths are active changes.
        config: `config.derive`, and the seed.
        runtime: where the supernet is.
        data: the held-out training pictures, `data.train_gates`.
        band: what may be handed over.
        path_scores: of the search.
        first: the first generation.
    """

    name = "shortlist"
    section = "search"

    def __init__(
        self,
        supernet: SuperNet,
        config: Config,
        runtime: Runtime,
        data: Pictures,
        band: Band,
        path_scores: PathScores,
        first: Sequence[Choices],
    ) -> None:
        self.supernet = supernet
        self.config = config
        self.runtime = runtime
        self.dataset = data.train_gates
        self.band = band
        self.path_scores = path_scores
        self.batch_size = config.gates.batch_size
        wanted = math.ceil(config.derive.pictures / self.batch_size)
        self.num_batches = min(wanted, batches_per_epoch(len(self.dataset), self.batch_size))
        self.epochs = 1 + config.derive.generations
        self.scored: list[ScoredNetwork] = []
        self._begin(first)

    @property
    def best_first(self) -> list[ScoredNetwork]:
        """All scored networks, the best first."""
        return best_first(self.scored, self.band.objective.network_loss)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        stream = batches(
            self.dataset,
            self.batch_size,
            self.config.seed,
            self.name,
            0,  # All generations see the same pictures.
            start,
            workers=self.config.data.workers,
            pin=self.runtime.is_asynchronous,
        )
        return islice(stream, self.num_batches - start)

    @torch.no_grad()
    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        pictures, labels = self.runtime.put(pictures), self.runtime.put(labels)
        with batch_statistics(self.supernet), self.runtime.autocast():
            for index, choices in enumerate(self.generation):
                self.supernet.edges.activate(choices)
                logits = self.supernet(pictures)
                loss = functional.cross_entropy(logits, labels)
                accuracy = (logits.argmax(dim=1) == labels).float().mean()
                self.meters[index].add(len(labels), loss=loss, accuracy=accuracy)
                meter.add(len(labels), loss=loss, accuracy=accuracy)

    def end_epoch(self, epoch: int, meter: Meter) -> ShortListEpoch:
        log_probabilities = self.supernet.edges.log_probabilities().cpu()
        edges = range(len(log_probabilities))
        generation = [
            ScoredNetwork(
                choices=choices,
                **figures.means(),
                predicted_ms=self.band.objective.predicted_ms(choices),
                path_loss=path_loss,
                log_probability=log_probabilities[edges, choices].sum().item(),
            )
            for choices, path_loss, figures in zip(
                self.generation,
                self.path_scores.losses(self.generation),
                self.meters,
                strict=True,
            )
        ]
        self.scored += generation
        if epoch + 1 < self.epochs:
            self._begin(self._offspring(epoch))
        return ShortListEpoch(
            phase=self.name,
            step=(epoch + 1) * self.num_batches,
            epoch=epoch,
            **meter.means(),
            networks=tuple(generation),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "scored": [network.model_dump() for network in self.scored],
            "generation": [list(choices) for choices in self.generation],
            "meters": [meter.state for meter in self.meters],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scored = [ScoredNetwork.model_validate(fields) for fields in state["scored"]]
        self.generation = [tuple(choices) for choices in state["generation"]]
        self.meters = [Meter(figures) for figures in state["meters"]]

    def _begin(self, generation: Sequence[Choices]) -> None:
        self.generation = list(generation)
        self.meters = [Meter() for _ in generation]

    def _offspring(self, epoch: int) -> list[Choices]:
        parents = self.best_first[: math.ceil(PARENTS * len(self.scored))]
        return self.band.offspring(
            [network.choices for network in parents],
            {network.choices for network in self.scored},
            self.config.derive.networks,
            random.Random(derive_seed(self.config.seed, "offspring", epoch)),
        )


def best_first(
    scored: Sequence[ScoredNetwork], worth: Callable[[float, Choices], float]
) -> list[ScoredNetwork]:
    """Networks by the sum of their places by measured loss and by path scores.

    Args:
        scored: the networks.
        worth: what a network of this loss is worth, such as `Objective.network_loss`.
    """
    places = [0] * len(scored)
    for opinion in ("loss", "path_loss"):
        worths = [worth(getattr(each, opinion), each.choices) for each in scored]
        order = sorted(worths)
        places = [
            place + bisect_left(order, worth) for place, worth in zip(places, worths, strict=True)
        ]
    return [scored[index] for index in sorted(range(len(scored)), key=places.__getitem__)]
