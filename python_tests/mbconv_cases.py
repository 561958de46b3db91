"""Blocks to try the mbconv operators on, and the same blocks in PyTorch's plain layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-3
# Nearer than this to where ReLU6's gradient jumps, float32 may be on the other side.
KINK = 1e-5


class Block(NamedTuple):
    """The tensors of a block; the BatchNorms' channels lie one after the other."""

    x: Tensor
    expand: Tensor | None
    depthwise: Tensor
    project: Tensor
    scale: Tensor
    shift: Tensor

    def to(self, dtype: torch.dtype) -> Block:
        """The numbers in another type, those of the vectors in float32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        dtypes = [dtype] * 4 + [wide] * 2
        return Block(*(t if t is None else t.to(d) for t, d in zip(self, dtypes, strict=True)))

    def leaves(self) -> Block:
        """The same tensors, asking for gradients."""
        return Block(*(t if t is None else t.detach().requires_grad_() for t in self))

    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        return [t for t in self if t is not None]


class Statistics(NamedTuple):
    """What the BatchNorms normalise by."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Case:
    """Sizes and options of a block."""

    size: tuple[int, int, int]  # N, H, W
    channels: tuple[int, int, int]  # C, hidden, O
    kernel: int = 3
    stride: int = 1
    expand_kernel: int = 1  # 0 without an expand layer, where hidden is C
    expand_stride: int = 1
    residual: bool = False

    def __str__(self) -> str:
        sizes = "x".join(map(str, (*self.size, *self.channels)))
        expand = f"e{self.expand_kernel}s{self.expand_stride}"
        return f"{sizes}-{expand}-k{self.kernel}s{self.stride}{'-residual' * self.residual}"

    @property
    def options(self) -> dict[str, Any]:
        """Of `ops.mbconv`."""
        strides = {"stride": self.stride, "expand_stride": self.expand_stride}
        return {"eps": EPS, **strides, "residual": self.residual}

    @property
    def probe_options(self) -> dict[str, Any]:
        """Of `ops.mbconv_gate_probe`."""
        return {"eps": EPS, "stride": self.stride, "expand_stride": self.expand_stride}

    @property
    def settings(self) -> tuple[float, int, int, bool]:
        """The options in the order of the operators' arguments."""
        return EPS, self.stride, self.expand_stride, self.residual

    @property
    def norm_channels(self) -> int:
        _, hidden, out_channels = self.channels
        return (2 if self.expand_kernel else 1) * hidden + out_channels

    def block(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Block:
        """Random tensors: x is not centred, and ReLU6 cuts at both ends."""
        N, H, W = self.size
        C, hidden, out_channels = self.channels
        random = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            std = 1 / math.sqrt(math.prod(shape[1:]))
            return std * torch.randn(shape, generator=random, dtype=torch.float64)

        def uniform(low: float, high: float) -> Tensor:
            unit = torch.rand(self.norm_channels, generator=random, dtype=torch.float64)
            return low + (high - low) * unit

        x = torch.randn(N, C, H, W, generator=random, dtype=torch.float64)
        kernel = self.expand_kernel
        block = Block(
            x=1 + 2 * x,
            expand=weight(hidden, C, kernel, kernel) if kernel else None,
            depthwise=weight(hidden, 1, self.kernel, self.kernel),
            project=weight(out_channels, hidden, 1, 1),
            scale=uniform(0.5, 3),
            shift=uniform(-1, 3),
        )
        return block.to(dtype)

    def statistics(self, dtype: torch.dtype = torch.float64) -> Statistics:
        """Some to normalise by in eval mode."""
        random = torch.Generator().manual_seed(1)
        size = self.norm_channels
        mean = torch.randn(size, generator=random, dtype=torch.float64)
        var = 0.2 + torch.rand(size, generator=random, dtype=torch.float64)
        wide = torch.promote_types(dtype, torch.float32)
        return Statistics(mean.to(wide), var.to(wide))


CASES = [
    Case((2, 7, 5), (3, 11, 5), kernel=5),
    Case((2, 8, 8), (8, 16, 8), residual=True),
    Case((3, 9, 6), (5, 17, 7), kernel=7, stride=2),
    Case((2, 4, 4), (4, 36, 33)),
    Case((2, 11, 10), (3, 8, 16), expand_kernel=3, expand_stride=2),
    Case((3, 7, 8), (2, 5, 2), kernel=5, stride=2, expand_kernel=5),
    Case((2, 3, 2), (4, 6, 3), expand_kernel=7, expand_stride=2),
    Case((3, 5, 5), (19, 19, 19), kernel=5, expand_kernel=0, residual=True),
    Case((2, 6, 9), (33, 33, 2), kernel=7, stride=2, expand_kernel=0),
    Case((2, 2, 3), (4, 13, 4), kernel=7, residual=True),
    Case((5, 1, 1), (4, 10, 4)),
    Case((4, 1, 7), (2, 7, 1), stride=2),
    Case((2, 5, 4), (1, 6, 1)),
    Case((1, 1, 1), (3, 9, 3), kernel=5),
]
EMPTY_CASES = [
    Case((0, 5, 4), (3, 6, 3), residual=True),
    Case((0, 5, 4), (3, 3, 2), stride=2, expand_kernel=0),
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sides, channels, strides = st.integers(1, 9), st.integers(1, 20), st.sampled_from([1, 2])
    C, out_channels = draw(channels), draw(channels)
    expand_kernel = draw(st.sampled_from([0, 1, 1, 3, 5]))
    stride, expand_stride = draw(strides), draw(strides) if expand_kernel else 1
    residual = stride == expand_stride == 1 and draw(st.booleans())
    return Case(
        size=(draw(st.integers(1, 4)), draw(sides), draw(sides)),
        channels=(C, draw(channels) if expand_kernel else C, C if residual else out_channels),
        kernel=draw(st.sampled_from([1, 3, 5, 7])),
        stride=stride,
        expand_kernel=expand_kernel,
        expand_stride=expand_stride,
        residual=residual,
    )


class PlainResult(NamedTuple):
    y: Tensor
    mean: Tensor
    var: Tensor
    margin: float  # How far the values before ReLU6 stay from 0 and 6, where the gradient jumps.


def plain_mbconv(case: Case, block: Block, given: Statistics | None = None) -> PlainResult:
    """The block in PyTorch's layers; backward is autograd's."""
    used = []
    margin = math.inf

    def relu6(values: Tensor) -> Tensor:
        nonlocal margin
        to_ends = torch.minimum(values.detach().abs(), (values.detach() - 6).abs())
        margin = min(margin, float(to_ends.min())) if values.numel() else margin
        return F.relu6(values)

    def norm(values: Tensor, layer: int) -> Tensor:
        start = case.channels[1] * layer
        channels = slice(start, start + values.shape[1])
        if given is None:
            of_channels = values.detach().transpose(0, 1).flatten(1)
            mean = of_channels.mean(1)
            used.append((mean, (of_channels - mean[:, None]).square().mean(1)))
        else:
            used.append((given.mean[channels], given.var[channels]))
        # F.batch_norm is the same, but refuses a single value.
        return torch.batch_norm(
            values,
            block.scale[channels],
            block.shift[channels],
            *(used[-1] if given else (None, None)),
            training=given is None,
            momentum=0,
            eps=EPS,
            cudnn_enabled=False,
        )

    def conv(values: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
        return F.conv2d(values, weight, None, stride, weight.shape[-1] // 2, groups=groups)

    hidden, layer = block.x, 0
    if block.expand is not None:
        hidden = relu6(norm(conv(hidden, block.expand, case.expand_stride), layer))
        layer += 1
    hidden = conv(hidden, block.depthwise, case.stride, groups=hidden.shape[1])
    hidden = relu6(norm(hidden, layer))
    y = norm(conv(hidden, block.project, 1), layer + 1)
    if case.residual:
        y = y + block.x
    means, variances = zip(*used, strict=True)
    return PlainResult(y, torch.cat(means), torch.cat(variances), margin)


def gradients(y: Tensor, block: Block, grad: Tensor) -> Block:
    """Of <y, grad> with respect to all tensors of a block."""
    found = iter(torch.autograd.grad(y, block.tensors(), grad))
    return Block(*(None if tensor is None else next(found) for tensor in block))


def random_like(y: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randn(y.shape, generator=random, dtype=torch.float64).to(y.dtype)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The length of the difference over that of what is expected, or of a vector of ones.

    Values that are not finite must be the same ones at the same places.
    """
    if actual.shape != expected.shape:
        return math.inf
    a, b = actual.detach().double(), expected.detach().double()
    finite = b.isfinite()
    if not torch.equal(a[~finite].nan_to_num(7, 8, 9), b[~finite].nan_to_num(7, 8, 9)):
        return math.inf
    if not finite.any():
        return 0
    length = max(float(b[finite].norm()), math.sqrt(b[finite].numel()))
    return float((a - b)[finite].norm().nan_to_num(math.inf)) / length
