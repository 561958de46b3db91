"""The command that measures fused blocks beside PyTorch's layers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..bench.records import BATCHES, Settings
from ..bench.run import run_benchmark
from ..bench.text import describe
from ..files import write_atomically
from ..latency.conditions import DeviceName
from ..runs import check_output
from .app import commands
from .command import command, console
from .options import check_count


@command(commands)
def bench(
    threads: Annotated[
        int | None, typer.Option(help="Threads on the CPU; as many as torch takes if absent.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures in one run; 16 on a CPU and 32 on a GPU if absent.")
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to measure.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Measure speed and memory of fused blocks here, beside PyTorch's layers."""
    threads = torch.get_num_threads() if threads is None else threads
    check_count("--threads", threads)
    batch_size = BATCHES[device] if batch_size is None else batch_size
    check_count("--batch-size", batch_size)
    if out:
        check_output(out)
    results = run_benchmark(Settings(device=device, threads=threads, batch=batch_size))
    console.print(describe(results))
    if results.warning:
        warnings.warn(results.warning, stacklevel=2)
    if out:
        write_atomically(out, results.model_dump_json(indent=2) + "\n")
