"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..data import Pictures
from ..errors import UserError
from ..latency import LatencyTable, measure_network, measure_table, sample_within
from ..nn import SuperNet
from ..runs import Run
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from ..training.evaluation import recalibrate
from ..training.networks import (
    for_data,
    fresh_network,
    network_size,
    publish_network,
    train_network,
    validate_network,
)
from ..training.phase import run_phase
from ..zoo import YARDSTICKS, build
from .derive import derive_choices
from .objective import Objective
from .phases import Search, WarmUp
from .task import Task


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
    def prepare(cls, run: Run, config: Config, task: Task) -> Stages:
        """Measure latencies, unless there is a table already.

        Raises:
            UserError: the measured latencies and the target do not fit.
        """
        task.space.save(run.space_path)
        table = task.table or measure_table(task.space, config.latency.conditions())
        table.save(run.latency_path)
        table = LatencyTable.load(run.latency_path)
        try:
            objective = Objective.build(task.space, table, config.latency)
        except UserError as error:
            raise UserError(
                f"{error}; correct {run.config_path} and go on with --resume {run.folder}"
            ) from error
        return cls(run, config, task.data, task.space, table, objective)

    def search(self) -> SuperNet:
        """Warm up and search: the supernet with its final alphas."""
        config = self.config
        torch.manual_seed(derive_seed(config.seed, "supernet"))
        supernet = SuperNet(self.space).to(memory_format=torch.channels_last)
        supernet.to(config.device)
        self._run_phase(WarmUp(supernet, config, self.data))
        self._run_phase(Search(supernet, config, self.data, self.objective))
        return supernet

    def derive(self, supernet: SuperNet) -> list[int]:
        """Choose the network and write its architecture; one candidate index per edge."""
        choices = derive_choices(supernet, self.objective)
        self._architecture(choices, "derived").save(self.run.architecture_path)
        return choices

    def train(self, supernet: SuperNet, choices: list[int], name: str = "train") -> nn.Module:
        """Train the network of `choices`; it is returned in eval mode."""
        config = self.config
        network = fresh_network(self._architecture(choices, name), config, name)
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
        trained, self.seconds[name] = train_network(network, self.run, config, self.data, name)
        return trained

    def finish(self, network: nn.Module, choices: list[int]) -> dict[str, Any]:
        """Evaluate, measure and publish the trained network: what result.json holds."""
        architecture = self._architecture(choices, "derived")
        result = {
            **self._figures(network, choices),
            "target_ms": self.objective.target_ms,
            "onnx_max_difference": publish_network(network, architecture, self.run),
            "seed": self.config.seed,
            "seconds": self.seconds,
            "classes": list(self.data.classes),
        }
        self.run.write_result(result)
        return result

    def compare(self, supernet: SuperNet, choices: list[int]) -> None:
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
                comparison["yardsticks"].append({"name": name, **self._costs(yardstick)})
        self.run.write_comparison(comparison)

    def _run_phase(self, phase: WarmUp | Search) -> None:
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds
        )

    def _architecture(self, choices: list[int], name: str) -> Architecture:
        return for_data(self.space.architecture(choices, name), self.config, self.data)

    def _figures(self, network: nn.Module, choices: list[int]) -> dict[str, Any]:
        return {
            **validate_network(network, self.config, self.data).as_dict(),
            **self._costs(network),
            "predicted_ms": self.objective.predicted_ms(choices),
            "choices": choices,
        }

    def _costs(self, network: nn.Module) -> dict[str, Any]:
        """Size and latency; the latter under the conditions of the table, if it has any."""
        resolution = self.space.resolution
        conditions = self.table.conditions
        return {
            **network_size(network, resolution),
            "measured_ms": conditions and measure_network(network, resolution, conditions).mean,
        }
