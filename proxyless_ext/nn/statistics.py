"""Holding BatchNorm's running statistics still while its batch statistics are used."""

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
