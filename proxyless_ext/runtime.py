"""Where a run runs: the device, the precision and the threads that all of its steps share."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .config import RuntimeConfig
from .errors import UserError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where a run runs.

    Attributes:
        device: that networks and pictures are on.
        precision: as `RuntimeConfig` has it.
        rank, world: the number of this process, and how many there are.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "float32"
    rank: int = 0
    world: int = 1

    @classmethod
    def set_up(cls, config: RuntimeConfig) -> Runtime:
        """Set torch's threads and the precision of its products; check that the device is there.

        Raises:
            UserError: it is not, it has no such precision, or this is one of several processes.
        """
        rank, world = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
        if world > 1:
            raise UserError(
                f"a run is one process and this is number {rank} of {world}, as torchrun starts "
                "them; start it alone"
            )
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("this machine has no usable CUDA device; set runtime.device to cpu")
        if config.precision == "tf32" and config.device != "cuda":
            raise UserError("runtime.precision tf32 is one of GPUs; on a CPU use float32 or bf16")
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.device == "cuda":
            uses_tf32 = config.precision == "tf32"
            torch.set_float32_matmul_precision("high" if uses_tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = uses_tf32
        return cls(torch.device(config.device), config.precision, rank, max(world, 1))

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device works while the host goes on, so that copies to it can overlap."""
        return self.device.type != "cpu"

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
