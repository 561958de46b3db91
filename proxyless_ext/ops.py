"""The compiled operators as typed functions; `reference.py` has the same in plain PyTorch.

Importing this loads them. Where they are missing, calling one is a UserError that says how to build
them, and everything else works.

Under autocast the pictures and the convolutions' weights take its type, as in plain layers, and the
BatchNorms' vectors float32. Of what the operators give, only `y` of `mbconv`, of `separable` and of
`pool` has gradients: first ones, with respect to x, the weights, scale and shift.

GPUs multiply float32 as TF32 if `torch.backends.cudnn` lets convolutions do so, which is PyTorch's
default; a compiled function keeps the setting it was compiled with. The host never waits for a GPU,
so scale and shift are looked at on the CPU alone: values that are not finite are an error there,
and do on a GPU what they do in plain layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._library import cuda_ops_loaded, load_ops
from .compilers import constant
from .errors import UserError

try:
    load_ops()
except UserError as error:
    _missing = str(error)
else:
    from . import _registrations  # noqa: F401, describes the operators as it is imported

    _missing = ""

OLDEST = (8, 0)
"""The compute capability of the oldest GPUs that there are kernels for."""
_OLDEST = ".".join(map(str, OLDEST))

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _with_user_errors(op: Callable[_P, _R]) -> Callable[_P, _R]:
    @wraps(op)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if _missing:
            raise UserError(_missing)
        if reason := _transform():
            raise UserError(f"{op.__name__} has no rule for this: {reason}; use plain layers there")
        try:
            return op(*args, **kwargs)
        except ValueError as error:
            raise UserError(str(error)) from error

    return call


def has_kernels(device: torch.device) -> bool:
    """Whether there are operators for this device, whatever blocks they can run."""
    if device.type == "cuda":
        return cuda_ops_loaded() and _capability(device) >= OLDEST
    return device.type == "cpu"


def unsupported(x: Tensor, kernel_size: int) -> str | None:
    """Why the operators cannot run a block on x, or None if they can.

    Args:
        x: the block's input.
        kernel_size: of the depthwise convolution. GPUs have kernels for 3, 5 and 7, in float32,
            bfloat16 and float16.

    Returns:
        The end of a sentence, "because ...".
    """
    if reason := _transform():
        return reason
    device = x.device.type
    if device == "cpu":
        return None
    if device != "cuda":
        return f"there are no kernels for {device}"
    if not cuda_ops_loaded():
        _warn_of_plain_layers(
            "The operators for GPUs are not built; see the section on GPUs in the README of "
            "proxyless_ext"
        )
        return "the operators for GPUs are not built"
    if not has_kernels(x.device):
        major, minor = _capability(x.device)
        reason = f"the GPU's compute capability is {major}.{minor}, and kernels need {_OLDEST}"
        _warn_of_plain_layers(f"No fused operators here: {reason}")
        return reason
    if x.dtype == torch.float64:
        return "there are no kernels for float64 on GPUs"
    if kernel_size not in (3, 5, 7):
        return f"there are no kernels for a kernel_size of {kernel_size} on GPUs"
    return None


def cpu_only_unsupported(x: Tensor) -> str | None:
    """Why there is no operator for a separable block or a pool on x, or None, as `unsupported`."""
    device = x.device.type
    return _transform() or (None if device == "cpu" else f"there are no kernels for {device}")


def _transform() -> str | None:
    """What is at work that operators have no rules for, and that would silently pass them by."""
    if torch._C._functorch.maybe_current_level() is not None:
        return "a transform of torch.func is at work"
    if forward_ad._current_level >= 0:
        return "derivatives are being taken in forward mode"
    return None


# Dynamo can trace neither warnings nor what follows.
@constant
def _warn_of_plain_layers(problem: str) -> None:
    warnings.warn(
        f"{problem}. So fused blocks run as plain layers on this GPU, slower and with more memory.",
        stacklevel=2,
    )


@constant
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


class MBConvResult(NamedTuple):
    """What `mbconv` gives.

    Attributes:
        y: [N, O, Ho, Wo], channels last in memory.
        mean: [S], by which the BatchNorms normalised.
        var: [S], the same of the variances, which are biased: divided by the number of values. Both
            are NaN if they were to come from an empty batch.
    """

    y: Tensor
    mean: Tensor
    var: Tensor


@_with_user_errors
def mbconv(
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    *,
    eps: float,
    stride: int = 1,
    expand_stride: int = 1,
    residual: bool = False,
) -> MBConvResult:
    """Inverted bottleneck (MobileNetV2, section 3) without its expanded tensor.

    Expand, depthwise and project convolutions, each with a BatchNorm, the first two with ReLU6. All
    pad by half their kernels. Channels-last input is read as it lies; any other is copied.

    Args:
        x: [N, C, H, W], float32, float64, bfloat16 or float16.
        expand: [hidden, C, ke, ke], in x's type like all weights; without it, hidden is C.
        depthwise: [hidden, 1, k, k].
        project: [O, hidden, 1, 1].
        scale, shift: the BatchNorms' weights and biases, one after the other [S], where S is the
            sum of their channels; float32, or float64 if x is.
        mean, var: [S], what to normalise by instead of the batch's statistics. They get no
            gradient.
        eps: added to the variances.
        stride: of the depthwise convolution, 1 or 2.
        expand_stride: of the expand convolution, 1 or 2.
        residual: add x.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    inputs = (x, expand, depthwise, project, scale, shift)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, _, mean, var, _ = torch.ops.proxyless.mbconv_forward(
        *inputs, mean, var, eps, stride, expand_stride, residual, save, _allows_tf32()
    )
    return MBConvResult(y, mean, var)


