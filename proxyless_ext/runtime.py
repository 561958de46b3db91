"""Where a run runs: the device, the precision and the threads that all of its steps share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import ranks
from .config import RuntimeConfig
from .data import check_decoder
from .errors import UserError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where a run runs.

    Attributes:
        device: that networks and pictures are on.
        precision: as `RuntimeConfig` has it.
        sync_batch_norm: as `RuntimeConfig` has it; False where this process is alone.
        decoding: the device that decodes and augments pictures; None where it is the CPU.
        rank, world: the number of this process, and how many there are.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "float32"
    sync_batch_norm: bool = False
    decoding: torch.device | None = None
    rank: int = 0
    world: int = 1

    @classmethod
    def set_up(cls, config: RuntimeConfig) -> Runtime:
        """Set torch's threads and the precision of its products; check that the device is there.

        Each rank of a machine takes a GPU of its own.

        Raises:
            UserError: it is not, or it has no such precision.
        """
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("this machine has no usable CUDA device; set runtime.device to cpu")
        if config.precision == "tf32" and config.device != "cuda":
            raise UserError("runtime.precision tf32 is one of GPUs; on a CPU use float32 or bf16")
        if config.decoding == "cuda":
            if config.device != "cuda":
                raise UserError(
                    "runtime.decoding is cuda, but runtime.device is cpu; pictures are decoded on "
                    "the device that trains, or on the CPU"
                )
            check_decoder()
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.device == "cuda":
            uses_tf32 = config.precision == "tf32"
            torch.set_float32_matmul_precision("high" if uses_tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = uses_tf32
            _take_gpu()
        rank, world = ranks.place()
        is_synchronised = config.sync_batch_norm and world > 1
        device = torch.device(config.device)
        decoding = device if config.decoding == "cuda" else None
        return cls(device, config.precision, is_synchronised, decoding, rank, world)

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device works while the host goes on, so that copies to it can overlap."""
        return self.device.type != "cpu"

    @property
    def reading(self) -> dict[str, Any]:
        """How `data.batches` reads for it, beside what a configuration says."""
        return {
            "pin": self.is_asynchronous,
            "decoding": self.decoding,
            "rank": self.rank,
            "world": self.world,
        }

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; the host does not wait for one in pinned memory."""
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[object]:
        """Within it, forward passes compute in the run's precision."""
        if dtype := _AUTOCAST.get(self.precision):
            return torch.autocast(self.device.type, dtype)
        return nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Scales losses for gradients in fp16, and does nothing at any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def exact(self) -> Runtime:
        """The same in float32, for figures about a network that is handed over in float32."""
        return replace(self, precision="float32")


def _take_gpu() -> None:
    """Compute on the GPU that is this rank's on its machine.

    Raises:
        UserError: there is none for it.
    """
    number, count = ranks.local_rank(), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"this machine has {count} GPUs and at least {number + 1} ranks; give torchrun "
            f"--nproc-per-node={count}"
        )
    torch.cuda.set_device(number)
