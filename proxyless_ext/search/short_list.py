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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import ranks
from ..config import Config
from ..data import Pictures, batches, batches_per_epoch
from ..nn import SuperNet, batch_statistics
from ..runs import Epoch, ScoredNetwork, ShortListEpoch
from ..runtime import Runtime
from ..seeding import derive_seed
from ..training.meter import Meter
from ..training.phase import Batch, Phase
from .candidates import Band, Choices
from .goals import Goal
from .path_scores import PathScores

PARENTS = 0.25
"""The part of all scored networks that has offspring, the best ones."""

FIGURES = ("loss", "accuracy")
"""Of a scored network, whose means stand in the record of a generation."""


@dataclass
class Listing:
    """The short list of one network to be found.

    Attributes:
        phase: of its records.
        band: what may be handed over.
        log_probabilities: of the candidates by its alphas [E, N].
        proposed: networks that it wants scored in the current generation.
        scored: networks of its band that were, whoever wanted it.
    """

    phase: str
    band: Band
    log_probabilities: Tensor
    proposed: list[Choices]
    scored: list[ScoredNetwork] = field(default_factory=list)

    def holds(self, choices: Choices) -> bool:
        """Whether a network of the current generation belongs here."""
        return choices in self.proposed or self.band.holds(choices)

    @property
    def best_first(self) -> list[ScoredNetwork]:
        """All scored networks, the best first."""
        return best_first(self.scored, self.band.objective.network_loss)

    def offspring(self, known: Collection[Choices], count: int, seed: int) -> list[Choices]:
        """New networks like its best ones."""
        parents = self.best_first[: math.ceil(PARENTS * len(self.scored))]
        return self.band.offspring(
            [network.choices for network in parents], known, count, random.Random(seed)
        )


class ShortList(Phase):
    """Scores networks in generations, of which an epoch is one; all see the same pictures.

    A network's score is the same whoever wants it, so it is scored once for all lists whose band
    holds it, and whoever comes later asks for fewer others.

    Args:
        supernet: after its training; only which paths are active changes.
        config: `config.derive`, and the seed.
        runtime: where the supernet is.
        data: the held-out training pictures, `data.train_gates`.
        path_scores: of the search.
        listings: one for each network to be found, with its part of the first generation.
    """

    name = "shortlist"
    section = "search"
    batch_settings = ("gates.batch_size",)

    def __init__(
        self,
        supernet: SuperNet,
        config: Config,
        runtime: Runtime,
        data: Pictures,
        path_scores: PathScores,
        listings: Sequence[Listing],
    ) -> None:
        self.supernet = supernet
        self.config = config
        self.runtime = runtime
        self.dataset = data.train_gates
        self.path_scores = path_scores
        self.batch_size = config.gates.batch_size
        wanted = math.ceil(config.derive.pictures / self.batch_size)
        self.num_batches = min(wanted, batches_per_epoch(len(self.dataset), self.batch_size))
        self.epochs = 1 + config.derive.generations
        self.listings = listings
        self._begin()

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        stream = batches(
            self.dataset,
            self.batch_size,
            self.config.seed,
            self.name,
            0,  # All generations see the same pictures.
            start,
            workers=self.config.data.workers,
            **self.runtime.reading,
        )
        return islice(stream, self.num_batches - start)

    @torch.no_grad()
    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        pictures, labels = self.runtime.put(pictures), self.runtime.put(labels)
        share, figures = ranks.share(len(labels)), pictures.new_zeros(len(self.generation), 2)
        with batch_statistics(self.supernet), self.runtime.autocast():
            for index, choices in enumerate(self.generation):
                self.supernet.edges.activate(choices)
                logits = self.supernet(pictures)
                loss = functional.cross_entropy(logits, labels)
                accuracy = (logits.argmax(dim=1) == labels).float().mean()
                figures[index] = share.weight * torch.stack([loss, accuracy])
        for own, (loss, accuracy) in zip(self.meters, ranks.mean(figures), strict=True):
            own.add(share.total, loss=loss, accuracy=accuracy)
            meter.add(share.total, loss=loss, accuracy=accuracy)

    def end_epoch(self, epoch: int, meter: Meter) -> list[ShortListEpoch]:
        told = self.path_scores.losses(self.generation)
        records = [
            self._record(epoch, listing, self._scored(listing, told)) for listing in self.listings
        ]
        for listing, record in zip(self.listings, records, strict=True):
            listing.scored += record.networks
        if epoch + 1 < self.epochs:
            self._propose_offspring(epoch)
            self._begin()
        return records

    def _scored(self, listing: Listing, told: Sequence[float]) -> list[ScoredNetwork]:
        """The networks of this generation that belong to a list."""
        edges = range(len(listing.log_probabilities))
        return [
            ScoredNetwork(
                choices=choices,
                **figures.means(),
                predicted=listing.band.objective.predicted(choices),
                path_loss=path_loss,
                log_probability=listing.log_probabilities[edges, choices].sum().item(),
            )
            for choices, path_loss, figures in zip(self.generation, told, self.meters, strict=True)
            if listing.holds(choices)
        ]

    def _record(
        self, epoch: int, listing: Listing, networks: Sequence[ScoredNetwork]
    ) -> ShortListEpoch:
        means = {}
        if networks:
            means = {name: fmean(getattr(each, name) for each in networks) for name in FIGURES}
        return ShortListEpoch(
            phase=listing.phase,
            step=(epoch + 1) * self.num_batches,
            epoch=epoch,
            **means,
            networks=tuple(networks),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "listings": [
                {
                    "scored": [network.model_dump() for network in listing.scored],
                    "proposed": [list(choices) for choices in listing.proposed],
                }
                for listing in self.listings
            ],
            "meters": [meter.state for meter in self.meters],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for listing, saved in zip(self.listings, state["listings"], strict=True):
            listing.scored = [ScoredNetwork.model_validate(fields) for fields in saved["scored"]]
            listing.proposed = [tuple(choices) for choices in saved["proposed"]]
        self._begin()
        self.meters = [Meter(figures) for figures in state["meters"]]

    def _begin(self) -> None:
        proposals = (listing.proposed for listing in self.listings)
        self.generation = list(dict.fromkeys(chain.from_iterable(proposals)))
        self.meters = [Meter() for _ in self.generation]

    def _propose_offspring(self, epoch: int) -> None:
        known = {network.choices for each in self.listings for network in each.scored}
        seed = derive_seed(self.config.seed, "offspring", epoch)
        proposals: list[Choices] = []
        for listing in self.listings:
            shared = sum(map(listing.band.holds, proposals))
            wanted = self.config.derive.networks - shared
            listing.proposed = listing.offspring({*known, *proposals}, wanted, seed)
            proposals += listing.proposed


def scored_networks(records: Iterable[Epoch], goal: Goal) -> list[ScoredNetwork]:
    """The short list of a goal, by a run's records."""
    phase = goal.phase(ShortList.name)
    return [
        network
        for record in records
        if isinstance(record, ShortListEpoch) and record.phase == phase
        for network in record.networks
    ]


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
