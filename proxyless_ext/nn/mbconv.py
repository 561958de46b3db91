"""MBConv: plain layers that run as one fused operator where the device has it."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .. import ops
from ..errors import UserError
from ..spaces import Activation, make_divisible
from .fused import (
    Layers,
    can_run,
    is_exporting,
    is_untouched,
    norms_agree,
    probe_fused,
    run_fused,
)
from .layers import ConvBNAct
from .statistics import InputStatistics


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expand, depthwise kxk, 1x1 project, each with BatchNorm.

    From MobileNetV2 (paper, section 3). `expand_ratio` 1 has no expand layer. The shortcut is not
    part of it, but can be asked for.

    Parameters, buffers and results are those of its plain layers, but one operator computes them
    all and keeps the expanded tensor neither for backward nor at all. The plain layers run

    - where the operator has no kernels: on devices other than CPUs and GPUs; on GPUs for float64,
      for a kernel_size other than 3, 5 and 7, and if the operators for GPUs were not built,
    - while a model is exported or traced (torch.export, ONNX, torch.fx, torch.jit.trace), so that
      the graph has standard operations only,
    - under the transforms of torch.func and where derivatives are taken in forward mode,
    - and where the operator would compute something else: a stride above 2, or an inner layer that
      was replaced (as by SyncBatchNorm or a parametrisation), given a bias or another setting, or
      that has hooks, which therefore run, and with squeeze-and-excitation, ReLU or h-swish.

    BatchNorms of the fused block must share one mode (training or eval) and one eps.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: of the depthwise convolution; odd.
        stride: of the depthwise convolution.
        expand_ratio: expanded channels per input channel.
        bn_momentum, bn_eps: of the BatchNorms.
        squeeze: whether squeeze-and-excitation, by a quarter of the expanded channels, follows the
            depthwise convolution, as in MobileNetV3.
        activation: behind the expand and the depthwise convolution: ``relu6``, ``relu`` or
            ``hswish``.
        fused: None for the above, False for the plain layers always; True makes it an error where
            the operator cannot run, except in an export and on meta tensors.

    Shape:
        [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)]. Fused, the
        output is channels last in memory; so use `flatten` or `reshape` behind it, not `view`.

    Raises:
        UserError: an even kernel size, or a size, stride or ratio below 1; when called, what
            `fused` and BatchNorms of different modes or eps make an error.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        expand_ratio: int = 6,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
        fused: bool | None = None,
        squeeze: bool = False,
        activation: Activation = "relu6",
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride, expand_ratio) < 1:
            raise UserError(
                "MBConv needs channels, kernel_size, stride and expand_ratio of at least 1"
            )
        if kernel_size % 2 == 0:
            raise UserError(f"MBConv needs an odd kernel_size, not {kernel_size}")
        hidden = in_channels * expand_ratio
        layer = partial(ConvBNAct, bn_momentum=bn_momentum, bn_eps=bn_eps)
        self.expand: nn.Module = (
            layer(in_channels, hidden, 1, activation=activation)
            if expand_ratio > 1
            else nn.Identity()
        )
        self.depthwise = layer(
            hidden, hidden, kernel_size, stride, groups=hidden, activation=activation
        )
        self.squeeze = _squeeze(hidden) if squeeze else nn.Identity()
        self.project = layer(hidden, out_channels, 1, activation=None)
        self.fused = fused

    def forward(self, x: Tensor, residual: bool = False) -> Tensor:
        """The block; `residual` adds x to its output."""
        layers = self._layers_to_fuse(x)
        if layers is not None:
            return run_fused(x, layers, residual)
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        # `is`, because the stand-in that torch.fx gives for an argument has no truth value.
        return x + y if residual is True else y

    def forward_behind(self, layer: nn.Module, x: Tensor) -> Tensor:
        """self(layer(x)), without keeping layer(x) if it can serve as the expand layer."""
        layers = [layer, self.depthwise, self.project]
        if (
            is_untouched(self.expand, nn.Identity)
            and self._layers_to_fuse(x) is not None
            and can_run(layers)
            and norms_agree(layers)
        ):
            return run_fused(x, layers)
        y: Tensor = self(layer(x))
        return y

    def gate_probe(self, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor | None:
        """`<grad, self(x)>` without self(x), in training mode without moving statistics.

        Args:
            grad: dL/dy [N, O, Ho, Wo].
            x: [N, C, H, W].
            statistics: those of x.

        Returns:
            0-dim, or None where only running the block tells: plain layers would, or the block is
            of a subclass or has hooks.
        """
        layers = self._layers_to_fuse(x) if is_untouched(self, MBConv) else None
        return None if layers is None else probe_fused(grad, x, layers, statistics)

    def extra_repr(self) -> str:
        return f"fused={self.fused}"

    def _layers_to_fuse(self, x: Tensor) -> Layers | None:
        """The layers if the operator is to run them, or None for plain layers."""
        if self.fused is False or is_exporting(x) or x.is_meta:
            return None
        has_expand = not is_untouched(self.expand, nn.Identity)
        layers = [*([self.expand] if has_expand else []), self.depthwise, self.project]
        if not is_untouched(self.squeeze, nn.Identity):
            reason: str | None = "it has squeeze-and-excitation"
        elif not can_run(layers):
            reason = (
                "a layer of it was replaced, changed or hooked, or has a stride above 2 or another "
                "activation than ReLU6"
            )
        else:
            reason = ops.unsupported(x, layers[-2].conv.kernel_size[0])
            if reason is None:
                return layers
        if self.fused:
            raise UserError(
                f"MBConv(fused=True) cannot run as one operator, because {reason}; build it with "
                "fused=None to use plain layers then"
            )
        return None


def _squeeze(channels: int) -> nn.Module:
    """Squeeze-and-excitation as in MobileNetV3 (Howard et al., 2019, section 5.3)."""
    from torchvision.ops import SqueezeExcitation  # Slow to import, and few networks have it.

    return SqueezeExcitation(
        channels, make_divisible(channels / 4), scale_activation=nn.Hardsigmoid
    )
