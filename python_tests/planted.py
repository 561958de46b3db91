"""A task with a known best candidate at every edge, and a small search that has to find it.

The pictures are white noise: no pixel tells of another, so a kernel computes only what it covers.
A teacher network applies known depthwise convolutions. Where it has a 7x7, no smaller kernel will
do. Where it has a 3x3, all will, and the latency term decides for the smallest. Where it has none,
everything but zero costs latency for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_ext import Edges, MixedOp, Zero, gates
from proxyless_ext.nn import GateMode
from proxyless_ext.seeding import generator

SearchMode = GateMode | Literal["reinforce"]

KERNEL_SIZES = (3, 5, 7)
NUM_CANDIDATES = 4  # The last one is zero.
PLANTED = [2, 3, 0]  # 7x7, zero, 3x3
LATENCY = torch.tensor([0.5, 0.75, 1.0, 0.0])
LATENCY_WEIGHT = 0.15

BATCH, CHANNELS, SIZE = 16, 4, 8
WARMUP_STEPS, SEARCH_STEPS = 60, 100
NETWORKS = 10  # of one REINFORCE step


def candidates() -> list[nn.Module]:
    convolutions = (
        nn.Conv2d(CHANNELS, CHANNELS, size, padding=size // 2, groups=CHANNELS, bias=False)
        for size in KERNEL_SIZES
    )
    return [*convolutions, Zero()]


class Chain(nn.Module):
    """Edges with shortcuts, each followed by a fixed nonlinear mix of the channels."""

    def __init__(self, operations: Iterable[nn.Module], mixes: Sequence[Tensor]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.mixes = mixes
        self.gain = nn.Parameter(torch.ones(CHANNELS, 1, 1))  # A weight for paths of zeros alone.

    def forward(self, x: Tensor) -> Tensor:
        for operation, mix in zip(self.operations, self.mixes, strict=True):
            x = F.conv2d(torch.tanh(x + operation(x)), mix)
        return self.gain * x


class PlantedSearch:
    """Teacher, student, and the steps that train the student's weights and alphas."""

    def __init__(self, seed: int, latency_weight: float = LATENCY_WEIGHT) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.latency_weight = latency_weight
        mixes = [
            1.5 * torch.linalg.qr(torch.randn(CHANNELS, CHANNELS)).Q[:, :, None, None]
            for _ in PLANTED
        ]
        planted = [candidates()[choice] for choice in PLANTED]
        for operation in planted:
            for kernel in operation.parameters():
                kernel.data.normal_(std=1 / kernel.shape[-1])
        self.teacher = Chain(planted, mixes).requires_grad_(False)
        self.student = Chain([MixedOp(candidates()) for _ in PLANTED], mixes)
        self.edges = Edges(self.student)
        self.weight_optimizer = torch.optim.Adam(self.edges.weights, lr=0.05)
        self.alpha_optimizer = torch.optim.Adam(self.edges.alphas, lr=0.1, betas=(0.0, 0.999))
        self.baseline: float | None = None

    def batch(self, *name: str | int) -> tuple[Tensor, Tensor]:
        """Pictures and what the teacher makes of them."""
        shape = (BATCH, CHANNELS, SIZE, SIZE)
        x = torch.randn(shape, generator=generator(self.seed, *name))
        return x, self.teacher(x)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The share of the target's variance that the student misses."""
        x, target = batch
        return F.mse_loss(self.student(x), target) / target.var()

    def weight_step(self, step: int) -> None:
        """Train the active path."""
        self.weight_optimizer.zero_grad()
        self.loss(self.batch("weights", step)).backward()
        self.weight_optimizer.step()

    def gate_step(self, mode: SearchMode, step: int) -> Tensor:
        """Train the alphas; returns which of them [E, N] a gradient is due to."""
        batch = self.batch("gates", step)
        draws = generator(self.seed, "paths of gates", step)
        self.alpha_optimizer.zero_grad()
        if mode == "reinforce":
            self._add_reinforce_gradients(batch, draws)
            self.alpha_optimizer.step()
            return torch.ones(len(PLANTED), NUM_CANDIDATES, dtype=torch.bool)
        with self.edges.gate_step(mode, draws) as gate_step:
            latency = (gate_step.probabilities * LATENCY).sum()
            (self.loss(batch) + self.latency_weight * latency).backward()
        gate_step.update(self.alpha_optimizer.step)
        return gate_step.probabilities > 0

    @torch.no_grad()
    def _add_reinforce_gradients(
        self, batch: tuple[Tensor, Tensor], draws: torch.Generator
    ) -> None:
        alpha = self.edges.alpha_matrix()
        samples = torch.stack([gates.sample(alpha, draws) for _ in range(NETWORKS)])
        rewards = torch.empty(NETWORKS)
        for index, paths in enumerate(samples):
            self.edges.activate(paths.tolist())
            latency = LATENCY[paths].sum()
            rewards[index] = -self.loss(batch) - self.latency_weight * latency
        mean = rewards.mean().item()
        baseline = mean if self.baseline is None else self.baseline
        self.edges.add_gradients(
            gates.reinforce_gradient(alpha.softmax(dim=1), samples, rewards - baseline)
        )
        self.baseline = 0.9 * baseline + 0.1 * mean

    def run(self, mode: SearchMode) -> list[int]:
        """Warm up, then alternate weight steps and gate steps; returns the derived choices."""
        for step in range(WARMUP_STEPS + SEARCH_STEPS):
            self.edges.sample(generator(self.seed, "paths of weights", step))
            self.weight_step(step)
            if step >= WARMUP_STEPS:
                self.gate_step(mode, step)
        return self.edges.choices()
