"""Run folders as a search would leave them, with made-up but plausible figures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from proxyless_ext.latency import Conditions, Entry, LatencyTable
from proxyless_ext.spaces import Layer, MBConvSpec, Space

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def layer_ms(layer: Layer) -> float:
    """A latency that grows with the layer's multiply-accumulates."""
    pixels = layer.out_size**2
    if layer.kind == "classifier":
        return 0.01 + layer.in_channels * layer.out_channels / 4e7
    if layer.kind != "block":
        return 0.01 + 9 * layer.in_channels * layer.out_channels * pixels / 4e7
    if not isinstance(spec := layer.spec, MBConvSpec):
        return 0.0
    per_pixel = layer.in_channels + layer.out_channels + spec.kernel_size**2
    return 0.02 + layer.in_channels * spec.expand_ratio * per_pixel * pixels / 4e7


def make_run(
    folder: Path,
    space: Space,
    epochs: tuple[int, int, int] = (2, 4, 3),
    preferences: Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
) -> Path:
    """A finished run.

    Args:
        folder: to make.
        space: that was searched.
        epochs: of warm-up, search and training.
        preferences: what the alphas grow towards, per edge and candidate; random when absent.
        classes: names.
        seed: of all that is random.
    """
    rng = random.Random(seed)
    if preferences is None:
        preferences = [[rng.gauss(0, 1) for _ in edge.candidates] for edge in space.edges]
    searched = list(_search(space, epochs[1], preferences, rng))
    records = [*_warm_up(epochs[0], rng), *searched, *_training(epochs[2], rng)]
    last = searched[-1]["probabilities"] if searched else preferences
    choices = [max(range(len(row)), key=row.__getitem__) for row in last]
    predicted = _network_ms(space, choices)
    network = {
        "parameters": 1_234_567,
        "macs": 45_678_901,
        "predicted": predicted,
        "unit": "ms",
    }

    config = {"seed": seed, "latency": {"tolerance": 0.1}, "search": {"epochs": epochs[1]}}
    folder.mkdir(parents=True)
    _write_yaml(folder / "config.yaml", config)
    _write_yaml(folder / "space.yaml", space.model_dump(mode="json", exclude_none=True))
    _latency_table(space).save(folder / "latency.yaml")
    space.architecture(choices, "derived").save(folder / "architecture.json")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    _write_json(
        folder / "environment.json",
        {"torch": "2.10.0", "cpu": "Processor X", "cores": 2, "gpu": None, "command": ["a", "b"]},
    )
    _write_json(
        folder / "result.json",
        {
            **network,
            "accuracy": 0.803,
            "top5": 0.987,
            "loss": 0.69,
            "measured": 1.03 * predicted,
            "target": predicted / 1.024,
            "limits": [],
            "devices": {},
            "seed": seed,
            "seconds": {"warmup": 62.1, "search": 401.0, "train": 301.4},
            "onnx_max_difference": 1e-06,
            "classes": list(classes),
            "choices": choices,
            "pictures": 10_000,
        },
    )
    rivals = [
        {
            **network,
            "name": f"random-{index}",
            "accuracy": accuracy,
            "measured": predicted * rng.uniform(0.95, 1.05),
            "choices": choices,
        }
        for index, accuracy in enumerate([0.76, 0.77, 0.78])
    ]
    yardsticks = [
        {"name": "mobilenet_v2", "accuracy": 0.81, **network, "measured": 2 * predicted},
        {"name": "mnasnet1_0", "accuracy": None, **network, "measured": 2.4 * predicted},
    ]
    listed = [
        {**rival, "name": f"shortlist-{index}", "accuracy": accuracy}
        for index, (rival, accuracy) in enumerate(zip(rivals, [0.78, 0.79], strict=False))
    ]
    comparison = {"random": rivals, "short_list": listed, "yardsticks": yardsticks}
    _write_json(folder / "comparison.json", comparison)
    finalists = [
        {
            **network,
            "measured": 1.01 * predicted,
            "choices": choices,
            "held_out_loss": 0.61 + 0.01 * place,
            "path_loss": 0.71 + 0.01 * place,
            "log_probability": -3.5 - place,
            "trained": trained,
            "training_loss": 0.8 + 0.02 * place,
        }
        for place, trained in enumerate([0.25, 0.25, 0.125, 0.125])
    ]
    _write_json(folder / "derivation.json", {"scored": 96, "finalists": finalists})
    return folder


def _warm_up(epochs: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    for epoch in range(epochs):
        done = (epoch + 1) / epochs
        yield {
            **_coordinates("warmup", epoch),
            "loss": 2.3 - 0.8 * done + rng.gauss(0, 0.02),
            "accuracy": 0.1 + 0.35 * done + rng.gauss(0, 0.01),
            "val_accuracy": 0.1 + 0.3 * done + rng.gauss(0, 0.02),
        }


def _search(
    space: Space, epochs: int, preferences: Sequence[Sequence[float]], rng: random.Random
) -> Iterator[dict[str, Any]]:
    wander = [[0.0] * len(row) for row in preferences]
    for epoch in range(epochs):
        done = epoch / max(1, epochs - 1)
        wander = [[0.8 * value + rng.gauss(0, 0.1) for value in row] for row in wander]
        probabilities = [
            _softmax([3 * done * x + math.sin(3 * done) * n for x, n in zip(*rows, strict=True)])
            for rows in zip(preferences, wander, strict=True)
        ]
        choices = [max(range(len(row)), key=row.__getitem__) for row in probabilities]
        record = {
            **_coordinates("search", epoch),
            "loss": 1.6 - 0.5 * done + rng.gauss(0, 0.02),
            "accuracy": 0.5 + 0.2 * done + rng.gauss(0, 0.01),
            "expected": _network_ms(space, choices) * rng.uniform(0.9, 1.1),
            "derived": _network_ms(space, choices),
            "target": _network_ms(space, [0] * len(choices)),
            "trade_off": 0.1 + 0.3 * done,
            "entropy": 1.9 * (1 - done),
            "probabilities": probabilities,
        }
        if epoch > 0:  # The first epoch has no gate steps.
            record |= {"gate_loss": 1.7 - 0.4 * done, "gate_accuracy": 0.45 + 0.18 * done}
        yield record


def _training(epochs: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    for epoch in range(epochs):
        left = math.exp(-4 * (epoch + 1) / epochs)
        yield {
            **_coordinates("train", epoch),
            "loss": 0.5 + 1.8 * left + rng.gauss(0, 0.02),
            "accuracy": 0.9 - 0.8 * left + rng.gauss(0, 0.01),
            "val_loss": 0.7 + 1.6 * left + rng.gauss(0, 0.04),
            "val_accuracy": 0.8 - 0.7 * left + rng.gauss(0, 0.01),
        }


def _coordinates(phase: str, epoch: int) -> dict[str, Any]:
    return {
        "phase": phase,
        "step": 20 * (epoch + 1),
        "epoch": epoch,
        "lr": 0.05,
        "time": 1.7e9 + epoch,
    }


def _softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def _network_ms(space: Space, choices: Sequence[int]) -> float:
    return sum(layer_ms(layer) for layer in space.architecture(choices).layers())


def _latency_table(space: Space) -> LatencyTable:
    layers = [*space.fixed_layers(), *(layer for edge in space.edge_layers() for layer in edge)]
    entries = {
        layer.key: Entry(count=30, mean=layer_ms(layer), var=1e-4)
        for layer in layers
        if not layer.is_skipped
    }
    return LatencyTable(entries, Conditions(backend="onnxruntime", processor="Processor Y"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False))
