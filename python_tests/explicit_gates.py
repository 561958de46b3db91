"""The gates as autograd has them: every candidate of every edge computed, y = sum_j g_j o_j(x)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from proxyless_ext import Edges


def weighted_sum(candidates: nn.ModuleList, gates: Tensor, x: Tensor) -> Tensor:
    outputs = [gate * candidate(x) for gate, candidate in zip(gates, candidates, strict=True)]
    return torch.stack(outputs).sum(0)


def with_explicit_gates(model: nn.Module, active: Sequence[int]) -> tuple[nn.Module, list[Tensor]]:
    """A copy of `model` that runs all candidates, and the binary gates of each edge as leaves."""
    twin = copy.deepcopy(model)
    gates = []
    for mixed, path in zip(Edges(twin).mixed_ops, active, strict=True):
        gates.append(torch.zeros_like(mixed.alpha).index_fill(0, torch.tensor(path), 1))
        forward = partial(weighted_sum, mixed.candidates, gates[-1].requires_grad_())
        vars(mixed)["forward"] = forward
    return twin, gates
