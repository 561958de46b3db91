"""Whose statistics BatchNorms normalise by, how and whether their running ones move, and those that
the candidates of an edge share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops


class InputStatistics:
    """Statistics of an input that several candidates read, each computed when first asked for.

    Args:
        x: the input [N, C, H, W].
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x

    @cached_property
    def moments(self) -> Tensor:
        """`ops.mbconv_moments` of x."""
        return ops.mbconv_moments(self._x)

    @cached_property
    def channels(self) -> tuple[Tensor, Tensor]:
        """`ops.separable_statistics` of x."""
        return ops.separable_statistics(self._x)


@contextmanager
def frozen_statistics(*modules: nn.Module) -> Iterator[None]:
    """Within it, every BatchNorm of `modules` leaves its running statistics untouched.

    In training mode batch statistics are used as before; in eval mode nothing changes.
    """
    norms = [
        norm
        for module in modules
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, every BatchNorm normalises by the batch, and all else is as in eval mode.

    Running statistics stay as they are, and are of no account: a supernet's come from whatever
    paths ran last. The modes of all modules are restored.
    """
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    for child, _ in modes:
        if isinstance(child, _BatchNorm):
            child.training = True
    try:
        with frozen_statistics(module):
            yield
    finally:
        for child, training in modes:
            child.training = training


def uses_batch(norm: _BatchNorm) -> bool:
    """Whether it normalises by the batch's statistics."""
    return norm.training or norm.running_mean is None


def count_values(size: Sequence[int]) -> int:
    """Values per channel of an input [N, C, H, W] of a BatchNorm.

    Raises:
        ValueError: it is a single one, which has no statistics.
    """
    batch, _, height, width = size
    count = batch * height * width
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {[*size]}"
        )
    return count


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Update running statistics as PyTorch's BatchNorms do.

    Args:
        norm: whose statistics they are.
        mean, var: of a batch [C], the variance being biased.
        count: values per channel; where it is on a device, at least one.
    """
    if not norm.training or not norm.track_running_stats or norm.running_mean is None:
        return
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    if isinstance(count, int) and count == 0:
        return
    if norm.momentum is None:  # A tensor, which no host has to wait for.
        factor: Any = norm.num_batches_tracked.to(norm.running_mean.dtype).reciprocal()
    else:
        factor = norm.momentum
    unbiased = var * (count / (count - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), factor)
