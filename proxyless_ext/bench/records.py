"""What is measured, as types that those who measure, print and read it share.

Figures are by peer (`blocks.PEERS`, `supernets.TRAINEES`): times in seconds, memory in bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from .._library import selected_isa
from ..environment import describe_environment
from ..latency.conditions import Count, DeviceName
from ..spaces import StrictModel
from .cases import Case
from .timing import Timing

COMPARED = ("fused", "plain", "channels_last")
"""Whose results are checked, and whose figures are among `Results`."""


class Conditions(StrictModel):
    """What times depend on: the machine, the versions, and how busy it was.

    Attributes:
        cpu, gpu: by their makers' names.
        threads: of torch.
        commit: of the source; None for an installed copy.
        command: that measured.
        isa: instruction set of the fused operators on the CPU.
        load_average: over 1, 5 and 15 minutes, at the start.
        date: in local time, at the start.
        cuda: that torch was built with.
    """

    python: str
    proxyless_ext: str
    torch: str
    torchvision: str
    onnxruntime: str
    platform: str
    cpu: str
    cores: int | None
    threads: int
    gpu: str | None
    commit: str | None
    command: tuple[str, ...]
    isa: str
    load_average: tuple[float, float, float]
    date: str
    cuda: str | None

    @classmethod
    def here(cls) -> Conditions:
        """Of this machine and this moment."""
        return cls.model_validate(
            {
                **describe_environment(),
                "isa": selected_isa(),
                "load_average": os.getloadavg(),
                "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
                "cuda": torch.version.cuda,
            }
        )

    def describe(self) -> str:
        """Where the numbers below it come from, as one line."""
        commit, _, dirty = (self.commit or "unknown").partition("-")
        gpu = f"{self.gpu}, CUDA {self.cuda}; host: " if self.gpu else ""
        return (
            f"{gpu}{self.cpu}, {self.threads} threads, {self.isa} kernels, torch {self.torch}, "
            f"commit {commit[:12]}{' and changes' if dirty else ''}, "
            f"load average {self.load_average[0]:.2f} at the start."
        )


class BlockFigures(StrictModel):
    """Forward and backward of one block, with all gradients, in training mode.

    Attributes:
        name: such as ``16-24 112 s2``: channels, input size, stride.
        space, operation: where it occurs, and what it is.
        edges: of the space, as indices.
        batch: pictures.
        flops, least_bytes, layered_bytes: as `Case` counts them.
        differences: relative ones from float64, of the output and of the worst gradient.
        saved_bytes: what forward keeps for backward.
        seconds: of one run.
    """

    name: str
    space: str
    operation: str
    edges: tuple[int, ...]
    batch: int
    in_channels: int
    out_channels: int
    in_size: int
    stride: int
    flops: int
    least_bytes: int
    layered_bytes: int
    differences: dict[str, dict[str, float]]
    saved_bytes: dict[str, int]
    seconds: dict[str, Timing]

    @classmethod
    def of(
        cls,
        case: Case,
        differences: Mapping[str, dict[str, float]],
        saved_bytes: Mapping[str, int],
        seconds: Mapping[str, Timing],
    ) -> BlockFigures:
        """What was measured of a case."""
        shapes = ("in_channels", "out_channels", "in_size", "stride")
        return cls(
            name=case.name,
            space=case.space.name,
            operation=case.block.operation,
            edges=tuple(case.edges),
            batch=case.batch,
            **{name: getattr(case.layer, name) for name in shapes},
            flops=case.flops,
            least_bytes=case.least_bytes,
            layered_bytes=case.layered_bytes,
            differences=dict(differences),
            saved_bytes=dict(saved_bytes),
            seconds=dict(seconds),
        )


class StepFigures(StrictModel):
    """Whole steps of a supernet.

    Attributes:
        errors: relative distances from float64 of all results.
        seconds: of a ``weight`` step, and of a gate step in each mode.
        saved_bytes: what the forward of a weight step keeps for backward.
        peak_bytes: of a ``weight`` and of a ``gate`` step.
    """

    errors: dict[str, dict[str, float]]
    seconds: dict[str, dict[str, Timing]]
    saved_bytes: dict[str, int]
    peak_bytes: dict[str, dict[str, int]]


BATCHES: dict[DeviceName, int] = {"cpu": 16, "cuda": 32}
"""Pictures of a usual step: half of them keep a CPU of two cores below two minutes."""


class Settings(StrictModel):
    """What `proxyless bench` measures.

    Attributes:
        device: where.
        threads: of torch.
        batch: pictures.
        resolution, width: of the ImageNet space; blocks of small pictures have this width, too.
        rounds, step_rounds: timed runs of each peer, of a block and of a step, the latter at most.
    """

    device: DeviceName = "cpu"
    threads: Count
    batch: int = Field(default_factory=lambda fields: BATCHES[fields["device"]], ge=1)
    resolution: Count = 224
    width: Annotated[float, Field(gt=0)] = 1.0
    rounds: Count = 5
    step_rounds: Count = 3


class Results(StrictModel):
    """What `proxyless bench` found.

    Attributes:
        busy_cores: how many cores other programs kept busy meanwhile; None where that is not known.
        warning: why the times are not to be trusted; None if nothing speaks against them.
    """

    conditions: Conditions
    settings: Settings
    blocks: tuple[BlockFigures, ...]
    steps: StepFigures
    busy_cores: float | None
    warning: str | None