@_with_user_errors
def mbconv_moments(x: Tensor, kernel: int = 1, stride: int = 1) -> Tensor:
    """Mean and covariance of the patches of x that an expand convolution reads.

    BatchNorm statistics of expand layers follow from them; candidates that read the same x share
    them in `mbconv_gate_probe`.

    Args:
        x: [N, C, H, W].
        kernel: the convolution's.
        stride: the convolution's, 1 or 2.

    Returns:
        float64 [1 + K, K] with K = C kernel^2: the mean, then the covariance divided by the number
        of patches.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    moments: Tensor = torch.ops.proxyless.mbconv_moments(x, kernel, stride)
    return moments


@_with_user_errors
def mbconv_gate_probe(
    grad: Tensor,
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    moments: Tensor | None = None,
    *,
    eps: float,
    stride: int = 1,
    expand_stride: int = 1,
) -> Tensor:
    """`<grad, y>` for the y of `mbconv` without residual, without making y.

    This is the gradient of the gate of a candidate that did not run (ProxylessNAS, section 3.2).

    Args:
        grad: dL/dy [N, O, Ho, Wo].
        moments: those of `mbconv_moments`, where they are there already. The other arguments are
            those of `mbconv`.

    Returns:
        0-dim, of scale's type.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    probe: Tensor = torch.ops.proxyless.mbconv_gate_probe(
        grad, x, expand, depthwise, project, scale, shift, mean, var, moments, eps, stride,
        expand_stride, _allows_tf32(),
    )  # fmt: skip
    return probe


class SeparableResult(NamedTuple):
    """What `separable` gives.

    Attributes:
        y: [N, O, Ho, Wo], channels last in memory.
        mean: [C], by which the BatchNorm normalised.
        var: [C], the variances of the same, which are biased.
    """

    y: Tensor
    mean: Tensor
    var: Tensor


