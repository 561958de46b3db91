"""The stages of a search run, from measuring latencies to the figures of the report.

Each stage leaves its result in the run folder and takes it from there when it is run again, so
that a run can be resumed at any point.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import nn

from ..config import Config
from ..data import Pictures
from ..errors import UserError
from ..latency import LatencyTable, measure_network, measure_table, sample_within
from ..nn import SuperNet
from ..runs import (
    Comparison,
    Competitor,
    Derivation,
    Figures,
    FinalistFigures,
    FinalistsEpoch,
    Result,
    Run,
    ShortListEpoch,
    read_metrics,
)
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
from ..training.phase import Phase, run_phase
from ..zoo import YARDSTICKS, build
from .candidates import Band, Choices
from .derive import derive_choices
from .finalists import Finalists
from .objective import Objective
from .phases import Search, WarmUp
from .short_list import ShortList
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

    def derive(self, supernet: SuperNet) -> Choices:
        """Choose the network and write its architecture."""
        if self.config.derive.networks:
            choices = self._best_finalist(supernet, self._short_list(supernet))
        else:
            choices = derive_choices(supernet, self.objective)
        self._architecture(choices, "derived").save(self.run.outcome.architecture_path)
        return choices

    def _short_list(self, supernet: SuperNet) -> list[Choices]:
        """The finalists: the best networks of the band by the supernet's weights."""
        config = self.config
        log_probabilities = supernet.edges.log_probabilities()
        band = Band.of(self.objective, log_probabilities)
        likeliest = band.likeliest(log_probabilities, math.ceil(config.derive.networks / 2))
        drawn = band.drawn(config.derive.networks, derive_seed(config.seed, "short list"))
        first = list(dict.fromkeys([*likeliest, *drawn]))[: config.derive.networks]
        phase = ShortList(supernet, config, self.runtime, self.data, band, first)
        self._run_phase(phase)
        return [network.choices for network in phase.best_first[: config.derive.finalists]]

    def _best_finalist(self, supernet: SuperNet, finalists: list[Choices]) -> Choices:
        if len(finalists) == 1:
            return finalists[0]
        networks = [(choices, self._beginner(supernet, choices, "train")) for choices in finalists]
        phase = Finalists(networks, self.config, self.runtime, self.data, self.objective)
        self._run_phase(phase)
        if not self.run.outcome.derivation_path.exists():
            self.run.outcome.write_derivation(self._derivation())
        return phase.winner

    def _derivation(self) -> Derivation:
        """How the derived network was chosen, by the records."""
        records = read_metrics(self.run.metrics_path)
        lists = [record.networks for record in records if isinstance(record, ShortListEpoch)]
        scored = {network.choices: network for networks in lists for network in networks}
        rounds = [record.finalists for record in records if isinstance(record, FinalistsEpoch)]
        last = {network.choices: network for networks in rounds for network in networks}
        order = dict.fromkeys(
            network.choices for networks in reversed(rounds) for network in networks
        )
        return Derivation(
            scored=len(scored),
            finalists=tuple(
                FinalistFigures(
                    **self._costs(self._network(choices)).model_dump(exclude_none=True),
                    choices=choices,
                    predicted_ms=self.objective.predicted_ms(choices),
                    held_out_loss=scored[choices].loss,
                    log_probability=scored[choices].log_probability,
                    rounds=sum(
                        choices in {network.choices for network in networks} for networks in rounds
                    ),
                    training_loss=last[choices].loss,
                )
                for choices in order
            ),
        )

    def _network(self, choices: Choices) -> nn.Module:
        return fresh_network(
            self._architecture(choices, "finalist"), self.config, self.runtime, "finalist"
        )

    def train(self, supernet: SuperNet, choices: Choices, name: str = "train") -> nn.Module:
        """Train the network of `choices`; it is returned in eval mode."""
        trained, self.seconds[name] = train_network(
            self._beginner(supernet, choices, name),
            self.run,
            self.config,
            self.runtime,
            self.data,
            name,
        )
        return trained

    def _beginner(self, supernet: SuperNet, choices: Choices, name: str) -> nn.Module:
        """The network of `choices` as its training begins with it."""
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
        return network

    def finish(self, network: nn.Module, choices: Choices) -> Result:
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

    def compare(self, supernet: SuperNet, choices: Choices) -> None:
        """Train others alike, random ones and of the short list; measure the yardsticks.

        Those that were compared before stay.
        """
        before, wanted = self.run.outcome.comparison, self.config.comparison
        rivals = self._rivals(choices, max(wanted.random_networks, len(before.random)))
        listed = self._listed(choices, max(wanted.short_list, len(before.short_list)))
        random, short_list = (
            tuple(
                self._competitor(supernet, each, f"{kind}-{index}")
                for index, each in enumerate(networks)
            )
            for kind, networks in (("random", rivals), ("shortlist", listed))
        )
        yardsticks = []
        if wanted.yardsticks:
            for name in YARDSTICKS:
                yardstick = build(name, len(self.data.classes))
                yardsticks.append(Competitor(name=name, **self._costs(yardstick).model_dump()))
        comparison = Comparison(random=random, short_list=short_list, yardsticks=tuple(yardsticks))
        self.run.outcome.write_comparison(comparison)

    def _competitor(self, supernet: SuperNet, choices: Choices, name: str) -> Competitor:
        network = self.train(supernet, choices, name)
        return Competitor(name=name, **self._figures(network, choices).model_dump())

    def _listed(self, choices: Choices, wanted: int) -> list[Choices]:
        """The best of the short list but for the derived network; fewer where there are no more."""
        records = read_metrics(self.run.metrics_path) if wanted else []
        scored = [each for record in records for each in getattr(record, "networks", ())]
        scored.sort(key=lambda each: self.objective.network_loss(each.loss, each.choices))
        others = [each.choices for each in scored if each.choices != choices]
        return others[:wanted]

    def _rivals(self, choices: Choices, wanted: int) -> list[Choices]:
        """Random networks of the derived one's latency; fewer where there are no more."""
        if not wanted:
            return []
        latency = self.objective.predicted_ms(choices)
        slack = self.config.latency.tolerance * latency
        low, high = latency - slack, latency + slack
        seed = derive_seed(self.config.seed, "random networks")
        drawn = map(tuple, sample_within(self.space, self.table, low, high, wanted + 1, seed))
        found = [rival for rival in drawn if rival != choices][:wanted]
        if len(found) < wanted:
            warnings.warn(
                f"there are only {len(found)} networks of {low:.4g} to {high:.4g} ms to compare "
                f"with, not {wanted}",
                stacklevel=2,
            )
        return found

    def _run_phase(self, phase: Phase) -> None:
        config = self.config
        self.seconds[phase.name] = run_phase(
            phase, self.run, config.seed, config.checkpoint_seconds
        )

    def _architecture(self, choices: Choices, name: str) -> Architecture:
        return for_data(self.space.architecture(choices, name), self.config, self.data)

    def _figures(self, network: nn.Module, choices: Choices) -> Figures:
        scores = validate_network(network, self.config, self.runtime, self.data.val)
        figures = {
            **self._costs(network).model_dump(),
            **scores.as_dict(),
            "predicted_ms": self.objective.predicted_ms(choices),
            "choices": choices,
        }
        return Figures(**figures)

    def _costs(self, network: nn.Module) -> Figures:
        """Size and latency; the latter where the table was measured, under its conditions."""
        resolution = self.space.resolution
        measured_ms = None
        if (conditions := self.table.conditions) and conditions.are_of_this_machine:
            measured_ms = measure_network(network, resolution, conditions).mean
        return Figures(**network_size(network, resolution), measured_ms=measured_ms)
