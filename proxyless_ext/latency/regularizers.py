"""Latency in the loss of a gate step (paper, section 3.3), with the values of the published runs.

Pure functions of the cross entropy and of the expected latency E = fixed + sum over edges of sum_i
p_i latency_i, which is differentiable in the alphas.
"""

from __future__ import annotations

import math

from torch import Tensor


def add_linear(
    cross_entropy: Tensor, expected: Tensor, reference: float, trade_off: float = 0.1
) -> Tensor:
    """``add#linear``: CE + lambda (E - ref) / ref, lambda being `trade_off`."""
    return cross_entropy + trade_off * (expected - reference) / reference


def mul_log(
    cross_entropy: Tensor,
    expected: Tensor,
    reference: float,
    alpha: float = 0.2,
    beta: float = 0.3,
) -> Tensor:
    """``mul#log``: alpha CE (log E / log ref)^beta. Both latencies must be above 1 ms."""
    ratio = expected.log() / math.log(reference)
    return alpha * cross_entropy * ratio**beta
