"""Whether several ranks are about to do the same: with one code, one configuration, one data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .. import ranks
from ..config import Config
from ..data import Inventory, Pictures
from ..environment import describe_code
from ..errors import UserError
from ..runs import Run, digest
from .continuity import differences, settings_of

OWN = ("data.source", "data.root", "data.download", "data.workers", "runtime.threads", "plugins")
"""Settings that each rank may have its own of: what lies where, and what its machine can do."""


def check_ranks(run: Run | None, config: Config, data: Pictures) -> None:
    """Refuse to begin or to go on where a rank would do something else than the first.

    Args:
        run: to go on with, if there is one.
        config: of the run.
        data: its pictures.

    Raises:
        UserError: on all ranks, naming the first difference.
    """
    if not ranks.are_several():
        return
    facts: dict[str, Any] = {
        "code": describe_code(),
        "settings": {"--resume": run is not None, **settings_of(config)},
        "pictures": data.inventory.model_dump(),
        "read": _digest_of_split(data),
    }
    first, *others = ranks.gathered(facts)
    for rank, other in enumerate(others, start=1):
        if difference := _difference(first, other):
            raise UserError(
                f"rank {rank} of torch.distributed differs from rank 0: {difference}; start all "
                "with the same"
            )


def check_drift(phase: str, state: Any) -> None:
    """Refuse to go on where a rank has not come to the same bits as the others.

    Running statistics of BatchNorms are each rank's own.

    Args:
        phase: its name.
        state: of the phase, on this rank.

    Raises:
        UserError: on all ranks, naming the first that differs from most.
    """
    if not ranks.are_several():
        return
    own = ("running_mean", "running_var", "num_batches_tracked")
    digests = ranks.gathered(digest(state, leave_out=own))
    ((usual, _),) = Counter(digests).most_common(1)
    if drifted := [rank for rank, each in enumerate(digests) if each != usual]:
        raise UserError(
            f"rank {drifted[0]} of torch.distributed has drifted: its weights or alphas in {phase} "
            "are not those of the others; the last checkpoint is intact, so see to that machine "
            "and go on with it"
        )


def _difference(first: dict[str, Any], other: dict[str, Any]) -> str:
    """The first difference, as a part of a sentence; empty if there is none."""
    for kind in ("code", "settings"):
        for key, expected, found in differences(first[kind], other[kind]):
            if key not in OWN:
                return f"{key} is {found!r} there and {expected!r} here"
    before, found = (Inventory.model_validate(facts["pictures"]) for facts in (first, other))
    if changes := found.changes_since(before):
        return changes
    if first["read"] != other["read"]:
        return "not the same pictures can be read there and here"
    return ""


def _digest_of_split(data: Pictures) -> str:
    """Of which pictures serve what, those that cannot be read being left out."""
    sets = (data.train, data.train_weights, data.train_gates, data.val)
    return digest([each.part.numbers for each in sets])
