"""Ranks of one attempt meet, whatever earlier attempts left in their store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed

from proxyless_ext.session import join

LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.3)


@pytest.fixture
def store() -> distributed.Store:
    return distributed.HashStore()


def start(
    pool: ThreadPoolExecutor, store: distributed.Store, rank: int, world: int = 3
) -> Future[distributed.Store]:
    return pool.submit(join, store, rank, world, LONG)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_of_an_attempt_have_a_store_of_their_own(
    store: distributed.Store, order: tuple[int, ...]
) -> None:
    for attempt in range(3):
        with ThreadPoolExecutor(3) as pool:
            joined = [start(pool, store, rank) for rank in order]
            own = [each.result() for each in joined]
        own[0].set("address", f"of attempt {attempt}")
        assert [each.get("address") for each in own] == [f"of attempt {attempt}".encode()] * 3
        assert own[1].add("count", 1) == 1  # Nothing of the attempts before.


def test_what_a_dead_attempt_left_is_not_joined(store: distributed.Store) -> None:
    """Rank 1 comes back before the first, and finds the session of the dead, complete or not."""
    with ThreadPoolExecutor(3) as pool:
        for each in [start(pool, store, rank, 2) for rank in (0, 1)]:
            each.result()
        with pytest.raises(RuntimeError, match="has not answered"):
            join(store, 1, 2, SHORT)
        early = start(pool, store, 1, 2)
        first = start(pool, store, 0, 2).result()
        first.set("here", "")
        assert early.result().check(["here"])


def test_who_does_not_come_is_not_waited_for_for_ever(store: distributed.Store) -> None:
    with pytest.raises(RuntimeError):
        join(store, 0, 2, SHORT)
    with pytest.raises(RuntimeError, match="has not answered"):
        join(store, 1, 2, SHORT)


PROGRAM = """
import os, sys, time
from pathlib import Path
from proxyless_ext import ranks

folder, attempts = Path(sys.argv[1]), os.environ["TORCHELASTIC_RESTART_COUNT"]
with ranks.group():
    rank, _ = ranks.place()
    met = len(list(folder.glob(f"{rank} *")))
    note = folder / f".{rank}"
    note.write_text(f"{os.getpid()} {attempts}")
    note.rename(folder / f"{rank} {met}")  # Never seen half written.
    while not ranks.any_of(met == 2)[0]:
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_machines_meet_again_whose_launchers_count_differently(tmp_path: Path) -> None:
    """A process of one of two torchruns is killed twice: only its own launcher counts that."""
    (tmp_path / "program.py").write_text(PROGRAM)
    met = tmp_path / "met"
    met.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    with socket.socket() as free:
        free.bind(("", 0))
        place = f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"
    how = ["--rdzv-backend=c10d", place, "--max-restarts=3", "--monitor-interval=0.5"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*launch, *how, str(tmp_path / "program.py"), str(met)]
    agents = [subprocess.Popen(command, env=environment) for _ in range(2)]
    try:
        for attempt in range(2):
            while not all((met / f"{rank} {attempt}").exists() for rank in range(2)):
                assert [agent.poll() for agent in agents] == [None, None]
                time.sleep(0.1)
            process, _ = (met / f"1 {attempt}").read_text().split()
            os.kill(int(process), signal.SIGKILL)
        assert [agent.wait(timeout=120) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.terminate()
    counts = [(met / f"{rank} 2").read_text().split()[1] for rank in range(2)]
    assert counts[0] != counts[1]
