"""Steps of supernets that are alike but for their layers: whether they agree, and their times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..spaces import Space
from .agreement import check_step, relative_difference
from .memory import gpu_peak_bytes
from .plain import GateMode
from .records import COMPARED
from .supernets import Batch, Trainee, build
from .timing import Run, Timing, alternate


def check_steps(
    trainees: Mapping[str, Trainee], space: Space, batch: Batch, modes: Sequence[GateMode]
) -> dict[str, dict[str, float]]:
    """Relative distances of every result from that in float64, by trainee.

    Args:
        trainees: at least those `COMPARED`; `checkpointed` computes what `channels_last` does.
        space: that they were built from.
        batch: that they train on.
        modes: of gate steps.

    Raises:
        DisagreementError: the fused one is farther away than rounding explains.
    """
    (exact,) = build(["plain"], space, batch).values()
    exact.take(batch, torch.float64)
    expected = _outcomes(exact, modes)
    errors: dict[str, dict[str, float]] = {what: {} for what in expected}
    for name in COMPARED:
        for what, outcome in _outcomes(trainees[name], modes).items():
            errors[what][name] = relative_difference(outcome, expected[what])
    for what, by_name in errors.items():
        check_step(what, by_name)
    return errors


def _outcomes(trainee: Trainee, modes: Sequence[GateMode]) -> dict[str, list[Tensor]]:
    return {
        "gradients of weights": trainee.weight_gradients(seed=0),
        "running statistics": trainee.statistics(),
        **{f"gradients of gates, {mode}": [trainee.gate_step(0, mode)] for mode in modes},
    }


def time_weight_steps(
    trainees: Mapping[str, Trainee],
    rounds: int,
    paths: int,
    device: str = "cpu",
    limit: float = math.inf,
) -> dict[str, Timing]:
    """Of a weight step, the mean of so many random paths, which are the same for all.

    The other arguments are those of `alternate`.
    """
    runs = {name: partial(_weight_steps, trainee, paths) for name, trainee in trainees.items()}
    return alternate(runs, rounds, steps=paths, device=device, limit=limit)


def time_gate_steps(
    trainees: Mapping[str, Trainee],
    rounds: int,
    mode: GateMode,
    device: str = "cpu",
    limit: float = math.inf,
) -> dict[str, Timing]:
    """Of a gate step in a mode; `checkpointed` is left out, whose gate steps are the others'."""
    runs = {
        name: partial(trainee.gate_step, 0, mode)
        for name, trainee in trainees.items()
        if name != "checkpointed"
    }
    return alternate(runs, rounds, device=device, limit=limit)


def _weight_steps(trainee: Trainee, paths: int) -> None:
    for seed in range(paths):
        trainee.weight_step(seed)


def gpu_peaks(trainees: Mapping[str, Trainee]) -> dict[str, dict[str, int]]:
    """Peaks in bytes of a ``weight`` and of a ``gate`` step, by trainee, on the current GPU."""
    peaks: dict[str, dict[str, int]] = {"weight": {}, "gate": {}}
    for name, trainee in trainees.items():
        steps: dict[str, Run] = {
            "weight": partial(trainee.weight_step, 0),
            "gate": partial(trainee.gate_step, 0, "recompute"),
        }
        for step, run in steps.items():
            trainee.model.zero_grad()
            peaks[step][name] = gpu_peak_bytes(run)
    return peaks
