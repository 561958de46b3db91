"""The gates as autograd has them: every candidate of every edge computed, y = sum_j g_j o_j(x)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from proxyless_ext import Edges


def weighted_sum(candidates: nn.ModuleList, gates: Tensor, x: Tensor) -> Tensor:
    outputs = [gate * candidate(x) for gate, candidate in zip(gates, candidates, strict=True)]
    return torch.stack(outputs).sum(0)


@contextmanager
def explicit_gates(model: nn.Module, active: Sequence[int]) -> Iterator[list[Tensor]]:
    """Within it, `model` runs all candidates; gives the binary gates of each edge, as leaves."""
    mixed_ops = Edges(model).mixed_ops
    gates = []
    for mixed, path in zip(mixed_ops, active, strict=True):
        gates.append(torch.zeros_like(mixed.alpha).index_fill(0, torch.tensor(path), 1))
        forward = partial(weighted_sum, mixed.candidates, gates[-1].requires_grad_())
        vars(mixed)["forward"] = forward
    try:
        yield gates
    finally:
        for mixed in mixed_ops:
            del vars(mixed)["forward"]
