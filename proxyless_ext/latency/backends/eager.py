"""PyTorch in inference mode, on the CPU or a CUDA device, with MBConvs fused or as plain layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...nn import MBConv
from ..conditions import Conditions, processor_name
from .base import Run, cpu_clock


class Eager:
    """Calls the module. `torch.set_num_threads` is the caller's business.

    A CUDA device is waited for before the clock is read, at the start and at the end.
    """

    def __init__(self, conditions: Conditions) -> None:
        processor_name(conditions.device)
        self.is_fused = conditions.blocks == "fused"
        self.device = torch.device(conditions.device)
        # A CUDA device works while the calling thread waits, which is no CPU time.
        self.clock = cpu_clock(conditions.threads if conditions.device == "cpu" else 2)

    def build(self, module: nn.Module, example: Tensor) -> Run:
        network = copy.deepcopy(module).to(self.device).eval()
        for part in network.modules():
            if isinstance(part, MBConv) and not self.is_fused:
                part.fused = False
        batch = example.to(self.device)
        clock, on_cuda = self.clock, self.device.type == "cuda"

        def run() -> float:
            with torch.inference_mode():
                if on_cuda:
                    torch.cuda.synchronize()
                start = clock()
                network(batch)
                if on_cuda:
                    torch.cuda.synchronize()
                return 1e3 * (clock() - start)

        return run
