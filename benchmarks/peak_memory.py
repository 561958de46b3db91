"""Peak memory of one training step in a fresh process, in bytes.

    python benchmarks/peak_memory.py fused weight
    python benchmarks/peak_memory.py plain gate --batch 8 --resolution 128

What is measured: the growth of the resident memory (VmHWM after the step minus VmRSS before it) of
a process that holds the supernet, the batch, and everything that an earlier step at a tiny size
has loaded and allocated, such as the momenta. Weights are thus left out, their gradients and the
workspaces of libraries are not. In each of these processes glibc returns large blocks to the system
when they are freed: else the peak would be that of its cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from measuring import resident_bytes
from steps import TRAINEES, Batch, Trainee, build

from proxyless_ext.spaces import imagenet

_BLOCK = str(128 << 10)
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": _BLOCK, "MALLOC_TRIM_THRESHOLD_": _BLOCK}


def measure_apart(
    trainee: str, step: str, batch: int, resolution: int, width: float, threads: int
) -> int:
    """Run this file in a process of its own.

    Raises:
        subprocess.CalledProcessError: the step failed; it has said why on stderr.
    """
    options = {"batch": batch, "resolution": resolution, "width": width, "threads": threads}
    words = [f"--{name}={value}" for name, value in options.items()]
    finished = subprocess.run(
        [sys.executable, __file__, trainee, step, *words],
        env={**os.environ, **_ALLOCATOR},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(finished.stdout)


def main() -> None:
    """Print the growth, or start again where the allocator keeps what is freed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trainee", choices=TRAINEES)
    parser.add_argument("step", choices=["weight", "gate"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not _ALLOCATOR.items() <= os.environ.items():
        print(measure_apart(**vars(arguments)))
        return
    torch.set_num_threads(arguments.threads)
    space = imagenet(width_mult=arguments.width)
    batch = Batch(space, arguments.batch, arguments.resolution)
    (trainee,) = build([arguments.trainee], space, Batch(space, 2, 32)).values()
    _run(trainee, arguments.step)
    trainee.take(batch)
    trainee.model.zero_grad()
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here.
    _run(trainee, arguments.step)
    print(resident_bytes("VmHWM") - before)


def _run(trainee: Trainee, step: str) -> None:
    if step == "weight":
        trainee.weight_step(seed=0)
    else:
        trainee.gate_step(seed=0, mode="recompute")


if __name__ == "__main__":
    main()
