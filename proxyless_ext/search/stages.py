"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from ..config import Config
from ..data import Pictures
from ..errors import UserError
from ..latency import LatencyTable, measure_network, measure_table
from ..nn import Network, SuperNet
from ..runs import Figures, Result, Run
from ..runtime import Runtime
from ..seeding import derive_seed
from ..spaces import Architecture, Space
from ..training.continuity import keep_settings
from ..training.evaluation import recalibrate
from ..training.networks import (
    for_data,
    network_size,
    publish_network,
    seeded_network,
    train_network,
    validate_network,
)
from ..training.phase import Phase, run_phase
from .candidates import Choices, warn_of_narrow_band
from .objective import Objective
from .path_scores import PathScores
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
        path_scores: what its weight steps told of the candidates.
        seconds: what each stage took, over all sittings.
    """

    run: Run
    config: Config
    runtime: Runtime
    data: Pictures
    space: Space
    table: LatencyTable
    objective: Objective
    path_scores: PathScores
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
            objective = Objective.of_space(task.space, table, config.latency)
        except UserError as error:
            raise UserError(
                f"{error}; correct {run.config_path} and go on with {run.going_on}"
            ) from error
        warn_of_narrow_band(objective)
        scores = PathScores(list(task.space.counts))
        return cls(run, config, task.runtime, task.data, task.space, table, objective, scores)

    def search(self) -> SuperNet:
        """Warm up and search: the supernet with its final alphas."""
        config, runtime = self.config, self.runtime
        torch.manual_seed(derive_seed(config.seed, "supernet"))
        supernet = SuperNet(self.space).to(memory_format=torch.channels_last)
        supernet.to(runtime.device)
        scores, data = self.path_scores, self.data
        self.run_phase(WarmUp(supernet, scores, config, runtime, data))
        self.run_phase(Search(supernet, scores, config, runtime, data, self.objective))
        return supernet

    def train(self, supernet: SuperNet, choices: Choices, name: str = "train") -> nn.Module:
        """Train the network of `choices`; it is returned in eval mode."""
        trained, self.seconds[name] = train_network(
            self.beginner(supernet, choices, name),
            self.run,
            self.config,
            self.runtime,
            self.data,
            name,
        )
        return trained

    def beginner(self, supernet: SuperNet, choices: Choices, name: str) -> nn.Module:
        """The network of `choices` as its training begins with it."""
        config = self.config
        network = self.fresh(choices, name)
        if config.train.weights == "inherit":
            network.load_state_dict(supernet.derive(choices).state_dict())
            recalibrate(
                network,
                self.data.train,
                config.train.batch_size,
                config.seed,
                self.runtime,
                config.data.workers,
            )
        return network

    def fresh(self, choices: Choices, name: str) -> Network:
        """The network of `choices` with the initial weights that `name` gives."""
        architecture = self.architecture(choices, name)
        return seeded_network(architecture, self.config, self.runtime, name)

    def finish(self, network: nn.Module, choices: Choices) -> Result:
        """Evaluate, measure and publish the trained network."""
        architecture = self.architecture(choices, "derived")
        result = Result(
            **self.figures(network, choices).model_dump(),
            target_ms=self.objective.target_ms,
            onnx_max_difference=publish_network(network, architecture, self.run.outcome),
            seed=self.config.seed,
            seconds=self.seconds,
            classes=self.data.classes,
        )
        self.run.outcome.write_result(result)
        return result

    def run_phase(self, phase: Phase) -> None:
        """Run what is left of a phase, and note what it took."""
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds
        )

    def architecture(self, choices: Choices, name: str) -> Architecture:
        """A network of the space, for the run's pictures."""
        return for_data(self.space.architecture(choices, name), self.config, self.data)

    def figures(self, network: nn.Module, choices: Choices) -> Figures:
        """Accuracy, size and latency of a trained network."""
        scores = validate_network(network, self.config, self.runtime, self.data.val)
        figures = {
            **self.costs(network).model_dump(),
            **scores.as_dict(),
            "predicted_ms": self.objective.predicted_ms(choices),
            "choices": choices,
        }
        return Figures(**figures)

    def costs(self, network: nn.Module) -> Figures:
        """Size and latency; the latter where the table was measured, under its conditions."""
        resolution = self.space.resolution
        measured_ms = None
        if (conditions := self.table.conditions) and conditions.are_of_this_machine:
            measured_ms = measure_network(network, resolution, conditions).mean
        return Figures(**network_size(network, resolution), measured_ms=measured_ms)
