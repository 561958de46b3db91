"""A task with a known best candidate at every edge, and a small search that has to find it.

The pictures are white noise: no pixel tells of another, so that a kernel computes only what it
covers. A teacher network applies known depthwise convolutions. Where it has a 7x7, no smaller
kernel will do; where it has a 3x3, all will, and the latency term decides for the smallest; where
it has none, all but zero cost latency for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_ext import Edges, MixedOp, Zero, gates
from proxyless_ext.nn import GateMode
from proxyless_ext.seeding import generator

SearchMode = GateMode | Literal["reinforce"]

KERNEL_SIZES = (3, 5, 7)
PLANTED = [2, 3, 0]  # 7x7, zero, 3x3
LATENCY = torch.tensor([0.5, 0.75, 1.0, 0.0])
LATENCY_WEIGHT = 0.15

CHANNELS = 4
BATCH = (16, CHANNELS, 8, 8)
NETWORKS = 10


def convolution(kernel_size: int) -> nn.Module:
    return nn.Conv2d(
        CHANNELS, CHANNELS, kernel_size, padding=kernel_size // 2, groups=CHANNELS, bias=False
    )


def candidates() -> list[nn.Module]:
    return [*map(convolution, KERNEL_SIZES), Zero()]


class Chain(nn.Module):
    """Edges with shortcuts, each followed by a fixed nonlinear mix of the channels."""

    def __init__(self, operations: Iterable[nn.Module], mixes: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.mixes = mixes
        self.gain = nn.Parameter(torch.ones(CHANNELS, 1, 1))  # Trains whatever is sampled.

    def forward(self, x: Tensor) -> Tensor:
        for operation, mix in zip(self.operations, self.mixes, strict=True):
            x = F.conv2d(torch.tanh(x + operation(x)), mix)
        return self.gain * x


class PlantedTask:
    """Teacher, student and pictures of one seed."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
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

    def batch(self, *name: str | int) -> tuple[Tensor, Tensor]:
        """Pictures and what the teacher makes of them."""
        x = torch.randn(BATCH, generator=generator(self.seed, *name))
        return x, self.teacher(x)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The part of the target's variance that the student misses."""
        x, target = batch
        return F.mse_loss(self.student(x), target) / target.var()

    def add_gate_gradients(self, mode: SearchMode, step: int, baseline: float) -> ...: ...


def search(seed: int, mode: SearchMode, warmup: int = 120, steps: int = 100, lr=0.1, wlr=0.05) -> Edges:
    """Warm up, then alternate weight steps and gate steps."""
    task = PlantedTask(seed)
    edges = task.edges
    weight_optimizer = torch.optim.Adam(edges.weights, lr=wlr)
    alpha_optimizer = torch.optim.Adam(edges.alphas, lr=lr, betas=(0.0, 0.999))
    baseline = None
    for step in range(warmup + steps):
        edges.sample(generator(seed, "path", step))
        weight_optimizer.zero_grad()
        task.loss(task.batch("weights", step)).backward()
        weight_optimizer.step()
        if step < warmup: continue
        batch = task.batch("gates", step)
        draws = generator(seed, "gates", "path", step)
        alpha_optimizer.zero_grad()
        if mode == "reinforce":
            samples=torch.stack([gates.sample(edges.alpha_matrix().detach(), draws) for _ in range(NETWORKS)])
            rewards=[]
            with torch.no_grad():
                for paths in samples:
                    edges.activate(paths.tolist())
                    rewards.append(-(task.loss(batch)+LATENCY_WEIGHT*LATENCY[paths].sum()))
            R=torch.stack(rewards)
            baseline = R.mean() if baseline is None else baseline
            edges.add_gradients(gates.reinforce_gradient(edges.probabilities().detach(), samples, R-baseline))
            baseline = .9*baseline+.1*R.mean()
            alpha_optimizer.step()
        else:
            with edges.gate_step(mode, draws) as gate_step:
                latency = (gate_step.probabilities * LATENCY).sum()
                (task.loss(batch) + LATENCY_WEIGHT * latency).backward()
            gate_step.add_gradients()
            alpha_optimizer.step()
            gate_step.rescale()
    return edges
