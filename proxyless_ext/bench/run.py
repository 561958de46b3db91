"""What `proxyless bench` measures: some blocks and whole steps, in two minutes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

import torch

from ..errors import UserError
from ..latency.backends.base import torch_threads
from ..latency.bystanders import Bystanders
from ..latency.conditions import processor_name
from ..ops import has_kernels
from ..progress import Bar, progress_bar
from ..spaces import cifar_mbconv, imagenet
from .blocks import Edge, measure_block
from .cases import Case, cases
from .memory import available_bytes
from .peak_memory import peaks_apart
from .records import COMPARED, BlockFigures, Conditions, Results, Settings, StepFigures
from .steps import check_steps, gpu_peaks, time_gate_steps, time_weight_steps
from .supernets import Batch, build
from .timing import Timing

OPERATION, SMALL_OPERATION = "k5e6", "k3e3"
CHECKED_PICTURES = 4
"""At most, of steps: a check in float64 takes as long as several steps."""
LIMIT = 15.0
"""Seconds after which no further round of steps begins, so that slow machines take no longer."""
PICTURE_BYTES = 110e6
"""What PyTorch's layers need for a picture of 224 pixels at width 1: measured, rounded up."""
PEAKS = ("fused", "plain")
"""Whose peaks are measured on a CPU, each in a process; `channels_last` needs what `plain` does."""
CALLS = {"cpu": 1, "cuda": 5}
"""Of a block in a timed run: on a GPU, starting kernels overlaps with running them."""
SPREAD = 0.1
"""How far the quartiles of a time may usually be from its median, relatively."""


def run_benchmark(settings: Settings) -> Results:
    """Check, and measure in turns: blocks of two spaces, and steps of the ImageNet supernet.

    Raises:
        UserError: the device is not there, its memory does not suffice, or a result is wrong.
    """
    check_device(settings)
    cpu = settings.device == "cpu"
    if not cpu:
        torch.set_float32_matmul_precision("high")  # TF32, which convolutions use anyway.
    chosen = list(choose_cases(settings))
    with torch_threads(settings.threads), progress_bar("measuring", len(chosen) + 4) as bar:
        conditions, others = Conditions.here(), Bystanders()
        steps = _measure_steps(settings, bar)
        # On a GPU cuDNN tries its kernels. For the many shapes of steps that would take minutes.
        torch.backends.cudnn.benchmark = True
        blocks = [_measure_block(case, settings, bar) for case in chosen]
    seconds = [*(block.seconds for block in blocks), *steps.seconds.values()]
    return Results(
        conditions=conditions,
        settings=settings,
        blocks=tuple(blocks),
        steps=steps,
        busy_cores=others.cores(),
        warning=others.problem(settings.threads if cpu else 1) or spread_problem(seconds),
    )


def check_device(settings: Settings) -> None:
    """Whether the settings can be measured here.

    Raises:
        UserError: they cannot.
    """
    processor_name(settings.device)
    if not has_kernels(torch.device(settings.device)):
        raise UserError(
            "the fused operators for this GPU are not built or need a newer GPU; build them as the "
            "README's section on GPUs says, or measure with device cpu"
        )
    needed = settings.batch * PICTURE_BYTES * settings.width * (settings.resolution / 224) ** 2
    there = available_bytes(settings.device)
    if there is not None and needed > there:
        most = max(1, int(settings.batch * there / needed))
        raise UserError(
            f"a batch of {settings.batch} needs about {needed / 1e9:.1f} GB with PyTorch's layers, "
            f"and {there / 1e9:.1f} GB are free; give at most {most}"
        )


def choose_cases(settings: Settings) -> Iterator[Case]:
    """For each input size the first block: of ImageNet's space, and of that of small pictures."""
    large = imagenet(width_mult=settings.width, resolution=settings.resolution)
    small = cifar_mbconv(width_mult=settings.width, resolution=min(32, settings.resolution))
    for space, operation in ((large, OPERATION), (small, SMALL_OPERATION)):
        sizes = set()
        for case in cases(space, operation, settings.batch):
            if case.layer.in_size not in sizes:
                sizes.add(case.layer.in_size)
                yield case


def spread_problem(seconds: Iterable[dict[str, Timing]]) -> str | None:
    """Why times that spread widely are not to be trusted; None if they do not."""
    spread = statistics.median(time.spread for by_peer in seconds for time in by_peer.values())
    if spread <= SPREAD:
        return None
    return (
        f"times spread by {spread:.0%} around their medians, so they are not to be trusted; "
        "measure again when the machine is idle"
    )


def _measure_block(case: Case, settings: Settings, bar: Bar) -> BlockFigures:
    device = settings.device
    bar.note(case.name)
    edge = Edge(case, device=device)
    kind = "float32" if device == "cpu" else "tf32"
    found = measure_block(edge, COMPARED, settings.rounds, kind=kind, calls=CALLS[device])
    bar.advance()
    return found


def _measure_steps(settings: Settings, bar: Bar) -> StepFigures:
    space = imagenet(width_mult=settings.width)
    batch, few = (
        Batch(space, size, settings.resolution, settings.device)
        for size in (settings.batch, min(settings.batch, CHECKED_PICTURES))
    )
    bar.note("whether steps agree")
    trainees = build(COMPARED, space, few)
    errors = check_steps(trainees, space, few, ["recompute"])
    bar.advance()
    for trainee in trainees.values():
        trainee.take(batch)
    bar.note("weight steps")
    weight = time_weight_steps(trainees, settings.step_rounds, 1, settings.device, LIMIT)
    saved = {name: trainee.saved_bytes(seed=0) for name, trainee in trainees.items()}
    bar.advance()
    bar.note("gate steps")
    gate = time_gate_steps(trainees, settings.step_rounds, "recompute", settings.device, LIMIT)
    bar.advance()
    bar.note("peaks of memory")
    if settings.device == "cpu":
        sizes = settings.model_dump(include={"batch", "resolution", "width", "threads"})
        peaks = peaks_apart(PEAKS, **sizes)
    else:
        peaks = gpu_peaks(trainees)
    bar.advance()
    return StepFigures(
        errors=errors,
        seconds={"weight": weight, "gate": gate},
        saved_bytes=saved,
        peak_bytes=peaks,
    )
