"""A search over anyone's model: what `Search` adds to a gate step, and how the target is met.

    python -m benchmarks.model_search --threads 2

Torchvision's ResNet-18 with three candidates for every block that keeps its shape, as in the
README, in channels-last memory format. A gate step of `Search` and one written by hand with `Edges`
take turns on the same batch and the same paths. Then searches with random labels, which only have
the target to go by, are derived, and the latency of what they give is measured once more.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import count

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from proxyless_ext import Edges, MBConv, Search, wrap
from proxyless_ext.bench.timing import Timing, host_seconds
from proxyless_ext.latency import Conditions
from proxyless_ext.latency.whole_networks import measure_network
from proxyless_ext.seeding import generator

TARGETS = ("25%", "50%", "75%")


def rule(name: str, block: nn.Module) -> list[nn.Module] | None:
    """Candidates for every block that keeps its shape; the first is its own."""
    if not isinstance(block, BasicBlock) or block.downsample is not None:
        return None
    channels = block.conv1.in_channels
    return [block, MBConv(channels, channels, 5), nn.Identity()]


def time_gate_steps(search: Search, pictures: Tensor, labels: Tensor, rounds: int) -> Timing:
    """Seconds of a gate step by `Search` over those of one by hand on the same paths."""
    loss, edges = nn.CrossEntropyLoss(), Edges(search.model)
    optimizer = torch.optim.Adam(edges.alphas, lr=0.01, betas=(0.0, 0.999))
    draws = count(1)  # As in `Search`, so that both take the same paths.

    def by_hand() -> None:
        optimizer.zero_grad()
        with edges.gate_step("full", generator(0, "paths", next(draws))) as step:
            loss(search.model(pictures), labels).backward()
        step.update(optimizer.step)

    def by_search() -> None:
        search.gate_step(lambda: loss(search.model(pictures), labels))

    by_hand()
    by_search()
    ratios = []
    for turn in range(rounds):
        order = [by_hand, by_search] if turn % 2 else [by_search, by_hand]
        seconds = {run: host_seconds(run) for run in order}
        ratios.append(seconds[by_search] / seconds[by_hand])
    return Timing.of(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=64, help="in pixels")
    parser.add_argument("--rounds", type=int, default=61, help="of timed gate steps")
    parser.add_argument("--steps", type=int, default=20, help="of every search")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = wrap(resnet18(num_classes=10), rule).to(memory_format=torch.channels_last)
    size = arguments.resolution
    pictures, labels = torch.randn(16, 3, size, size), torch.randint(10, (16,))
    conditions = Conditions(threads=arguments.threads)

    first = Search(model, pictures[:1], target="50%", conditions=conditions)
    ratio = time_gate_steps(first, pictures, labels, arguments.rounds)
    print(f"search / by hand: {ratio.median:.3f}, quartiles {ratio.low:.3f} to {ratio.high:.3f}")

    loss = nn.CrossEntropyLoss()
    for target in TARGETS:
        for parameter in Edges(model).alphas:
            nn.init.normal_(parameter, std=1e-3)
        search = Search(model, pictures[:1], target, conditions=conditions)
        for _ in range(arguments.steps):
            search.gate_step(lambda: loss(model(pictures), labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = search.derive()
            measured = measure_network(network, size, conditions).mean
        aim = search.objective.target
        assert aim is not None
        print(
            f"target {target}: {aim:.2f} ms, measured {measured:.2f} ({measured / aim - 1:+.1%} of "
            "the target)"
        )


if __name__ == "__main__":
    main()
