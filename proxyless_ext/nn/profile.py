"""Size and cost of a network, counted rather than measured."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; the alphas of a supernet are parameters too."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, resolution: int, in_channels: int = 3) -> int:
    """Multiply-accumulates of convolutions and linear layers for one picture of `resolution` pixels
    squared.

    Counted on shapes alone: nothing is computed, and the model is left as it is.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes_only(torch.empty(1, in_channels, resolution, resolution, device="meta"))
    flops: int = counter.get_total_flops()
    return flops // 2
