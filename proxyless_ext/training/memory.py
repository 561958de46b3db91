"""Steps that find too little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .. import ranks
from ..errors import UserError
from .meter import Meter
from .phase import Batch, Phase


@contextmanager
def memory_suffices(phase: Phase, step: int, batch: Batch) -> Iterator[None]:
    """Around a step.

    Raises:
        UserError: it found too little memory; says what would fit, where one process can try.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _tells_of_memory(error):
            raise
    else:
        return
    # Not above, where the error keeps alive what the step has made.
    pictures = len(batch[1])
    fitting = None if ranks.are_several() else _largest_half(phase, step, batch)
    advice = f"{fitting} would fit" if fitting else "fewer may fit"
    raise UserError(
        f"there is not enough memory for a step of {phase.name} with {pictures} pictures on a "
        f"device; {advice}, so start a new run with a lower "
        f"{' or '.join(phase.batch_settings)}, or go on with more devices"
    )


def _largest_half(phase: Phase, step: int, batch: Batch) -> int | None:
    """The largest of a half, a quarter and so on of a batch that a step has room for, if any.

    The phase is of no use afterwards.
    """
    pictures, labels = batch
    size = len(labels)
    while size := size // 2:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        try:
            phase.step(step, pictures[:size], labels[:size], Meter())
            return size
        except (RuntimeError, MemoryError) as error:
            if not _tells_of_memory(error):
                return None
    return None


def _tells_of_memory(error: Exception) -> bool:
    """Whether it is that of a GPU's allocator, of what kernels work in, or of torch's allocator on
    the CPU, which has no class of its own.
    """
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)
