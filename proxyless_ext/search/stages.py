"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..data import Pictures, load_pictures
from ..export import export_onnx
from ..files import write_atomically
from ..latency import Conditions, LatencyTable, measure_network, measure_table, sample_within
from ..nn import Network, SuperNet, count_macs, count_parameters
from ..runs import Run, save_checkpoint
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from ..training.evaluation import evaluate, recalibrate
from ..training.phase import run_phase
from ..training.train import Train
from ..zoo import YARDSTICKS, build
from .derive import derive_choices
from .objective import Objective
from .phases import Search, WarmUp


@dataclass
class Stages:
    """A search run and what its stages share.

    Attributes:
        run: its folder.
        config: its configuration.
        data: its pictures.
        space: the space it searches.
        table: latencies of the space's layers.
        objective: what it searches for.
        seconds: what each stage took, over all sittings.
    """

    run: Run
    config: Config
    data: Pictures
    space: Space
    table: LatencyTable
    objective: Objective
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def prepare(cls, run: Run, config: Config) -> Stages:
        """Load the pictures, measure latencies unless a table is given, and check the target.

        Raises:
            UserError: pictures, space, table or target are impossible.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        space = config.space.build()
        data = load_pictures(config.data, space.resolution, config.seed)
        space = space.with_classes(len(data.classes))
        space.save(run.space_path)
        if not run.latency_path.exists():
            _latency_table(config, space).save(run.latency_path)
        table = LatencyTable.load(run.latency_path)
        objective = Objective.build(space, table, config.latency)
        return cls(run, config, data, space, table, objective)

    def search(self) -> SuperNet:
        """Warm up and search: the supernet with its final alphas."""
        config = self.config
        torch.manual_seed(derive_seed(config.seed, "supernet"))
        supernet = SuperNet(self.space).to(config.device, memory_format=torch.channels_last)
        self._run_phase(WarmUp(supernet, config, self.data))
        self._run_phase(Search(supernet, config, self.data, self.objective))
        return supernet

    def derive(self, supernet: SuperNet) -> list[int]:
        """Choose the network and write its architecture; one candidate index per edge."""
        choices = derive_choices(supernet, self.objective)
        self._architecture(choices, "derived").save(self.run.architecture_path)
        return choices

    def train(self, supernet: SuperNet, choices: list[int], name: str = "train") -> nn.Module:
        """Train the network of `choices` and return it, in eval mode."""
        phase = Train(self._network(supernet, choices, name), self.config, self.data, name)
        self._run_phase(phase)
        return phase.result

    def finish(self, network: nn.Module, choices: list[int]) -> dict[str, Any]:
        """Evaluate, measure and export the trained network; write its files and result.json."""
        save_checkpoint(self.run.weights_path, network.state_dict())
        result = {
            **self._figures(network, choices),
            "target_ms": self.objective.target_ms,
            "argmax_ms": None,
            "onnx_max_difference": export_onnx(network, self.space.resolution, self.run.onnx_path),
            "seed": self.config.seed,
            "seconds": self.seconds,
            "classes": list(self.data.classes),
        }
        _write_json(self.run.result_path, result)
        return result

    def compare(self, supernet: SuperNet, choices: list[int]) -> dict[str, Any]:
        """Train random networks of the derived one's latency alike; measure the yardsticks."""
        comparison: dict[str, Any] = {"random": [], "yardsticks": []}
        if count := self.config.comparison.random_networks:
            latency = self.objective.predicted_ms(choices)
            slack = self.config.latency.tolerance * latency
            seed = derive_seed(self.config.seed, "random networks")
            rivals = sample_within(
                self.space, self.table, latency - slack, latency + slack, count, seed
            )
            for index, rival in enumerate(rivals):
                name = f"random-{index}"
                figures = self._figures(self.train(supernet, rival, name), rival)
                comparison["random"].append({"name": name, **figures})
        if self.config.comparison.yardsticks:
            for name in YARDSTICKS:
                yardstick = build(name, len(self.data.classes))
                size = self._size(yardstick)
                comparison["yardsticks"].append({"name": name, "accuracy": None, **size})
        _write_json(self.run.comparison_path, comparison)
        return comparison

    def _run_phase(self, phase: WarmUp | Search | Train) -> None:
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds
        )

    def _architecture(self, choices: list[int], name: str) -> Architecture:
        own = {"dropout": self.config.train.dropout, "classes": self.data.classes}
        return self.space.architecture(choices, name).model_copy(update=own)

    def _network(self, supernet: SuperNet, choices: list[int], name: str) -> Network:
        """The network of `choices` with the weights that its training starts from."""
        config = self.config
        torch.manual_seed(derive_seed(config.seed, name, "weights"))
        network = Network(self._architecture(choices, name))
        network.to(config.device, memory_format=torch.channels_last)
        if config.train.weights == "inherit":
            network.load_state_dict(supernet.derive(choices).state_dict())
            recalibrate(
                network,
                self.data.train,
                config.train.batch_size,
                config.seed,
                device=config.device,
                workers=config.data.workers,
            )
        return network

    def _figures(self, network: nn.Module, choices: list[int]) -> dict[str, Any]:
        config = self.config
        scores = evaluate(
            network, self.data.val, config.train.batch_size, config.device, config.data.workers
        )
        return {
            **scores.as_dict(),
            **self._size(network),
            "predicted_ms": self.objective.predicted_ms(choices),
            "choices": choices,
        }

    def _size(self, network: nn.Module) -> dict[str, Any]:
        resolution = self.space.resolution
        return {
            "parameters": count_parameters(network),
            "macs": count_macs(network, resolution),
            "measured_ms": measure_network(network, resolution, self.table.conditions).mean,
        }


def _latency_table(config: Config, space: Space) -> LatencyTable:
    latency = config.latency
    if latency.table:
        return LatencyTable.load(latency.table)
    conditions = Conditions(
        backend=latency.backend,
        batch_size=latency.batch_size,
        threads=latency.threads,
        warmup=latency.warmup,
        repetitions=latency.repetitions,
    )
    return measure_table(space, conditions)


def _write_json(path: Any, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")
