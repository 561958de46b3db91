"""PyTorch in inference mode, on the CPU or a CUDA device, with MBConvs fused or as plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...nn import MBConv, Separable
from ..conditions import Conditions, processor_name
from .base import Run, cpu_clock, gpu_seconds


class Eager:
    """Calls the module. `torch.set_num_threads` is the caller's business.

    A CUDA device takes the time itself, and is waited for after every run.
    """

    def __init__(self, conditions: Conditions) -> None:
        processor_name(conditions.device)
        self.is_fused = conditions.blocks == "fused"
        self.device = torch.device(conditions.device)
        self.dtype = getattr(torch, conditions.dtype)
        self.clock = cpu_clock(conditions.threads)

    def build(self, module: nn.Module, example: Tensor) -> Run:
        return self.timed(*self.prepare(module, example))

    def prepare(self, module: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
        """Copies of a module, in eval mode, and of its input, as the conditions ask for."""
        network = copy.deepcopy(module).to(self.device, self.dtype).eval()
        for part in network.modules():
            if isinstance(part, MBConv | Separable) and not self.is_fused:
                part.fused = False
        dtype = self.dtype if example.is_floating_point() else example.dtype
        return network, example.to(self.device, dtype)

    def timed(self, network: Callable[[Tensor], object], batch: Tensor) -> Run:
        """What calls a network in inference mode, and says how many milliseconds that took."""
        clock = self.clock

        def run_on_cpu() -> float:
            with torch.inference_mode():
                start = clock()
                network(batch)
                return 1e3 * (clock() - start)

        def run_on_gpu() -> float:
            with torch.inference_mode():
                return 1e3 * gpu_seconds(lambda: network(batch))

        return run_on_gpu if self.device.type == "cuda" else run_on_cpu
