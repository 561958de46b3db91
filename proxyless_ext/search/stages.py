"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from .. import ranks
from ..config import Config
from ..data import Pictures
from ..errors import UserError
from ..files import make_folder
from ..latency import LatencyTable
from ..nn import Network, SuperNet, synchronise
from ..runs import DeviceCosts, Figures, LimitFigures, Result, Run, phase_kind
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
from ..training.phase import Phase
from ..training.running import Begun, run_phase
from .candidates import Choices, warn_of_narrow_band
from .goals import Device, Goal, make_goals
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
        goals: what it searches for: one network, or one for every device and target.
        path_scores: what its weight steps told of the candidates.
        begun: the trainings of finalists that have not dropped out, by their choices.
        seconds: what each stage took, over all sittings.
    """

    run: Run
    config: Config
    runtime: Runtime
    data: Pictures
    space: Space
    goals: list[Goal]
    path_scores: PathScores
    begun: dict[Choices, Begun] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def prepare(cls, run: Run, config: Config, task: Task) -> Stages:
        """Measure latencies, of devices that have no table already.

        Raises:
            UserError: a device could not be measured, or the measured latencies and a target do
                not fit.
        """
        try:
            tables = ranks.of_first(_write_inputs, run, config, task)
            goals = make_goals(run, config, task.space, tables)
        except UserError as error:
            raise run.correctable(error) from error
        for goal in goals:
            ranks.of_first(make_folder, goal.outcome.folder)
            warn_of_narrow_band(goal.objective)
        scores = PathScores(list(task.space.counts))
        return cls(run, config, task.runtime, task.data, task.space, goals, scores)

    @property
    def devices(self) -> list[Device]:
        """Each device once."""
        return list({goal.device.name: goal.device for goal in self.goals}.values())

    def search(self) -> SuperNet:
        """Warm up and search: the supernet, and the final alphas of every goal."""
        config, runtime = self.config, self.runtime
        torch.manual_seed(derive_seed(config.seed, "supernet"))
        supernet = SuperNet(self.space).to(memory_format=torch.channels_last)
        supernet.to(runtime.device)
        if runtime.sync_batch_norm:
            synchronise(supernet)
        scores, data = self.path_scores, self.data
        self.run_phase(WarmUp(supernet, scores, config, runtime, data))
        self.run_phase(Search(supernet, scores, config, runtime, data, self.goals))
        return supernet

    def train(self, supernet: SuperNet, choices: Choices, name: str = "train") -> nn.Module:
        """Train the network of `choices`; it is returned in eval mode.

        The phase ``train`` goes on where finalists left it.
        """
        begun = self.begun.get(choices) if phase_kind(name) == "train" else None
        trained, self.seconds[name] = train_network(
            self.beginner(supernet, choices, name),
            self.run,
            self.config,
            self.runtime,
            self.data,
            name,
            begun,
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

    def finish(self, goal: Goal, network: nn.Module, choices: Choices, training: str) -> Result:
        """Evaluate, measure and publish a trained network.

        Args:
            goal: that it was found for.
            network: in eval mode.
            choices: the candidates that it consists of.
            training: the phase that trained it.
        """
        architecture = self.architecture(choices, goal.name or "derived")
        figures = self.figures(goal, network, choices)
        result = Result(
            **figures.model_dump(),
            devices={
                device.name: DeviceCosts(
                    predicted=device.costs.network(choices),
                    measured=figures.measured
                    if device is goal.device
                    else self.measure(device, network),
                    unit=device.costs.unit,
                )
                for device in self.devices
                if device.name
            },
            target=goal.objective.target,
            limits=tuple(
                LimitFigures(
                    name=limit.name,
                    most=limit.most,
                    predicted=limit.costs.network(choices),
                    unit=limit.costs.unit,
                )
                for limit in goal.objective.limits
            ),
            onnx_max_difference=ranks.of_first(
                publish_network, network, architecture, goal.outcome
            ),
            seed=self.config.seed,
            seconds=self._seconds_of(training),
            classes=self.data.classes,
            pictures=len(self.data.val),
        )
        ranks.of_first(goal.outcome.write_result, result)
        return result

    def _seconds_of(self, training: str) -> dict[str, float]:
        """What one network took, by the kind of the phase, with its part of what all share."""
        kinds = {name: phase_kind(name) for name in self.seconds}
        return {
            kind: self.seconds[name] / (1 if name == training else len(self.goals))
            for name, kind in kinds.items()
            if name in (kind, training)
        }

    def run_phase(self, phase: Phase) -> None:
        """Run what is left of a phase, and note what it took."""
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds, config.checkpoints_kept
        )

    def architecture(self, choices: Choices, name: str) -> Architecture:
        """A network of the space, for the run's pictures."""
        return for_data(self.space.architecture(choices, name), self.config, self.data)

    def figures(self, goal: Goal, network: nn.Module, choices: Choices) -> Figures:
        """Accuracy, size and cost of a trained network, the latter on the goal's device."""
        scores = validate_network(network, self.config, self.runtime, self.data.val)
        figures = {
            **self.costs(goal.device, network).model_dump(),
            **scores.as_dict(),
            "predicted": goal.objective.predicted(choices),
            "choices": choices,
        }
        return Figures(**figures)

    def costs(self, device: Device, network: nn.Module) -> Figures:
        """Size, and latency on a device where that is at hand."""
        measured, unit = self.measure(device, network), device.costs.unit
        size = network_size(network, self.space.resolution)
        return Figures(**size, measured=measured, unit=unit)

    def measure(self, device: Device, network: nn.Module) -> float | None:
        """The latency of a network on a device; None if that is not at hand."""
        return ranks.of_first(device.measure, network, self.space.resolution)


def _write_inputs(run: Run, config: Config, task: Task) -> Mapping[str, LatencyTable]:
    """Write settings, space and latency tables; the tables, by their devices."""
    keep_settings(run, config)
    task.space.save(run.space_path)
    return task.measured(config, run).tables
