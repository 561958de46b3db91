"""What whole networks say about latencies that were measured part by part."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NETWORK_ERROR = 0.02
"""Relative standard error of a whole network's latency."""


class Errors(NamedTuple):
    """How wrong latencies may be before whole networks correct them.

    Attributes:
        part: relative standard error of each part's.
        shared: of the relative error that all parts share.
        common: standard error of the parts that all networks have, relative to a whole network.
    """

    part: float
    shared: float
    common: float


def correct(prior: Tensor, counts: Tensor, totals: Tensor, errors: Errors) -> Tensor:
    """The most probable latencies of parts, given those of whole networks.

    With t ~ N(t0, V) and the networks' y ~ N(X t, s^2), X counting the parts of each, the mean of
    t given y is t0 + V X' (X V X' + s^2)^-1 (y - X t0). V holds three errors: one of each part,
    one that all parts share, and one of the parts that all networks have.

    Args:
        prior: t0, the latencies of the parts as they were measured [K], in ms.
        counts: X, how often each network has each part [M, K].
        totals: y, the latencies of the networks [M], in ms.
        errors: of t0.

    Returns:
        [K], at least 0.
    """
    common = (counts > 0).all(dim=0) * prior
    offset = errors.common * totals.mean() * common / common.sum()
    variance = (
        torch.diag((errors.part * prior).square())
        + (errors.shared * prior).outer(errors.shared * prior)
        + offset.outer(offset)
    )
    noise = (NETWORK_ERROR * totals.mean()).square() * torch.eye(len(totals))
    misfit = torch.linalg.solve(counts @ variance @ counts.T + noise, totals - counts @ prior)
    return (prior + variance @ counts.T @ misfit).clamp(min=0)
