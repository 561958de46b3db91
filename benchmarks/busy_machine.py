"""How long a small supernet's step takes beside busy processes, by how waiting threads behave.

    python -m benchmarks.busy_machine --busy 2

For every behaviour (variables of the environment that OpenMP reads as it is loaded) a process of
its own takes weight steps of the space of `make search`, batch 32; the behaviours take turns.
Prints the least, the median and the largest of the processes' median steps in ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SPACE = Path(__file__).parent.parent / "configs" / "spaces" / "small.yaml"
BEHAVIOURS: tuple[dict[str, str], ...] = (
    {},
    {"GOMP_SPINCOUNT": "3000"},
    {"GOMP_SPINCOUNT": "1000"},
    {"GOMP_SPINCOUNT": "300"},
    {"OMP_WAIT_POLICY": "passive"},
)
SPIN = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    """Print a row a behaviour; with ``--steps``, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=2, help="processes that keep a core busy")
    parser.add_argument("--processes", type=int, default=3, help="for each behaviour")
    parser.add_argument("--threads", type=int, default=2, help="of a step")
    parser.add_argument("--steps", type=int, help="take so many steps here, and print their median")
    arguments = parser.parse_args()
    if arguments.steps:
        print(median_step(arguments.steps, arguments.threads))
        return
    print("| | idle | beside busy processes |\n|---|---|---|")
    idle = measure(arguments.processes, arguments.threads)
    spinning = [subprocess.Popen(SPIN) for _ in range(arguments.busy)]
    try:
        busy = measure(arguments.processes, arguments.threads)
    finally:
        for process in spinning:
            process.kill()
    for behaviour, *columns in zip(BEHAVIOURS, idle, busy, strict=True):
        name = " ".join(f"{key}={value}" for key, value in behaviour.items()) or "default"
        cells = (f"{min(c):.0f} / {statistics.median(c):.0f} / {max(c):.0f}" for c in columns)
        print(f"| {name} | {' | '.join(cells)} |")


def measure(processes: int, threads: int) -> list[list[float]]:
    """The median steps in ms of so many processes, for each behaviour."""
    found: list[list[float]] = [[] for _ in BEHAVIOURS]
    command = [sys.executable, __file__, "--steps=50", f"--threads={threads}"]
    for _ in range(processes):
        for times, behaviour in zip(found, BEHAVIOURS, strict=True):
            environment = {**os.environ, **behaviour}
            printed = subprocess.run(command, env=environment, capture_output=True, check=True)
            times.append(float(printed.stdout))
    return found


def median_step(steps: int, threads: int) -> float:
    """The median weight step in ms; five go before."""
    import torch  # Here, because it loads OpenMP.
    from torch.nn.functional import cross_entropy

    from proxyless_ext import Space, SuperNet

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    supernet = SuperNet(Space.load(SPACE).with_classes(10)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(supernet.edges.weights, lr=0.01, momentum=0.9, nesterov=True)
    pictures, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    times = []
    for index in range(steps + 5):
        started = time.perf_counter()
        supernet.edges.sample(torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        cross_entropy(supernet(pictures), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[5:])


if __name__ == "__main__":
    main()
