"""Separable blocks to try the operators on, and the same blocks in PyTorch's plain layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from mbconv_cases import EPS, random_like
from torch import Tensor
from torch.nn import functional as F


class Block(NamedTuple):
    """The tensors of a block."""

    x: Tensor
    depthwise: Tensor
    pointwise: Tensor
    scale: Tensor
    shift: Tensor

    def to(self, dtype: torch.dtype) -> Block:
        """The numbers in another type, those of the vectors in float32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        return Block(*(t.to(d) for t, d in zip(self, [dtype] * 3 + [wide] * 2, strict=True)))

    def leaves(self) -> Block:
        """The same tensors, asking for gradients."""
        return Block(*(t.detach().requires_grad_() for t in self))


@dataclass(frozen=True)
class Case:
    """Sizes and options of a block."""

    size: tuple[int, int, int]  # N, H, W
    channels: tuple[int, int]  # C, O
    kernel: int = 3
    stride: int = 1
    dilation: int = 1

    def __str__(self) -> str:
        sizes = "x".join(map(str, (*self.size, *self.channels)))
        return f"{sizes}-k{self.kernel}s{self.stride}d{self.dilation}"

    @property
    def options(self) -> dict[str, Any]:
        """Of `ops.separable`."""
        return {"eps": EPS, "stride": self.stride, "dilation": self.dilation}

    @property
    def settings(self) -> tuple[float, int, int]:
        """The options in the order of the operators' arguments."""
        return EPS, self.stride, self.dilation

    def block(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Block:
        """Random tensors; x is not centred."""
        N, H, W = self.size
        C, out_channels = self.channels
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float = 1) -> Tensor:
            return std * torch.randn(shape, generator=random, dtype=torch.float64)

        return Block(
            x=1 + 2 * normal(N, C, H, W),
            depthwise=normal(C, 1, self.kernel, self.kernel, std=1 / self.kernel),
            pointwise=normal(out_channels, C, 1, 1, std=1 / math.sqrt(C)),
            scale=1.5 + 0.5 * normal(C),
            shift=normal(C),
        ).to(dtype)

    def statistics(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalise by in eval mode."""
        random = torch.Generator().manual_seed(1)
        mean = torch.randn(self.channels[0], generator=random, dtype=torch.float64)
        var = 0.2 + torch.rand(self.channels[0], generator=random, dtype=torch.float64)
        wide = torch.promote_types(dtype, torch.float32)
        return mean.to(wide), var.to(wide)


CASES = [
    Case((2, 7, 5), (3, 5)),
    Case((2, 7, 5), (3, 5), dilation=2),
    Case((3, 8, 8), (17, 33), kernel=5),
    Case((2, 9, 6), (33, 7), kernel=7, stride=2),
    Case((2, 9, 6), (5, 4), kernel=5, stride=2, dilation=2),
    Case((2, 6, 7), (8, 8), kernel=3, stride=2, dilation=3),
    Case((2, 2, 3), (4, 4), kernel=7, dilation=3),  # wider than the picture
    Case((1, 35, 4), (19, 16), kernel=3),  # so high that its rows are dealt out in parts
    Case((1, 35, 4), (6, 3), kernel=5, stride=2, dilation=2),
    Case((5, 1, 1), (4, 10), kernel=5),
    Case((4, 1, 7), (2, 1), stride=2),
    Case((2, 5, 4), (1, 1), kernel=1),
    Case((1, 1, 1), (3, 9), dilation=2),
]
EMPTY_CASE = Case((0, 5, 4), (3, 2), stride=2)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sides, channels = st.integers(1, 9), st.integers(1, 20)
    return Case(
        size=(draw(st.integers(1, 4)), draw(sides), draw(sides)),
        channels=(draw(channels), draw(channels)),
        kernel=draw(st.sampled_from([1, 3, 5, 7])),
        stride=draw(st.sampled_from([1, 2])),
        dilation=draw(st.sampled_from([1, 1, 2, 3, 4])),
    )


def plain_separable(case: Case, block: Block, given: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The block in PyTorch's layers; backward is autograd's."""
    # F.batch_norm is the same, but refuses a single value.
    z = torch.batch_norm(
        block.x,
        block.scale,
        block.shift,
        *(given or (None, None)),
        training=given is None,
        momentum=0,
        eps=EPS,
        cudnn_enabled=False,
    )
    padding = case.dilation * (case.kernel // 2)
    d = F.conv2d(
        z.relu(), block.depthwise, None, case.stride, padding, case.dilation, case.channels[0]
    )
    return F.conv2d(d, block.pointwise)


def gradients(y: Tensor, block: Block, grad: Tensor) -> Block:
    """Of <y, grad> with respect to all tensors of a block."""
    return Block(*torch.autograd.grad(y, list(block), grad))


def run_all(
    operators: Any, case: Case, block: Block, grad: Tensor, frozen: bool = False
) -> dict[str, Tensor]:
    """All that operators, compiled ones or twins, give for a block, by name."""
    dtype = block.x.dtype
    statistics = operators.separable_statistics(block.x)
    used = case.statistics(dtype) if frozen else statistics
    arguments = (*block, *used, *case.settings)
    found = operators.separable_backward(grad, *arguments, not frozen, True, True)
    return {
        "mean": statistics[0],
        "var": statistics[1],
        "y": operators.separable_forward(*arguments, not frozen),
        **dict(zip((f"d{name}" for name in block._fields), found, strict=True)),
        "probe": operators.separable_gate_probe(grad, *arguments),
    }


def grad_of(case: Case, block: Block) -> Tensor:
    """Some dL/dy."""
    return random_like(plain_separable(case, block.to(torch.float64))).to(block.x.dtype)
