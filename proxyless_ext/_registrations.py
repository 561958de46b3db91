"""What PyTorch has to know of the compiled operators beside their kernels.

That is the shapes of their results (for torch.compile and meta tensors), gradients, the types they
compute in under autocast, and what they cost. The library must be loaded before this is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .errors import UserError

_ops = torch.ops.proxyless

_BLOCK = ("x", "expand", "depthwise", "project", "scale", "shift")
"""The tensors of an MBConv that have gradients, as its operators have them in a row."""
_SEPARABLE = ("x", "depthwise", "pointwise", "scale", "shift")
"""The same of the separable block."""
_PICTURES = ("grad", "x", "expand", "depthwise", "project", "pointwise")
"""What autocast gives its type, as in plain layers: pictures and the convolutions' weights."""
_VECTORS = ("scale", "shift", "mean", "var")
"""What it leaves float32: all of BatchNorm."""


def _by_name(op: Any, values: Sequence[Any]) -> dict[str, Any]:
    """What stands in the places of an operator's arguments, under their names."""
    return {
        argument.name: value
        for argument, value in zip(op.default._schema.arguments, values, strict=False)
    }


# --- Shapes ---


def _fake(
    operator: str, called: str = "mbconv", like: str = "x"
) -> Callable[[Callable[[dict[str, Any]], Any]], Callable[..., Any]]:
    """Registers what tells an operator's results, without values, from its arguments by name.

    Meta tensors among others are refused: they would make the results so, without values. All must
    be where the argument `like` is; `called` is what the refusal calls the operator.
    """
    op = getattr(_ops, operator)

    def register(results: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        def of_values(*values: Any, **named: Any) -> Any:
            given = _by_name(op, values) | named
            for name, value in given.items():
                if isinstance(value, Tensor) and value.device != given[like].device:
                    raise UserError(f"{called}: {name} must be on the same device as {like}")
            return results(given)

        torch.library.register_fake(f"proxyless::{operator}")(of_values)
        return of_values

    return register


@_fake("mbconv_moments")
def _(given: dict[str, Any]) -> Tensor:
    return _moments(given["x"], given["kernel"])


@_fake("mbconv_forward")
def _(given: dict[str, Any]) -> tuple[Tensor, ...]:
    x, expand, scale = given["x"], given["expand"], given["scale"]
    strides = given["expand_stride"], given["stride"]
    height, width = (_strided(_strided(size, strides[0]), strides[1]) for size in x.shape[2:])
    output = (x.shape[0], given["project"].shape[0], height, width)
    return (
        _picture(x, *output),
        _picture(x, *output) if given["save"] else x.new_empty(0),
        scale.new_empty(scale.shape),
        scale.new_empty(scale.shape),
        _moments(x, expand.shape[-1])
        if given["mean"] is None and expand is not None
        else x.new_empty(0, dtype=torch.float64),
    )


@_fake("mbconv_backward")
def _(given: dict[str, Any]) -> tuple[Tensor, ...]:
    return _gradients(given, _BLOCK)


@_fake("mbconv_gate_probe")
def _(given: dict[str, Any]) -> Tensor:
    return _probe(given)


@_fake("separable_statistics", "separable")
def _(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x = given["x"]
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


@_fake("separable_forward", "separable")
def _(given: dict[str, Any]) -> Tensor:
    x, stride = given["x"], given["stride"]
    height, width = (_strided(size, stride) for size in x.shape[2:])
    return _picture(x, x.shape[0], given["pointwise"].shape[0], height, width)


@_fake("separable_backward", "separable")
def _(given: dict[str, Any]) -> tuple[Tensor, ...]:
    return _gradients(given, _SEPARABLE)


@_fake("separable_gate_probe", "separable")
def _(given: dict[str, Any]) -> Tensor:
    return _probe(given)


@_fake("pool_forward", "pool")
def _(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x, stride = given["x"], given["stride"]
    height, width = (_strided(size, stride) for size in x.shape[2:])
    y = _picture(x, *x.shape[:2], height, width)
    sizes = y.shape if given["maximum"] else (0, 0, 0, 0)
    return y, _picture(x.new_empty(0, dtype=torch.uint8), *sizes)


@_fake("pool_backward", "pool", "grad")
def _(given: dict[str, Any]) -> Tensor:
    grad = given["grad"]
    return _picture(grad, *grad.shape[:2], given["height"], given["width"])


@_fake("pool_gate_probe", "pool")
def _(given: dict[str, Any]) -> Tensor:
    x = given["x"]
    result: Tensor = x.new_empty((), dtype=torch.promote_types(x.dtype, torch.float32))
    return result


@_fake("alpha_gradient", "alpha_gradient", "alpha")
def _(given: dict[str, Any]) -> Tensor:
    return torch.empty_like(given["alpha"], memory_format=torch.contiguous_format)


def _gradients(given: dict[str, Any], names: Sequence[str]) -> tuple[Tensor, ...]:
    """Of x, the first of the names, and of weights."""
    x, *weights = (given[name] for name in names)

    def gradient(weight: Tensor | None) -> Tensor:
        shape = weight.shape if weight is not None and given["weight_grads"] else (0,)
        like: Tensor = x if weight is None else weight
        return like.new_empty(shape)

    dx = _picture(x, *x.shape) if given["input_grad"] else x.new_empty(0)
    return (dx, *map(gradient, weights))


def _probe(given: dict[str, Any]) -> Tensor:
    result: Tensor = given["scale"].new_empty(())
    return result


def _picture(like: Tensor, *sizes: int) -> Tensor:
    return torch.empty(
        sizes, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _moments(x: Tensor, kernel: int) -> Tensor:
    patch = x.shape[1] * kernel**2
    return x.new_empty((1 + patch, patch), dtype=torch.float64)


def _strided(size: int, stride: int) -> int:
    """The size of a convolution's output, padded by half the kernel."""
    return (size + stride - 1) // stride


# --- Gradients ---


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given = _by_name(_ops.mbconv_forward, inputs)
    kept = output[1:]
    ctx.save_for_backward(*(given[name] for name in _BLOCK), *kept)
    ctx.settings = {
        name: given[name] for name in ("eps", "stride", "expand_stride", "residual", "tf32")
    }
    ctx.settings["batch_statistics"] = given["mean"] is None
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    return _asked_gradients(ctx, grad, _ops.mbconv_backward)


def _keep_separable(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    given = _by_name(_ops.separable_forward, inputs)
    ctx.save_for_backward(*(given[name] for name in (*_SEPARABLE, "mean", "var")))
    ctx.settings = {name: given[name] for name in ("eps", "stride", "dilation", "batch_statistics")}
    ctx.set_materialize_grads(False)


def _separable_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    return _asked_gradients(ctx, grad, _ops.separable_backward)


def _keep_taps(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.settings = inputs
    ctx.size = x.shape[2:]
    taps = output[1]
    ctx.save_for_backward(taps)
    ctx.mark_non_differentiable(taps)
    ctx.set_materialize_grads(False)


def _pool_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    dx = None
    if grad is not None:
        dx = _ops.pool_backward(grad, *ctx.saved_tensors, *ctx.size, *ctx.settings)
    return dx, None, None, None


def _asked_gradients(
    ctx: Any, grad: Tensor | None, backward: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor | None, ...]:
    """Those of x, the first input, and of the weights, if any of them is asked for."""
    needed = ctx.needs_input_grad
    if grad is None:
        return (None,) * len(needed)
    gradients = backward(
        grad,
        *ctx.saved_tensors,
        **ctx.settings,
        input_grad=needed[0],
        weight_grads=any(needed[1:]),
    )
    asked = [gradient if needed[i] else None for i, gradient in enumerate(gradients)]
    return (*asked, *[None] * (len(needed) - len(asked)))


def _refuse(sentence: str) -> Callable[..., NoReturn]:
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise UserError(sentence)

    return backward


torch.library.register_autograd(
    "proxyless::mbconv_forward", _backward, setup_context=_keep_for_backward
)
torch.library.register_autograd(
    "proxyless::separable_forward", _separable_backward, setup_context=_keep_separable
)
torch.library.register_autograd("proxyless::pool_forward", _pool_backward, setup_context=_keep_taps)
# Without these, gradients would silently stop here.
for _name, _sentence in {
    "mbconv_moments": "mbconv_moments has no gradient; give it a detached x",
    "mbconv_gate_probe": "mbconv_gate_probe has no gradient; give it detached tensors",
    "alpha_gradient": "alpha_gradient has no gradient; give it detached tensors",
    "mbconv_backward": "mbconv has no second derivative; call backward without create_graph",
    "separable_statistics": "separable_statistics has no gradient; give it a detached x",
    "separable_gate_probe": "separable_gate_probe has no gradient; give it detached tensors",
    "separable_backward": "separable has no second derivative; call backward without create_graph",
    "pool_gate_probe": "pool_gate_probe has no gradient; give it detached tensors",
    "pool_backward": "pool has no second derivative; call backward without create_graph",
}.items():
    torch.library.register_autograd(f"proxyless::{_name}", _refuse(_sentence))

# --- Autocast ---

_library = torch.library.Library("proxyless", "FRAGMENT")


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    """Like autocast, which leaves float64 as it is."""
    castable = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if dtype and castable and value.dtype != torch.float64 else value


def _autocast(op: Any, device: str) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        dtypes = dict.fromkeys(_PICTURES, torch.get_autocast_dtype(device))
        dtypes |= dict.fromkeys(_VECTORS, torch.float32)
        with torch.autocast(device, enabled=False):
            given = _by_name(op, args)
            return op(*(_cast(value, dtypes.get(name)) for name, value in given.items()))

    return kernel


for _name, _devices in {
    "mbconv_moments": ("cpu", "cuda"),
    "mbconv_forward": ("cpu", "cuda"),
    "mbconv_gate_probe": ("cpu", "cuda"),
    "separable_statistics": ("cpu",),
    "separable_forward": ("cpu",),
    "separable_gate_probe": ("cpu",),
}.items():
    for _device in _devices:
        _kernel = _autocast(getattr(_ops, _name), _device)
        _library.impl(_name, _kernel, f"Autocast{_device.upper()}")

# --- Cost ---

# Operations of the convolutions, counted as those of plain layers. Formulas get shapes as tensors.


def _layer_flops(given: dict[str, Any], output: torch.Size) -> list[int]:
    """Of expand, depthwise and project; `given` holds shapes."""
    x, expand, stride = given["x"], given["expand"], given["expand_stride"]
    in_pixels = x[0] * _strided(x[2], stride) * _strided(x[3], stride)
    out_pixels = output[0] * output[2] * output[3]
    return [
        2 * in_pixels * math.prod(expand) if expand else 0,
        2 * out_pixels * math.prod(given["depthwise"]),
        2 * out_pixels * math.prod(given["project"]),
    ]


@register_flop_formula(_ops.mbconv_forward)
def _forward_flops(*args: Any, out_shape: tuple[torch.Size, ...], **named: Any) -> int:
    return sum(_layer_flops(_by_name(_ops.mbconv_forward, args) | named, out_shape[0]))


@register_flop_formula(_ops.mbconv_gate_probe)
def _probe_flops(*args: Any, out_shape: torch.Size, **named: Any) -> int:
    given = _by_name(_ops.mbconv_gate_probe, args) | named
    return sum(_layer_flops(given, given["grad"]))


@register_flop_formula(_ops.mbconv_backward)
def _backward_flops(*args: Any, out_shape: tuple[torch.Size, ...], **named: Any) -> int:
    given = _by_name(_ops.mbconv_backward, args) | named
    expand, depthwise, project = _layer_flops(given, given["grad"])
    flops = expand + depthwise  # Both are run again,
    flops += project  # and gradients go back through project,
    if expand or given["input_grad"]:
        flops += depthwise
    if given["input_grad"]:
        flops += expand
    if given["weight_grads"]:
        flops += expand + depthwise + project
    return flops


def _separable_flops(given: dict[str, Any], output: torch.Size) -> int:
    """Of both convolutions; `given` holds shapes."""
    pixels = output[0] * output[2] * output[3]
    return 2 * pixels * (math.prod(given["depthwise"]) + math.prod(given["pointwise"]))


@register_flop_formula(_ops.separable_forward)
def _separable_forward_flops(*args: Any, out_shape: torch.Size, **named: Any) -> int:
    return _separable_flops(_by_name(_ops.separable_forward, args) | named, out_shape)


@register_flop_formula(_ops.separable_gate_probe)
def _separable_probe_flops(*args: Any, out_shape: torch.Size, **named: Any) -> int:
    given = _by_name(_ops.separable_gate_probe, args) | named
    return _separable_flops(given, given["grad"])


@register_flop_formula(_ops.separable_backward)
def _separable_backward_flops(*args: Any, out_shape: tuple[torch.Size, ...], **named: Any) -> int:
    given = _by_name(_ops.separable_backward, args) | named
    pixels = math.prod(given["grad"]) // given["grad"][1]
    depthwise = 2 * pixels * math.prod(given["depthwise"])
    once = _separable_flops(given, given["grad"])  # Gradients go back through both,
    # and for the weights', the depthwise convolution is run again.
    return once + (once + depthwise if given["weight_grads"] else 0)
