"""Timing on a machine that does other things too.

What disturbs a run only ever adds to its time, and lasts: so everything that is to be compared is
run in turn, over and over, and the mean is taken of the fastest half of the runs.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..progress import progress_bar
from .backends import Run, make_backend
from .backends.base import torch_threads
from .conditions import Conditions
from .table import Entry

PASSES = 3
"""Timed passes over a chain each time its turn comes, after those that warm it up."""


def build_runs(
    modules: Mapping[Hashable, tuple[nn.Module, Tensor]], conditions: Conditions
) -> dict[Hashable, Run]:
    """Prepare modules, each with its input, for `time_chains`.

    Raises:
        UserError: the backend cannot run one of them.
    """
    backend = make_backend(conditions)
    runs = {}
    with progress_bar("building", len(modules)) as bar:
        for key, (module, example) in modules.items():
            runs[key] = backend.build(module, example)
            bar.advance()
    return runs


def count_rounds(conditions: Conditions) -> int:
    """How many rounds give every chain its timed repetitions."""
    return -(-conditions.repetitions // PASSES)


def time_chains(
    runs: Mapping[Hashable, Run],
    rounds: Sequence[Sequence[Sequence[Hashable]]],
    conditions: Conditions,
    rng: random.Random,
) -> dict[Hashable, Entry]:
    """Time chains of runs: what a chain runs in order finds the caches as it would in a network.

    Args:
        runs: by key.
        rounds: for every round the chains to be run in it, in random order.
        conditions: of the measurement.
        rng: for the order.

    Returns:
        The latency of every run that is part of a chain.
    """
    samples: dict[Hashable, list[float]] = {}
    total = sum(map(len, rounds))
    with torch_threads(conditions.threads), progress_bar("timing", total) as bar:
        for chains in rounds:
            for chain in rng.sample(chains, len(chains)):
                for _ in range(conditions.warmup):
                    for key in chain:
                        runs[key]()
                for _ in range(PASSES):
                    for key in chain:
                        samples.setdefault(key, []).append(runs[key]())
                bar.advance()
    return {key: summarise(times) for key, times in samples.items()}


def summarise(times: Sequence[float]) -> Entry:
    """Mean and variance of the fastest half of the times of runs, in ms."""
    fastest = torch.tensor(fastest_half(times), dtype=torch.float64)
    variance, mean = torch.var_mean(fastest, correction=0)
    return Entry(count=len(fastest), mean=mean.item(), var=variance.item())


def fastest_half(times: Sequence[float]) -> list[float]:
    """The times that count, the fastest first."""
    return sorted(times)[: (len(times) + 1) // 2]
