"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import nn

from ..config import Config
from ..data import Pictures
from ..errors import UserError
from ..latency import LatencyTable, measure_network, measure_table, sample_within
from ..nn import SuperNet
from ..runs import Comparison, Competitor, Figures, Result, Run
from ..runtime import Runtime
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from ..training.continuity import keep_settings
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
        runtime: where it runs.
        data: its pictures.
        space: the space it searches.
        table: latencies of the space's layers.
        objective: what it searches for.
        seconds: what each stage took, over all sittings.
    """

    run: Run
    config: Config
    runtime: Runtime
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
        keep_settings(run, config)
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
        return cls(run, config, task.runtime, task.data, task.space, table, objective)

    def search(self) -> SuperNet:
        """Warm up and search: the supernet with its final alphas."""
        config, runtime = self.config, self.runtime
        torch.manual_seed(derive_seed(config.seed, "supernet"))
        supernet = SuperNet(self.space).to(memory_format=torch.channels_last)
        supernet.to(runtime.device)
        self._run_phase(WarmUp(supernet, config, runtime, self.data))
        self._run_phase(Search(supernet, config, runtime, self.data, self.objective))
        return supernet

    def derive(self, supernet: SuperNet) -> list[int]:
        """Choose the network and write its architecture; one candidate index per edge."""
        choices = derive_choices(supernet, self.objective)
        self._architecture(choices, "derived").save(self.run.outcome.architecture_path)
        return choices

    def train(self, supernet: SuperNet, choices: list[int], name: str = "train") -> nn.Module:
        """Train the network of `choices`; it is returned in eval mode."""
        config, runtime = self.config, self.runtime
        network = fresh_network(self._architecture(choices, name), config, runtime, name)
        if config.train.weights == "inherit":
            network.load_state_dict(supernet.derive(choices).state_dict())
            recalibrate(
                network,
                self.data.train,
                config.train.batch_size,
                config.seed,
                runtime,
                config.data.workers,
            )
        trained, self.seconds[name] = train_network(
            network, self.run, config, runtime, self.data, name
        )
        return trained

    def finish(self, network: nn.Module, choices: list[int]) -> Result:
        """Evaluate, measure and publish the trained network."""
        architecture = self._architecture(choices, "derived")
        result = Result(
            **self._figures(network, choices).model_dump(),
            target_ms=self.objective.target_ms,
            onnx_max_difference=publish_network(network, architecture, self.run.outcome),
            seed=self.config.seed,
            seconds=self.seconds,
            classes=self.data.classes,
        )
        self.run.outcome.write_result(result)
        return result

    def compare(self, supernet: SuperNet, choices: list[int]) -> None:
        """Train random networks of the derived one's latency alike; measure the yardsticks."""
        random = [
            Competitor(
                name=f"random-{index}",
                **self._figures(self.train(supernet, rival, f"random-{index}"), rival).model_dump(),
            )
            for index, rival in enumerate(self._rivals(choices))
        ]
        yardsticks = []
        if self.config.comparison.yardsticks:
            for name in YARDSTICKS:
                yardstick = build(name, len(self.data.classes))
                yardsticks.append(Competitor(name=name, **self._costs(yardstick).model_dump()))
        comparison = Comparison(random=tuple(random), yardsticks=tuple(yardsticks))
        self.run.outcome.write_comparison(comparison)

    def _rivals(self, choices: list[int]) -> list[list[int]]:
        """Random networks of the derived one's latency; fewer where there are no more."""
        wanted = self.config.comparison.random_networks
        if not wanted:
            return []
        latency = self.objective.predicted_ms(choices)
        slack = self.config.latency.tolerance * latency
        low, high = latency - slack, latency + slack
        seed = derive_seed(self.config.seed, "random networks")
        found = sample_within(self.space, self.table, low, high, wanted, seed)
        if len(found) < wanted:
            warnings.warn(
                f"there are only {len(found)} of the {wanted} networks of {low:.4g} to {high:.4g} "
                "ms that comparison.random_networks asks for",
                stacklevel=2,
            )
        return found

    def _run_phase(self, phase: WarmUp | Search) -> None:
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds
        )

    def _architecture(self, choices: list[int], name: str) -> Architecture:
        return for_data(self.space.architecture(choices, name), self.config, self.data)

    def _figures(self, network: nn.Module, choices: list[int]) -> Figures:
        scores = validate_network(network, self.config, self.runtime, self.data.val)
        figures = {
            **self._costs(network).model_dump(),
            **scores.as_dict(),
            "predicted_ms": self.objective.predicted_ms(choices),
            "choices": tuple(choices),
        }
        return Figures(**figures)

    def _costs(self, network: nn.Module) -> Figures:
        """Size and latency; the latter where the table was measured, under its conditions."""
        resolution = self.space.resolution
        measured_ms = None
        if (conditions := self.table.conditions) and conditions.are_of_this_machine:
            measured_ms = measure_network(network, resolution, conditions).mean
        return Figures(**network_size(network, resolution), measured_ms=measured_ms)
