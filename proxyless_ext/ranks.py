"""What the ranks of torch.distributed have in common, where there are several.

All of them call each of these functions, in the same order. What is small is on the host, which
waits for no device for it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, distributed

from .errors import InterruptionError, UserError
from .session import join

PATIENCE = 10.0
"""Seconds after which those who wait for the others say so."""

MEETING = timedelta(minutes=5)
"""For all ranks to have come together."""

REPLY = timedelta(hours=1)
"""For all ranks to have come to the same place; the first may measure a device meanwhile."""

_GLOO_SAYS = ("peer", "imed out", "Broken pipe")

Made = TypeVar("Made")
P = ParamSpec("P")
_is_first_alone: ContextVar[bool] = ContextVar("_is_first_alone", default=False)


def launched() -> tuple[int, int]:
    """The number of this process, and how many a launcher such as torchrun has started.

    Raises:
        UserError: the launcher's variables are no such numbers.
    """
    rank, world = _number("RANK", "0"), _number("WORLD_SIZE", "1")
    if not 0 <= rank < world:
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE is {world}, but ranks count from 0 to one less than "
            "there are; start them by torchrun, or correct these variables"
        )
    return rank, world


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK", "0")


@contextmanager
def group() -> Iterator[None]:
    """Within it, the processes that torchrun has started are one group; alone, nothing happens.

    Tensors of CPUs go by gloo and those of GPUs by NCCL.

    Raises:
        UserError: the first rank cannot be reached, or not all have come in time.
    """
    rank, world = launched()
    if world == 1:
        yield
        return
    _meet(rank, world)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _meet(rank: int, world: int) -> None:
    host, port = _master(world)
    at = f"{host}:{port}"
    started = time.monotonic()
    message = f"rank {rank} waits for the other ranks at {at}"
    reminder = threading.Timer(PATIENCE, print, [message], {"file": sys.stderr, "flush": True})
    reminder.daemon = True
    reminder.start()
    try:
        served, _, _ = next(distributed.rendezvous("env://", timeout=MEETING))
        store = join(served, rank, world, MEETING)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {port} of this machine is in use; set MASTER_PORT to another on all ranks"
            ) from error
        raise UserError(
            f"rank {rank} has not met all {world} ranks at {at} within "
            f"{time.monotonic() - started:.0f} seconds; see to it that all are started and that "
            "this address can be reached from every machine"
        ) from error
    finally:
        reminder.cancel()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=REPLY)


def _master(world: int) -> tuple[str, int]:
    """Where the ranks meet."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(
                f"WORLD_SIZE is {world}, but {name} is not set; start the ranks by torchrun, or "
                "set it to where the first of them is"
            )
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", "")
    try:
        socket.getaddrinfo(host, port)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"MASTER_ADDR '{host}' with MASTER_PORT {port} is no address that this machine knows; "
            "correct it"
        ) from error
    return host, port


def _number(name: str, default: str) -> int:
    value = os.environ.get(name, default)
    if not value.isdecimal():
        raise UserError(
            f"{name} is '{value}' instead of a whole number; start the ranks by torchrun, or "
            "correct this variable"
        )
    return int(value)


def are_several() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized() and not _is_first_alone.get()


def place() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if not are_several():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_first() -> bool:
    """Whether this process is the first rank, which alone writes; so is one that is alone."""
    return place()[0] == 0


@contextmanager
def answers() -> Iterator[None]:
    """Within it, that another rank has ended or does not answer is a sentence.

    Raises:
        InterruptionError: it is so.
    """
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, distributed.DistBackendError)  # As NCCL tells of it.
        if not is_lost and not any(word in str(error) for word in _GLOO_SAYS):
            raise
        raise lost() from error


def lost() -> InterruptionError:
    """What is said where another rank has failed."""
    return InterruptionError(
        f"rank {distributed.get_rank()} has lost the others: one has ended or does not answer; see "
        "what that says"
    )


def mean(values: Tensor, *common: Tensor) -> Tensor:
    """The mean of `values` over the ranks; the values themselves where this process is alone.

    Args:
        values: of any shape, the same on all ranks.
        common: on the same device: paths and alphas that the values are of, which must be the same
            on all ranks up to rounding.

    Raises:
        UserError: they are not.
    """
    if not are_several():
        return values
    dtype = torch.promote_types(values.dtype, torch.float32)
    own = [each.detach().flatten().to(dtype) for each in common]
    both = torch.cat([values.flatten().to(dtype), *own]) / distributed.get_world_size()
    sum_over_ranks(both)
    averaged, theirs = both[: values.numel()], both[values.numel() :]
    if common and not torch.allclose(theirs, torch.cat(own), rtol=1e-3, atol=1e-5):
        raise UserError(
            "the ranks of torch.distributed have drawn different paths or have different alphas; "
            "give all of them generators of one seed, the same alphas and the same costs"
        )
    return averaged.view_as(values).to(values.dtype)


def sum_over_ranks(values: Tensor) -> None:
    """Add up a contiguous tensor over the ranks, in place."""
    if are_several():
        sum_later(values)()


def sum_later(values: Tensor) -> Callable[[], None]:
    """Begin to add up a contiguous tensor over several ranks; what is returned waits for the end.

    Until then it is left alone.
    """
    with answers():
        work = distributed.all_reduce(values, async_op=True)

    def wait() -> None:
        with answers():
            work.wait()

    return wait


def totals(*values: float) -> list[float]:
    """The sums of numbers over the ranks."""
    if not are_several():
        return [*values]
    sums = torch.tensor(values, dtype=torch.float64)
    sum_over_ranks(sums)
    return sums.tolist()


def any_of(*flags: bool) -> list[bool]:
    """For each of the flags whether it is set on any rank."""
    return [total > 0 for total in totals(*flags)]


class Share(NamedTuple):
    """What a rank has of a batch.

    Attributes:
        total: samples of the batch, over all ranks.
        weight: by which to multiply a mean over this rank's samples, so that the mean over the
            ranks is that over the batch.
    """

    total: int
    weight: float


def share(samples: int) -> Share:
    """The share of a rank that has so many samples of a batch."""
    if not are_several():
        return Share(samples, 1.0)
    (total,) = totals(samples)
    return Share(int(total), samples * distributed.get_world_size() / total)


@contextmanager
def _first_alone() -> Iterator[None]:
    token = _is_first_alone.set(True)
    try:
        yield
    finally:
        _is_first_alone.reset(token)


def of_first(make: Callable[P, Made], *args: P.args, **kwargs: P.kwargs) -> Made:
    """What the first rank makes, on all ranks; the others do not call `make`.

    Within `make` the first rank counts as alone.

    Args:
        make: is called with the others.

    Raises:
        UserError: on all of them, if `make` does.
    """
    if not are_several():
        return make(*args, **kwargs)
    made: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            with _first_alone():
                made = [make(*args, **kwargs)]
        except UserError as error:
            made = [error]
    with answers():
        distributed.broadcast_object_list(made)
    result: Made | UserError = made[0]
    if isinstance(result, UserError):
        raise result
    return result


def gathered(value: Made) -> list[Made]:
    """The values of all ranks, in their order."""
    if not are_several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    with answers():
        distributed.all_gather_object(values, value)
    return values


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors the values that those of the first rank have."""
    if are_several():
        with answers():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)