@_with_user_errors
def separable(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    *,
    eps: float,
    stride: int = 1,
    dilation: int = 1,
) -> SeparableResult:
    """Pre-activated separable convolution, of which x and its statistics are kept for backward.

    BatchNorm, ReLU, a depthwise and a 1x1 convolution, with nothing between the last two, on the
    CPU. The depthwise one pads by half its kernel, dilated as it is. Channels-last input is read as
    it lies; any other is copied.

    Args:
        x: [N, C, H, W], float32, float64, bfloat16 or float16.
        depthwise: [C, 1, k, k], in x's type like all weights.
        pointwise: [O, C, 1, 1].
        scale, shift: the BatchNorm's weight and bias [C]; float32, or float64 if x is.
        mean, var: [C], what to normalise by instead of the batch's statistics. They get no
            gradient.
        eps: added to the variances.
        stride: of the depthwise convolution, 1 or 2.
        dilation: of the depthwise convolution.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    _check_on_cpu(x, "separable")
    if (mean is None) != (var is None):
        raise UserError("separable: mean and var must be given together")
    batch_statistics = mean is None
    if mean is None or var is None:
        mean, var = torch.ops.proxyless.separable_statistics(x.detach())
    y = torch.ops.proxyless.separable_forward(
        x, depthwise, pointwise, scale, shift, mean, var, eps, stride, dilation, batch_statistics
    )
    return SeparableResult(y, mean, var)


@_with_user_errors
def separable_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x, which all `separable` of x share.

    Args:
        x: [N, C, H, W].

    Returns:
        [C] each, float32, or float64 if x is.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    _check_on_cpu(x, "separable")
    mean, var = torch.ops.proxyless.separable_statistics(x)
    return mean, var


@_with_user_errors
def separable_gate_probe(
    grad: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float,
    stride: int = 1,
    dilation: int = 1,
) -> Tensor:
    """`<grad, y>` for the y of `separable`, of which a few rows exist at a time.

    Args:
        grad: dL/dy [N, O, Ho, Wo].
        mean, var: [C], such as `separable_statistics` gives. The other arguments are those of
            `separable`.

    Returns:
        0-dim, of scale's type.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    _check_on_cpu(x, "separable")
    probe: Tensor = torch.ops.proxyless.separable_gate_probe(
        grad, x, depthwise, pointwise, scale, shift, mean, var, eps, stride, dilation
    )
    return probe


@_with_user_errors
def pool(x: Tensor, kernel: int, *, stride: int = 1, maximum: bool) -> Tensor:
    """Maxima or averages of windows, on the CPU, of which backward needs a byte per value or none.

    Windows are padded by half the kernel, and what lies beyond the picture is left out.
    Channels-last input is read as it lies; any other is copied.

    Args:
        x: [N, C, H, W], float32, float64, bfloat16 or float16.
        kernel: odd, at most 15.
        stride: 1 or 2.
        maximum: the maxima, or else the averages.

    Returns:
        [N, C, Ho, Wo], channels last in memory.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    _check_on_cpu(x, "pool")
    y: Tensor = torch.ops.proxyless.pool_forward(x, kernel, stride, maximum)[0]
    return y


@_with_user_errors
def pool_gate_probe(
    grad: Tensor, x: Tensor, kernel: int, *, stride: int = 1, maximum: bool
) -> Tensor:
    """`<grad, y>` for the y of `pool`, without making y.

    Args:
        grad: dL/dy [N, C, Ho, Wo]. The other arguments are those of `pool`.

    Returns:
        0-dim, float32, or float64 if x is.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    _check_on_cpu(x, "pool")
    probe: Tensor = torch.ops.proxyless.pool_gate_probe(grad, x, kernel, stride, maximum)
    return probe


def _check_on_cpu(x: Tensor, operator: str) -> None:
    if x.device.type != "cpu":
        raise UserError(
            f"{operator}: there are no kernels for {x.device.type}; use plain layers there"
        )


@_with_user_errors
def alpha_gradient(alpha: Tensor, gate_gradient: Tensor) -> Tensor:
    """dL/dalpha from dL/dg, of all edges at once: see `gates.alpha_gradient`.

    Args:
        alpha: [E, N], float32, float64, bfloat16 or float16.
        gate_gradient: dL/dg [E, N], in alpha's type.

    Returns:
        [E, N], in alpha's type, computed in float64.

    Raises:
        UserError: an argument does not fit, or the compiled operators are missing.
    """
    gradient: Tensor = torch.ops.proxyless.alpha_gradient(alpha, gate_gradient)
    return gradient


@constant
def _allows_tf32() -> bool:
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return bool(conv.fp32_precision == "tf32")
