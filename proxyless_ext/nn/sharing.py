"""One set of weights for all MBConvs of an edge, as once-for-all and BigNAS have it.

A candidate is a slice of the largest one: the centre of its kernels, its leading channels. Every
step trains a part of what the others use too, so a supernet learns in fewer steps, edges that
change the shape included; docs/search.md has the figures. BatchNorms stay each candidate's own,
since the statistics of a slice are not those of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from ..errors import UserError
from .layers import ConvBNAct
from .mbconv import MBConv
from .sliced import SlicedConv2d


class SharedWeights(nn.Module):
    """The weights of the largest MBConv that an edge's candidates are slices of.

    Attributes:
        expand: [H, C, 1, 1], or None where no candidate expands.
        depthwise: [H, 1, K, K].
        project: [O, H, 1, 1].
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int, out_channels: int) -> None:
        super().__init__()
        shapes = {
            "expand": (hidden, channels, 1, 1) if hidden > channels else None,
            "depthwise": (hidden, 1, kernel_size, kernel_size),
            "project": (out_channels, hidden, 1, 1),
        }
        for name, shape in shapes.items():
            weight = None if shape is None else nn.Parameter(torch.empty(shape))
            self.register_parameter(name, weight)
            if weight is not None:  # As ConvBNAct's.
                nn.init.normal_(weight, std=math.sqrt(2 / (weight.shape[-1] ** 2 * len(weight))))


def share_weights(candidates: Iterable[nn.Module]) -> SharedWeights:
    """Let the MBConvs among `candidates` take slices of weights that they share from now on.

    Args:
        candidates: changed in place; those that are no MBConv stay as they are.

    Returns:
        The weights, freshly drawn, to be kept where an optimizer finds them.

    Raises:
        UserError: there is no MBConv, or they differ in channels or stride, or one was changed.
    """
    blocks = [each for each in candidates if type(each) is MBConv]
    if not blocks:
        raise UserError("no candidate is an MBConv, so there are no weights to share")
    if not all(_is_plain(block) for block in blocks):
        raise UserError("share the weights of MBConvs before anything in them is changed")
    shapes = {_shape(block) for block in blocks}
    if len(shapes) > 1:
        raise UserError(
            "MBConvs that share weights need the same channels and stride; these have (in, out, "
            f"stride) {sorted(shapes)}"
        )
    ((channels, out_channels, _),) = shapes
    convs = [block.depthwise.conv for block in blocks]
    weights = SharedWeights(
        channels,
        max(conv.in_channels for conv in convs),
        max(conv.kernel_size[0] for conv in convs),
        out_channels,
    )
    for block in blocks:
        for name in ("expand", "depthwise", "project"):
            layer = getattr(block, name)
            if isinstance(layer, ConvBNAct):
                conv = cast(nn.Conv2d, layer.conv)
                layer.conv = SlicedConv2d(conv, weights, name)
    return weights


def _is_plain(block: MBConv) -> bool:
    expand = [] if isinstance(block.expand, nn.Identity) else [block.expand]
    layers = [*expand, block.depthwise, block.project]
    return all(isinstance(layer, ConvBNAct) and type(layer.conv) is nn.Conv2d for layer in layers)


def _shape(block: MBConv) -> tuple[int, int, int]:
    """Input and output channels, and the stride."""
    first = block.depthwise if isinstance(block.expand, nn.Identity) else block.expand
    assert isinstance(first, ConvBNAct)
    return first.conv.in_channels, block.project.conv.out_channels, block.depthwise.conv.stride[0]
