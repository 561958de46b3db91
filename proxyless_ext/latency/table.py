"""Latency tables: what layers cost, and so networks and distributions over networks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ..documents import write_document
from ..errors import UserError
from ..files import write_atomically
from ..spaces import BUILTIN, Architecture, Layer, Space, StrictModel, read_mapping, validate
from .conditions import Conditions
from .costs import Costs
from .rows import read_cell, read_rows

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Entry(StrictModel):
    """A measured latency, or another cost in the unit of its table.

    Attributes:
        count: number of runs; of a fit, of networks.
        mean: their mean in ms.
        var: their variance in ms^2; of a fit, that of what is believed of the mean.
    """

    model_config = ConfigDict(strict=True)

    count: Annotated[int, Field(ge=1)]
    mean: Finite
    var: Finite


class _Spread(StrictModel):
    """An entry of a table of once-for-all's: with the standard deviation, in ms."""

    model_config = ConfigDict(strict=True)

    count: int
    mean: float
    std: Finite


class LatencyTable:
    """Latencies of layers by their keys (`spaces.Layer.key`).

    A network's latency is the sum over its layers; skipped layers cost nothing. E is the number of
    edges of a space, N its largest number of candidates, and every latency is in ms. What else adds
    up over layers, such as energy, is held alike, in a unit of its own.

    Attributes:
        entries: key to measured latency.
        conditions: what they were measured under; None for a table from elsewhere.
        source: where the table comes from, for messages.
        unit: of all costs.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        conditions: Conditions | None = None,
        source: str = "the latency table",
        unit: str = "ms",
    ) -> None:
        self.entries = dict(entries)
        self.conditions = conditions
        self.source = source
        self.unit = unit

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what `save` wrote, or a published table, which is the same without conditions.

        Once-for-all's have the standard deviation `std` in place of `var`. A CSV file has the
        columns key and mean, and perhaps count and var or std.

        Raises:
            UserError: the file cannot be read or holds anything but latencies of at least 0 ms.
        """
        tree = _read_csv(path) if Path(path).suffix == ".csv" else read_mapping(path)
        conditions = _conditions(tree.pop("conditions", None), path)
        unit = tree.pop("unit", "ms")
        if not isinstance(unit, str) or not unit:
            raise UserError(f"{path}: 'unit' must be the name of a unit, such as ms or mJ")
        if not tree:
            raise UserError(f"{path} holds no latencies; measure some with {_command('SPACE')}")
        entries = {key: _entry(key, fields, path) for key, fields in tree.items()}
        return cls(entries, conditions, str(path), unit)

    def save(self, path: str | Path) -> None:
        """Write YAML in the published layout, the conditions in a section of that name.

        Raises:
            UserError: the file cannot be written.
        """
        tree: dict[str, Any] = {}
        if self.unit != "ms":
            tree["unit"] = self.unit
        if self.conditions is not None:
            tree["conditions"] = self.conditions.model_dump(mode="json")
        for key in sorted(self.entries):
            tree[key] = self.entries[key].model_dump()
        write_atomically(path, write_document(tree))

    def latency(self, layer: Layer) -> float:
        """What a layer costs; nothing where it is skipped.

        Raises:
            UserError: the table lacks it.
        """
        self._check([layer], "SPACE")
        return 0.0 if layer.is_skipped else self.entries[layer.key].mean

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network.

        Raises:
            UserError: the table lacks some of its layers.
        """
        layers = architecture.layers()
        self._check(layers, architecture.name)
        return math.fsum(map(self.latency, layers))

    def costs(self, space: Space) -> Costs:
        """What the networks of a space cost.

        Raises:
            UserError: the table lacks layers of the space.
        """
        fixed, edges = space.fixed_layers(), space.edge_layers()
        self._check([*fixed, *chain(*edges)], _options(space))
        rows = [
            [
                math.fsum(self.latency(edges[index][choice]) for index in group.indices)
                for choice in range(len(group.candidates))
            ]
            for group in space.groups
        ]
        return Costs.of(rows, math.fsum(map(self.latency, fixed)), self.unit)

    def bounds(self, space: Space) -> tuple[float, float]:
        """Latencies of the cheapest and the dearest network of a space.

        Raises:
            UserError: the table lacks layers of the space.
        """
        return self.costs(space).bounds

    def uniform(self, space: Space) -> float:
        """Mean latency of a space's networks, all being equally probable.

        Raises:
            UserError: the table lacks layers of the space.
        """
        return self.costs(space).uniform

    def _check(self, layers: Iterable[Layer], measured_by: str) -> None:
        """That there are all of these layers; `measured_by` is what measures them."""
        keys = dict.fromkeys(layer.key for layer in layers if not layer.is_skipped)
        if missing := [key for key in keys if key not in self.entries]:
            raise UserError(
                f"{self.source} lacks {len(missing)} of {len(keys)} layers"
                f"{self._difference(missing)}; measure a table that has them with "
                f"{_command(measured_by)}, or add them to it: {', '.join(missing)}"
            )

    def _difference(self, missing: Iterable[str]) -> str:
        """What the table was made for instead, where its keys tell that."""
        told = []
        for what, pattern in _TELLING.items():
            wanted, known = (
                {match[1] for key in keys if (match := pattern.match(key))}
                for keys in (missing, self.entries)
            )
            if wanted and known and wanted.isdisjoint(known):
                listed = " and ".join(sorted(known, key=int))
                told.append(f"{listed} {what} instead of {', '.join(wanted)}")
        return f" (it has {', '.join(told)})" if told else ""


_TELLING = {
    "pixels": re.compile(r"Conv-input:(\d+)x"),
    "classes": re.compile(r"Logits-input:.*-output:(\d+)$"),
}
"""What keys say of the pictures that a network was made for."""


def _options(space: Space) -> str:
    """What the command that measures a space is given; a space of the user's has a file."""
    if space.name in BUILTIN:
        source = f"{space.name} --resolution {space.resolution}"
    else:
        source = f"{space.name}.yaml"
    return f"{source} --classes {space.num_classes}"


def _command(measured_by: str) -> str:
    return f"`proxyless latency measure {measured_by}`"


def _read_csv(path: str | Path) -> dict[str, Any]:
    """The entries of a CSV file, whose measurements count as one where it does not say how many."""
    tree: dict[str, Any] = {}
    for number, row in read_rows(path, ("key", "mean")):
        key = row.pop("key")
        if key in tree:
            raise UserError(f"{path}: the key '{key}' stands twice; keep one of them")
        tree[key] = {name: read_cell(value, path, number) for name, value in row.items() if value}
        tree[key].setdefault("count", 1)
        if "std" not in tree[key]:
            tree[key].setdefault("var", 0.0)
    return tree


def _conditions(fields: Any, path: str | Path) -> Conditions | None:
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: 'conditions' must hold keys and values; measure the table again")
    return Conditions.recorded(fields, f"{path}: conditions")


def _entry(key: Any, fields: Any, path: str | Path) -> Entry:
    if not isinstance(key, str) or not isinstance(fields, dict):
        raise UserError(f"{path}: '{key}' is no layer with its count, mean and var")
    source = f"{path}: {key}"
    if "std" in fields:
        spread = validate(_Spread, fields, source)
        fields = {"count": spread.count, "mean": spread.mean, "var": spread.std * spread.std}
    return validate(Entry, fields, source)
