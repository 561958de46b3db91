"""What a run has left in its folder so far.

A run may be going on, or have been stopped, so every file but the configuration may be missing, and
its report says so. A file that is there but cannot be understood is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import lt
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..latency import LatencyTable
from ..runs import (
    Comparison,
    Competitor,
    Derivation,
    Epoch,
    Figures,
    Result,
    Run,
    SearchEpoch,
    phase_name,
    read_metrics,
)
from ..spaces import Architecture, Space, read_mapping
from .verdict import verdict

Value = TypeVar("Value")

SEARCHING = ("warmup", "search", "shortlist", "finalists")
"""Phases that a random network would not have needed."""


@dataclass(frozen=True)
class Contents:
    """The contents of a run folder; None or empty for what is not there.

    Attributes:
        name: of the folder.
        network: that it is about; empty in a run for one.
        trained_as: the first network of the run that is the same, and so was trained for it.
        config: the configuration's text.
        tolerance: how near to its latency target a run should end, as a fraction.
        environment, space, architecture, latency, derivation, result, comparison, metrics: as their
            files.
    """

    name: str
    network: str
    trained_as: str
    config: str
    tolerance: float
    environment: dict[str, Any]
    space: Space | None
    architecture: Architecture | None
    latency: LatencyTable | None
    derivation: Derivation
    result: Result
    comparison: Comparison
    metrics: tuple[Epoch, ...]

    @classmethod
    def load(cls, run: Run, network: str = "") -> Contents:
        """Read all there is about a network.

        Args:
            run: that searched it.
            network: its name, in a run for several.

        Raises:
            UserError: a file cannot be understood.
        """
        settings, device = read_mapping(run.config_path), run.networks[network]
        latency = settings.get("devices", {}).get(device, settings.get("latency", {}))
        outcome = run.outcome_of(network)
        contents = cls(
            name=run.folder.resolve().name,
            network=network,
            trained_as=_trained_as(run, network),
            config=run.config_path.read_text(),
            tolerance=latency.get("tolerance", _TOLERANCE),
            environment=_read(run.environment_path, read_mapping) or {},
            space=_read(run.space_path, Space.load),
            architecture=_read(outcome.architecture_path, Architecture.load),
            latency=_read(run.table_path(device), LatencyTable.load),
            derivation=outcome.derivation,
            result=outcome.result,
            comparison=outcome.comparison,
            metrics=tuple(_read(run.metrics_path, read_metrics) or ()),
        )
        contents._check()
        return contents

    def phase(self, name: str) -> list[Epoch]:
        """The records of one kind of phase, in order."""
        network = self.trained_as if name == "train" else self.network
        names = {name, phase_name(name, network)}
        return [record for record in self.metrics if record.phase in names]

    @property
    def search(self) -> list[SearchEpoch]:
        """The records of the search, in order."""
        return [record for record in self.phase("search") if isinstance(record, SearchEpoch)]

    @property
    def unit(self) -> str:
        """Of all costs."""
        return self.latency.unit if self.latency else self.result.unit

    @property
    def title(self) -> str:
        """What the page is called."""
        return f"{self.name}: {self.network}" if self.network else self.name

    @property
    def derived(self) -> Competitor:
        """The derived network, as it enters comparisons."""
        figures = self.result.model_dump(include=set(Figures.model_fields))
        return Competitor(name="derived network", **figures)

    @property
    def search_trainings(self) -> float | None:
        """What the search took, in trainings of the derived network; None while that is unknown."""
        seconds = self.result.seconds
        searched = sum(seconds.get(name, 0.0) for name in SEARCHING)
        training = seconds.get("train")
        return searched / training if training and searched else None

    @property
    def verdict(self) -> str | None:
        """Whether the search was worth it, in words; None before random networks were trained."""
        return verdict(self.derived, self.comparison, self.search_trainings, self.result.pictures)

    @property
    def derived_operations(self) -> list[str]:
        """What was chosen at every edge; empty before a network is derived."""
        if self.space is None or self.architecture is None:
            return []
        blocks = self.architecture.blocks[len(self.space.fixed_blocks) :]
        return [name for block in blocks for name in block.chosen]

    def _check(self) -> None:
        """That records and network are of the space that lies beside them."""
        if self.space is None:
            return
        shape = list(self.space.counts)
        rows = (record.probabilities for record in self.search)
        if any([len(row) for row in row_per_group] != shape for row_per_group in rows):
            raise _foreign("records", self.name)
        finalists = [finalist.choices or () for finalist in self.derivation.finalists]
        if not all(
            len(choices) == len(shape) and all(map(lt, choices, shape)) for choices in finalists
        ):
            raise _foreign("finalists in derivation.json", self.name)
        chosen = self.derived_operations
        fits = len(chosen) == len(self.space.edges) and all(
            chosen[index] == chosen[group.indices[0]] and chosen[index] in group.candidates
            for group in self.space.groups
            for index in group.indices
        )
        if self.architecture is not None and not fits:
            raise _foreign("architecture.json", self.name)


_TOLERANCE = 0.05  # The configuration's default.


def _read(path: Path, reader: Callable[[Path], Value]) -> Value | None:
    return reader(path) if path.is_file() else None


def _trained_as(run: Run, network: str) -> str:
    if not (found := run.outcome_of(network).result.choices):
        return network
    return next(each for each in run.networks if run.outcome_of(each).result.choices == found)


def _foreign(what: str, run: str) -> UserError:
    return UserError(
        f"the {what} of run '{run}' do not fit its space.yaml; restore the space that was searched"
    )
