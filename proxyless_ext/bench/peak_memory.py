"""Peak memory of one training step in a fresh process, in bytes.

    python -m proxyless_ext.bench.peak_memory fused weight
    python -m proxyless_ext.bench.peak_memory plain gate --batch 8 --resolution 128
    python -m proxyless_ext.bench.peak_memory fused gate --space cifar_tree --resolution 32

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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..spaces.builtin import BUILTIN
from .supernets import SPACES, TRAINEES, Batch, Trainee, build

_BLOCK = str(128 << 10)
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": _BLOCK, "MALLOC_TRIM_THRESHOLD_": _BLOCK}


def measure_apart(
    trainee: str,
    step: str,
    batch: int,
    resolution: int,
    width: float,
    threads: int,
    space: str = "imagenet",
) -> int:
    """The same from a process of its own.

    Raises:
        UserError: the step failed, and has said why on stderr if it could.
    """
    options = {
        "batch": batch,
        "resolution": resolution,
        "width": width,
        "threads": threads,
        "space": space,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", f"{__package__}.peak_memory", trainee, step, *words],
            env={**os.environ, **_ALLOCATOR},
            cwd=Path(__file__).parents[2],  # Python looks here first: for this package, no other.
            stdout=subprocess.PIPE,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"the peak of a {step} step of {trainee} could not be measured: its process ended with "
            f"status {error.returncode}; where that is -9, memory did not suffice, so give a "
            "smaller batch"
        ) from error
    return int(finished.stdout)


def peaks_apart(trainees: Iterable[str], **sizes: Any) -> dict[str, dict[str, int]]:
    """Peaks of a ``weight`` and of a ``gate`` step by trainee; `checkpointed` has no gate steps.

    Args:
        trainees: by their names.
        sizes: the other arguments of `measure_apart`.

    Raises:
        UserError: a step failed.
    """
    names = list(trainees)
    with_gates = [name for name in names if name != "checkpointed"]
    return {
        "weight": {name: measure_apart(name, "weight", **sizes) for name in names},
        "gate": {name: measure_apart(name, "gate", **sizes) for name in with_gates},
    }


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
    parser.add_argument("--space", choices=SPACES, default="imagenet")
    arguments = parser.parse_args()
    if not _ALLOCATOR.items() <= os.environ.items():
        print(measure_apart(**vars(arguments)))
        return
    torch.set_num_threads(arguments.threads)
    if arguments.trainee not in SPACES[arguments.space]:
        parser.error(f"there is no {arguments.trainee} supernet of {arguments.space}")
    space = BUILTIN[arguments.space](width_mult=arguments.width)
    batch = Batch(space, arguments.batch, arguments.resolution)
    (trainee,) = build([arguments.trainee], space, Batch(space, 2, 32)).values()
    _run(trainee, arguments.step)
    trainee.take(batch)
    trainee.model.zero_grad()
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here.
    _run(trainee, arguments.step)
    print(_resident_bytes("VmHWM") - before)


def _resident_bytes(field: str) -> int:
    """A field of /proc/self/status: ``VmRSS``, the memory in use, or ``VmHWM``, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def _run(trainee: Trainee, step: str) -> None:
    if step == "weight":
        trainee.weight_step(seed=0)
    else:
        trainee.gate_step(seed=0, mode="recompute")


if __name__ == "__main__":
    main()
