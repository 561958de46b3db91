"""How near the argmax of a search ends to its latency target, without training anything.

    python -m benchmarks.target_simulation

Alphas of 16 edges with 7 candidates learn by Adam from noisy gate gradients in which slower
candidates tend to be the better ones, under `LatencyTarget`. Prints, per length of the search and
target, how far the argmax's latency and the expected latency ended from it (four seeds), and the
time that the target took per gate step.
"""

from __future__ import annotations

import time

import torch

from proxyless_ext import gates
from proxyless_ext.search import LatencyTarget
from proxyless_ext.seeding import generator

EDGES, CANDIDATES, FIXED_MS, RATE = 16, 7, 0.1, 0.02


def simulate(seed: int, part: float, steps: int) -> tuple[float, float, float]:
    """Relative miss of the argmax and of the expected latency, and ms per step for the target.

    Args:
        seed: of latencies, preferences and noise.
        part: the target, as a part of the way from the cheapest to the dearest network.
        steps: gate steps.
    """
    rng = generator(seed, "target simulation")
    slower = 1 + torch.arange(CANDIDATES) / 2
    latencies = 0.08 * slower * torch.rand(EDGES, CANDIDATES, generator=rng, dtype=torch.float64)
    latencies[:, -1] = 0.0
    noise = torch.randn(EDGES, CANDIDATES, generator=rng, dtype=torch.float64)
    worth = 0.3 * (latencies / latencies.max()).sqrt() + 0.09 * noise
    cheapest, dearest = latencies.amin(1).sum().item(), latencies.amax(1).sum().item()
    target_ms = FIXED_MS + cheapest + part * (dearest - cheapest)
    target = LatencyTarget(latencies, FIXED_MS, target_ms)
    alpha = torch.nn.Parameter(1e-3 * torch.randn(EDGES, CANDIDATES, generator=rng))
    optimizer = torch.optim.Adam([alpha], lr=RATE, betas=(0.0, 0.999))
    seconds = 0.0
    for _ in range(steps):
        gate_gradient = torch.randn(EDGES, CANDIDATES, generator=rng) - worth.float()
        alpha.grad = gates.alpha_gradient(alpha.detach(), gate_gradient)
        optimizer.step()
        started = time.perf_counter()
        with torch.no_grad():
            alpha.add_(target.charge(alpha))
        seconds += time.perf_counter() - started
    argmax_ms = FIXED_MS + latencies.gather(1, alpha.argmax(1, keepdim=True)).sum().item()
    expected_ms = FIXED_MS + (alpha.softmax(1) * latencies).sum().item()
    return argmax_ms / target_ms - 1, expected_ms / target_ms - 1, 1e3 * seconds / steps


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| steps | target | argmax off by | expected off by | ms a step |")
    print("|---|---|---|---|---|")
    for steps in (300, 1000):
        for part in (0.15, 0.3, 0.5, 0.7):
            runs = [simulate(seed, part, steps) for seed in range(4)]
            argmax, expected, cost = zip(*runs, strict=True)
            cells = [", ".join(f"{miss:+.1%}" for miss in misses) for misses in (argmax, expected)]
            print(f"| {steps} | {part:.0%} | {cells[0]} | {cells[1]} | {sum(cost) / 4:.1f} |")


if __name__ == "__main__":
    main()
