"""The weight optimizer of the published runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..config import OptimizerConfig


def weight_optimizer(
    config: OptimizerConfig, weights: Iterable[nn.Parameter], decay_norms: bool = True
) -> torch.optim.SGD:
    """SGD with Nesterov momentum.

    Args:
        config: rate, momentum and weight decay.
        weights: the parameters; those of BatchNorm and biases are the one-dimensional ones.
        decay_norms: whether weight decay applies to those too (in the search, not in retraining).
    """
    weights = list(weights)
    decayed = [weight for weight in weights if decay_norms or weight.ndim > 1]
    others = [weight for weight in weights if not decay_norms and weight.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


def cosine_rate(lr: float, step: int, steps: int) -> float:
    """The rate at `step` of the half cosine from `lr` to 0 over `steps`."""
    return 0.5 * lr * (1 + math.cos(math.pi * step / steps))


def scheduled_rate(config: OptimizerConfig, step: int, epoch_steps: int) -> float:
    """The rate at `step`: it rises linearly, then it is `cosine_rate`.

    Args:
        config: epochs, those of the rise, and the highest rate.
        step: from 0.
        epoch_steps: steps of an epoch.
    """
    rise = round(config.rise_epochs * epoch_steps)
    if step < rise:
        return config.lr * (step + 1) / (rise + 1)
    return cosine_rate(config.lr, step - rise, config.epochs * epoch_steps - rise)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups of `optimizer` this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """What steps have left in `optimizer`, by the number of the parameter: its `state_dict` without
    rates, decay and the like, which are the configuration's.
    """
    state: dict[int, Any] = optimizer.state_dict()["state"]
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[int, Any]) -> None:
    """Go back to `optimizer_state`."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
