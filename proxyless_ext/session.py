"""The ranks of one attempt find each other in a store that may outlive them.

A launcher that starts ranks again may keep the store they meet in, with what those before them left
there. Nothing that it tells them is sure to tell attempts apart: torchrun counts them on every
machine by itself. So the first rank names a session, each other one answers with a word of its own,
and goes on when the first has repeated it, which one that is gone does not.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta

from torch import distributed

LOOK_SECONDS = 0.05
"""Between two looks for the first rank."""


def join(store: distributed.Store, rank: int, world: int, patience: timedelta) -> distributed.Store:
    """The part of a store that only the ranks of this attempt use; all of them call this.

    Args:
        store: that all reach.
        rank: of this process.
        world: how many ranks there are.
        patience: for all of them to have come.

    Raises:
        RuntimeError: not all have.
    """
    common, word = distributed.PrefixStore("proxyless_ext", store), secrets.token_hex(8)
    if rank == 0:
        session, answers = word, [f"{word}/{other}" for other in range(1, world)]
        common.set("session", session)
        common.wait(answers, patience)
        common.set(f"{session}/heard", " ".join(common.get(each).decode() for each in answers))
    else:
        session = _heard(common, rank, word, patience)
    return distributed.PrefixStore(session, common)


def _heard(store: distributed.Store, rank: int, word: str, patience: timedelta) -> str:
    """The session whose first rank has repeated `word`."""
    end = time.monotonic() + patience.total_seconds()
    answered = ""
    while time.monotonic() < end:
        session = store.get("session").decode() if store.check(["session"]) else ""
        if session != answered:
            store.set(f"{session}/{rank}", word)
            answered = session
        heard = f"{session}/heard"
        if store.check([heard]) and word in store.get(heard).decode().split():
            return session
        time.sleep(LOOK_SECONDS)
    raise distributed.DistStoreError("the first rank has not answered")
