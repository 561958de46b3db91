"""The configuration of a run: all that a YAML file or the command line can set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from ..data import DataConfig
from ..errors import UserError
from ..runs import network_name
from ..spaces import StrictModel
from .latency import LatencyConfig
from .paths import move_paths
from .sections import (
    ComparisonConfig,
    DeriveConfig,
    GatesConfig,
    RuntimeConfig,
    SearchConfig,
    SpaceConfig,
    TrainConfig,
    WarmupConfig,
)
from .values import Positive


class Aim(NamedTuple):
    """What one network of a run is searched for.

    Attributes:
        name: of the device and the target, such as ``phone-40%``; empty in a run for one network.
        device: its name; empty there, too.
        latency: of the device, with the target.
    """

    name: str
    device: str
    latency: LatencyConfig


class Config(StrictModel):
    """A whole run.

    Attributes:
        seed: of every random decision of the run.
        checkpoint_seconds: how much time a kill may cost.
        checkpoints_kept: while a phase runs, so that one before serves if the last is damaged; of
            phases that have ended the last is kept.
        plugins: Python files that register operations of one's own.
        latency: of a run for one network; what `devices` leave out about targets is that of it.
        devices: of a run for several networks, by their names, each in place of `latency`.
        targets: for every device, instead of its own.
        left_out: names of networks that are not searched, such as ``phone-10ms``; at a size where
            they are out of reach, they come here by themselves.
    """

    seed: int = Field(0, ge=0)
    plugins: tuple[Path, ...] = ()
    checkpoint_seconds: Positive = 60.0
    checkpoints_kept: Annotated[int, Field(ge=1, le=100)] = 2
    runtime: RuntimeConfig = RuntimeConfig()
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    latency: LatencyConfig = LatencyConfig()
    devices: dict[str, LatencyConfig] = Field(default_factory=dict)
    targets: tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...] = ()
    left_out: tuple[str, ...] = ()
    warmup: WarmupConfig = WarmupConfig()
    search: SearchConfig = SearchConfig()
    gates: GatesConfig = GatesConfig()
    derive: DeriveConfig = DeriveConfig()
    train: TrainConfig = TrainConfig()
    comparison: ComparisonConfig = ComparisonConfig()

    @property
    def most_paths(self) -> int:
        """Of a weight step of the supernet, in warm-up or search."""
        return max(self.warmup.paths_per_step, self.search.paths_per_step)

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.targets and not self.devices:
            raise UserError(
                "targets are of devices, and there are none; give --device, or set latency.target"
            )
        for device, latency in self.devices.items():
            if not re.fullmatch(r"[\w+-][\w.+ -]*", device):
                raise UserError(
                    f"a device cannot be called '{device}'; use letters, digits, '_', '-' and '.'"
                )
            if latency.regularizer != "target":
                raise UserError(
                    f"device '{device}' has the regularizer '{latency.regularizer}', and networks "
                    "for several devices are searched with 'target'; leave it out"
                )
        names = [aim.name for aim in self.aims]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"'{min(twice)}' is asked for twice; leave out one of them")
        for aim in self.aims:
            aim.latency.check_target()
        known = [aim.name for aim in self.model_copy(update={"left_out": ()}).aims]
        if unknown := set(self.left_out) - set(known):
            raise UserError(
                f"left_out names '{min(unknown)}', which is none of {', '.join(known)}; remove it"
            )
        if len(names) > 1 and self.search.paths != "uniform":
            raise UserError(
                f"search.paths is '{self.search.paths}', so that weights depend on the target, and "
                f"{len(names)} networks cannot share them; set it to 'uniform'"
            )
        return self

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What is searched for: one network, or one for every device and target."""
        if not self.devices:
            return (Aim("", "", self.latency),)
        return tuple(
            Aim(name, device, latency.model_copy(update={"target": target}))
            for device, latency in self.devices.items()
            for target in self.targets or (latency.target,)
            if (name := network_name(device, target)) not in self.left_out
        )

    def anchored(self) -> Config:
        """The same with absolute paths, which mean the same wherever a run goes on."""
        tree = self.model_dump(mode="json")
        move_paths(tree, Path.cwd())
        return Config.model_validate(tree)
