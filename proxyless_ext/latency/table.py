"""Latency tables: what layers cost, and so networks and distributions over networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ..documents import write_document
from ..errors import UserError
from ..files import write_atomically
from ..spaces import BUILTIN, Architecture, Data, Layer, Space, read_mapping, validate
from .conditions import Conditions
from .costs import Costs

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Entry(Data):
    """A measured latency.

    Attributes:
        count: number of runs.
        mean: their mean in ms.
        var: their variance in ms^2.
    """

    model_config = ConfigDict(strict=True)

    count: Annotated[int, Field(ge=1)]
    mean: Finite
    var: Finite


class LatencyTable:
    """Latencies of layers by their keys (`spaces.Layer.key`).

    A network's latency is the sum over its layers; skipped layers cost nothing. E is the number of
    edges of a space, N its largest number of candidates, and every latency is in ms.

    Attributes:
        entries: key to measured latency.
        conditions: what they were measured under; None for a table from elsewhere.
        source: where the table comes from, for messages.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        conditions: Conditions | None = None,
        source: str = "the latency table",
    ) -> None:
        self.entries = dict(entries)
        self.conditions = conditions
        self.source = source

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what `save` wrote, or a published table, which is the same without conditions.

        Raises:
            UserError: the file cannot be read or holds anything but latencies of at least 0 ms.
        """
        tree = read_mapping(path)
        conditions = _conditions(tree.pop("conditions", None), path)
        if not tree:
            raise UserError(f"{path} holds no latencies; measure some with {_command('SPACE')}")
        entries = {key: _entry(key, fields, path) for key, fields in tree.items()}
        return cls(entries, conditions, str(path))

    def save(self, path: str | Path) -> None:
        """Write YAML in the published layout, the conditions in a section of that name.

        Raises:
            UserError: the file cannot be written.
        """
        tree: dict[str, Any] = {}
        if self.conditions is not None:
            tree["conditions"] = self.conditions.model_dump(mode="json")
        for key in sorted(self.entries):
            tree[key] = self.entries[key].model_dump()
        write_atomically(path, write_document(tree))

    def latency(self, layer: Layer, measured_by: str = "SPACE") -> float:
        """What a layer costs; nothing where it is skipped.

        Args:
            layer: the layer.
            measured_by: what `proxyless latency measure` has to be given to measure it.

        Raises:
            UserError: the table has no such key; says by which command it is measured.
        """
        if layer.is_skipped:
            return 0.0
        try:
            return self.entries[layer.key].mean
        except KeyError:
            raise UserError(
                f"{self.source} has no latency for {layer.key}; measure a table that has it with "
                f"{_command(measured_by)}"
            ) from None

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network.

        Raises:
            UserError: the table lacks one of its layers.
        """
        return math.fsum(self.latency(layer, architecture.name) for layer in architecture.layers())

    def fixed(self, space: Space) -> float:
        """Latency of the layers that all networks of a space have.

        Raises:
            UserError: the table lacks one of them.
        """
        return math.fsum(self.latency(layer, _options(space)) for layer in space.fixed_layers())

    def costs(self, space: Space) -> Costs:
        """What the networks of a space cost.

        Raises:
            UserError: the table lacks a layer of the space.
        """
        rows = [
            [self.latency(layer, _options(space)) for layer in layers]
            for layers in space.edge_layers()
        ]
        return Costs.of(rows, self.fixed(space))

    def bounds(self, space: Space) -> tuple[float, float]:
        """Latencies of the cheapest and the dearest network of a space.

        Raises:
            UserError: the table lacks a layer of the space.
        """
        return self.costs(space).bounds

    def uniform(self, space: Space) -> float:
        """Mean latency of a space's networks, all being equally probable.

        Raises:
            UserError: the table lacks a layer of the space.
        """
        return self.costs(space).uniform


def _options(space: Space) -> str:
    """What the command that measures a space is given; a space of the user's has a file."""
    if space.name in BUILTIN:
        source = f"{space.name} --resolution {space.resolution}"
    else:
        source = f"{space.name}.yaml"
    return f"{source} --classes {space.num_classes}"


def _command(measured_by: str) -> str:
    return f"`proxyless latency measure {measured_by}`"


def _conditions(fields: Any, path: str | Path) -> Conditions | None:
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: 'conditions' must hold keys and values; measure the table again")
    return Conditions.recorded(fields, f"{path}: conditions")


def _entry(key: Any, fields: Any, path: str | Path) -> Entry:
    if not isinstance(key, str) or not isinstance(fields, dict):
        raise UserError(f"{path}: '{key}' is no layer with its count, mean and var")
    return validate(Entry, fields, f"{path}: {key}")
