"""Gates, target and derivation alone: what they find when every loss they see is the truth's.

    python -m benchmarks.oracle_gates benchmarks/ground_truth/fashion.json \\
        --latency benchmarks/ground_truth/fashion_latency.yaml

There is no supernet and no training. Gate gradients are differences of the true test losses of
networks that differ at one edge, the short list and every round of the finalists see such losses
too, each with noise of half a standard deviation of a band. Prints ranks in the band by that truth,
for five targets and four seeds: of the likeliest network, of the one that was found by measuring,
and of the one that has the lowest loss if all of the band are measured once.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from proxyless_ext import gates
from proxyless_ext.config import DeriveConfig, LatencyConfig
from proxyless_ext.latency import LatencyTable
from proxyless_ext.search import LatencyTarget, Objective
from proxyless_ext.search.candidates import Band, Choices
from proxyless_ext.search.finalists import rounds
from proxyless_ext.search.short_list import PARENTS
from proxyless_ext.seeding import derive_seed, generator
from proxyless_ext.spaces import read_model

from .quality import KnownBand
from .truth import Truth

TARGETS = ("25%", "40%", "50%", "65%", "80%")
TOLERANCE = 0.05
SEEDS = 4
NOISE = 0.5
DERIVE = DeriveConfig(networks=40, generations=2, finalists=48, round=0.125)


class Oracle:
    """The true test loss of every network, in standard deviations of a band, with noise."""

    def __init__(self, truth: Truth, band: KnownBand, seed: int) -> None:
        self.means = {
            network.choices: statistics.fmean(each.loss for each in network.trainings)
            for network in truth.networks
        }
        self.sd = statistics.stdev(self.means[network.choices] for network in band.networks)
        self.random = random.Random(seed)

    def loss(self, choices: Choices) -> float:
        """Of a network, as it was measured just now."""
        return self.means[choices] / self.sd + self.random.gauss(0, NOISE)


def learn(oracle: Oracle, objective: Objective, steps: int, lr: float, seed: int) -> torch.Tensor:
    """Alphas after a search by gate steps over all candidates [E, N]."""
    costs = objective.costs
    assert objective.pricing is not None
    alpha = costs.exists.float().log()
    target = LatencyTarget(costs.edges, costs.fixed, objective.pricing.target)
    parameter = torch.nn.Parameter(alpha)
    optimizer = torch.optim.Adam([parameter], lr=lr, betas=(0.0, 0.999))
    for step in range(steps):
        path = gates.sample(parameter.detach(), generator(seed, "oracle", step)).tolist()
        gradient = torch.zeros_like(alpha)
        for edge, count in enumerate(costs.counts):
            for choice in range(count):
                other = (*path[:edge], choice, *path[edge + 1 :])
                gradient[edge, choice] = oracle.loss(other)
        parameter.grad = gates.alpha_gradient(parameter.detach(), gradient)
        optimizer.step()
        with torch.no_grad():
            parameter.add_(target.charge(parameter))
    return parameter.detach()


def short_list(oracle: Oracle, band: Band, scores: torch.Tensor, seed: int) -> list[Choices]:
    """The best of what `search.short_list` would score, in the order of the oracle."""
    rng = random.Random(derive_seed(seed, "offspring"))
    likeliest = band.likeliest(scores, DERIVE.networks // 2)
    drawn = band.drawn(DERIVE.networks, seed)
    generation = list(dict.fromkeys([*likeliest, *drawn]))[: DERIVE.networks]
    losses: dict[Choices, float] = {}
    for _ in range(1 + DERIVE.generations):
        losses |= {choices: oracle.loss(choices) for choices in generation}
        best = sorted(losses, key=losses.__getitem__)
        parents = best[: -int(-PARENTS * len(best) // 1)]
        generation = band.offspring(parents, losses, DERIVE.networks, rng)
    return sorted(losses, key=losses.__getitem__)[: DERIVE.finalists]


def best_finalist(oracle: Oracle, finalists: Sequence[Choices]) -> Choices:
    """The one that is left when the oracle tells the losses of every round."""
    left = list(finalists)
    for each in rounds(len(left), DERIVE.round):
        left = sorted(left[: each.finalists], key=oracle.loss)
    return left[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("truth", type=Path, help="the table of all networks")
    parser.add_argument("--latency", type=Path, required=True, help="the space's latency table")
    parser.add_argument("--steps", type=int, default=300, help="gate steps")
    parser.add_argument("--lr", type=float, default=0.01, help="of the alphas")
    arguments = parser.parse_args()
    truth = read_model(Truth, arguments.truth)
    table = LatencyTable.load(arguments.latency)
    print("| target | networks | of the likeliest | of the network found | if all are measured |")
    print("|---|---|---|---|---|")
    for target in TARGETS:
        latency = LatencyConfig(table=arguments.latency, target=target, tolerance=TOLERANCE)
        objective = Objective.of_space(truth.space, table, latency)
        known = KnownBand(truth, latency)
        members = [network.choices for network in known.networks]
        ranks: list[list[int]] = []
        for seed in range(SEEDS):
            oracle = Oracle(truth, known, seed)
            alpha = learn(oracle, objective, arguments.steps, arguments.lr, seed)
            scores = alpha.double().log_softmax(1)
            band = Band.of(objective)
            (likeliest,) = band.likeliest(scores, 1)
            found = best_finalist(oracle, short_list(oracle, band, scores, seed))
            order = sorted(members, key=oracle.means.__getitem__)
            chosen = (likeliest, found, min(members, key=oracle.loss))
            ranks.append([1 + order.index(choices) for choices in chosen])
        cells = [", ".join(map(str, each)) for each in zip(*ranks, strict=True)]
        print(f"| {target} | {len(members)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
