"""Runs so small that they take a second: four edges, pictures of 8 pixels, made-up latencies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from proxyless_ext.config import Config, load_config
from proxyless_ext.data import load_pictures
from proxyless_ext.latency import Entry, LatencyTable
from proxyless_ext.runs import Result, Run, load_checkpoint, read_metrics
from proxyless_ext.search import Task, run_search
from proxyless_ext.spaces import Layer, Space, Stage, Stem

PHASES = ("warmup", "search", "shortlist", "finalists", "train")

SPACE = Space(
    name="tiny",
    resolution=8,
    num_classes=10,
    stem=Stem(out_channels=4, stride=1),
    candidates=("k3e1", "k3e2", "k5e2", "zero"),
    stages=(Stage(channels=4, cells=2), Stage(channels=6, cells=2, stride=2)),
    feature_mix=8,
)

_SETTINGS = {
    "runtime.threads": 1,
    "checkpoint_seconds": 1e-9,  # After every step.
    "data.limit": 100,
    "data.val_fraction": 0.05,
    "warmup.epochs": 2,
    "warmup.batch_size": 16,
    "search.epochs": 3,
    "search.batch_size": 16,
    "gates.every": 1,
    "gates.lr": 0.1,
    "gates.batch_size": 16,
    "gates.networks": 3,
    "derive.networks": 5,
    "derive.generations": 1,
    "derive.pictures": 32,
    "derive.finalists": 3,
    "derive.round": 0.25,
    "train.epochs": 2,
    "train.batch_size": 25,
    "comparison.yardsticks": False,
}


def layers(space: Space) -> Iterator[Layer]:
    """Everything that a latency table of the space needs."""
    yield from space.fixed_layers()
    for candidates in space.edge_layers():
        yield from (layer for layer in candidates if not layer.is_skipped)


def table_of(space: Space) -> LatencyTable:
    """A table with latencies of around a millisecond, no two of which are alike."""
    entries = {
        layer.key: Entry(count=1, mean=0.5 + math.sqrt(index / 8), var=0.0)
        for index, layer in enumerate(layers(space))
    }
    return LatencyTable(entries)


def write_inputs(folder: Path, space: Space = SPACE) -> dict[str, str]:
    """The files that a search of a user's own space needs, and the settings that name them."""
    space.save(folder / "space.yaml")
    table_of(space).save(folder / "table.yaml")
    return {
        "space.name": str(folder / "space.yaml"),
        "latency.table": str(folder / "table.yaml"),
    }


def tiny_config(
    folder: Path, settings: dict[str, Any] | None = None, space: Space = SPACE
) -> Config:
    """The configuration of a tiny search whose inputs are made in `folder`."""
    return load_config(None, {**_SETTINGS, **write_inputs(folder, space), **(settings or {})})


def settings_of(*sections: str) -> list[str]:
    """The options of the command line that set what `tiny_config` sets in these sections."""
    options = []
    for key, value in _SETTINGS.items():
        if key.split(".")[0] in sections:
            options += ["--set", f"{key}={value}"]
    return options


def begin(folder: Path, config: Config) -> Run:
    """A run that has begun."""
    config = config.anchored()
    pictures = load_pictures(config.data, 8, config.seed).inventory.model_dump(mode="json")
    run = Run.create(folder, config.model_dump(mode="json"), config.seed, pictures)
    run.let_go()  # Sittings in other processes go on with it.
    return run


def search(run: Run, **settings: Any) -> Result:
    """Search, as `proxyless search --resume` does, with some settings changed for this sitting."""
    (result,) = specialise(run, **settings)
    return result


def specialise(run: Run, **settings: Any) -> list[Result]:
    """The same of a run for any number of networks, as `proxyless specialise --resume` does."""
    resumed = Run.resume(run.folder)
    try:
        config = load_config(resumed.config_path, settings)
        return run_search(resumed, config, Task.load(config, resumed))
    finally:
        resumed.let_go()


def remains(run: Run) -> dict[str, Any]:
    """All that must not depend on when a run was interrupted."""
    checkpoints = {path.stem: load_checkpoint(path) for path in run.checkpoints_path.iterdir()}
    records = read_metrics(run.metrics_path)
    return {
        "checkpoints": {
            name: exactly(_without(state, "seconds")) for name, state in checkpoints.items()
        },
        "records": [_without(record.model_dump(), "time") for record in records],
        "networks": {name: network_remains(run, name) for name in run.networks},
    }


def network_remains(run: Run, name: str = "") -> dict[str, Any]:
    """The same of one of its networks."""
    outcome = run.outcome_of(name)
    result = json.loads(outcome.result_path.read_text())
    comparison = json.loads(outcome.comparison_path.read_text())
    return {
        "weights": exactly(load_checkpoint(outcome.weights_path)),
        "architecture": outcome.architecture_path.read_text(),
        "result": _without(result, "seconds", "measured"),
        "comparison": {
            kind: [_without(row, "measured") for row in rows] for kind, rows in comparison.items()
        },
    }


def exactly(state: Any) -> Any:
    """Nested state in which every tensor is its type, shape and bits, so that == means equal."""
    if isinstance(state, dict):
        return {key: exactly(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [exactly(value) for value in state]
    if isinstance(state, Tensor):
        values = state.detach().contiguous()
        return str(values.dtype), tuple(values.shape), values.numpy().tobytes()
    return state


def _without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
