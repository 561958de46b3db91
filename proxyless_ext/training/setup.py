"""Torch as a run's configuration wants it."""

from __future__ import annotations

import torch

from ..config import Config
from ..errors import UserError


def set_up_torch(config: Config) -> None:
    """Set the number of threads, and check that the device is there.

    Raises:
        UserError: it is not.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no usable CUDA device; set device to cpu")
    if config.threads:
        torch.set_num_threads(config.threads)
