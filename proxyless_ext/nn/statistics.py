"""Whose statistics BatchNorms normalise by, and whether their running ones move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
