"""Ranks of torch.distributed in processes of this machine, started as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from proxyless_ext import ranks

# Processes are forked from a server that has imported everything.
context: ForkServerContext = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["proxyless_ext.cli", "proxyless_ext.search", "proxyless_ext.runs.curves", "torch._dynamo"]
)


def environments(world: int) -> Iterator[dict[str, str]]:
    """What torchrun sets for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(world):
        yield {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }


def on_ranks(function: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What a function of a module gives on every rank of a group."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(rank) for rank in range(world)]
        processes = [
            context.Process(target=_on_rank, args=(environment, path, function, args))
            for environment, path in zip(environments(world), paths, strict=True)
        ]
        codes = run_together(processes)
        assert codes == [0] * world
        return [torch.load(path) for path in paths]


def run_together(processes: list[BaseProcess], timeout: float = 120) -> list[int | None]:
    """Start processes and wait for them; their exit codes, negative for a signal."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _on_rank(
    environment: dict[str, str], path: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with ranks.group():
        torch.save(function(*args), path)
