"""The readable twin of every op: the same signature in plain PyTorch, written from the mathematics.

An MBConv (MobileNetV2, section 3) is three convolutions, each with a BatchNorm, and ReLU6 behind
the first two:

    E = We * x     Z1 = scale1 H1 + shift1     A1 = relu6(Z1)      expand
    D = Wd * A1    Z2 = scale2 H2 + shift2     A2 = relu6(Z2)      depthwise
    P = Wp A2      Y  = scale3 H3 + shift3     (+ x)               project

H1, H2 and H3 are E, D and P normalised: H = (E - mean) / sqrt(var + eps), channel by channel.
Without an expand layer, A1 = x. Backward is the chain rule spelled out layer by layer. Like the
fused kernels it has x, P and the statistics from forward, and computes everything else again.

A separable block (pre-activated, He et al., Identity Mappings, 2016) has its only BatchNorm, and
ReLU, in front of both of its convolutions, with nothing between these:

    A = relu(scale H + shift)     D = Wd * A     Y = Wp D

H is x normalised, so that the statistics are x's own, which all such blocks that read one x share.
It needs x and the statistics for backward.

The vectors [S] of the MBConv's BatchNorms hold the layers' channels one after the other: S = 2
hidden + O, or hidden + O without an expand layer. Everything is computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# --- The ops ---


def mbconv_moments(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Mean and covariance of the patches that a convolution with `kernel` and `stride` reads.

    They give the mean and the variance of the convolution's output, whatever its weight.

    Args:
        x: [N, C, H, W].

    Returns:
        float64 [1 + K, K] with K = C kernel^2 in the order of a convolution's weight: the mean, and
        the covariance divided by the number of patches. NaN for an empty batch.
    """
    values = _patches(x.double(), kernel, stride).transpose(0, 1).flatten(1)  # [K, N Ho Wo]
    mean = values.mean(1, keepdim=True)
    centred = values - mean
    return torch.cat([mean.T, centred @ centred.T / values.shape[1]])


def mbconv_forward(
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    stride: int,
    expand_stride: int,
    residual: bool,
    save: bool,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The block's output, and what backward needs.

    Args:
        x: [N, C, H, W].
        expand: We [hidden, C, ke, ke].
        depthwise: Wd [hidden, 1, k, k].
        project: Wp [O, hidden, 1, 1].
        scale, shift: the BatchNorms' weights and biases [S].
        mean, var: what to normalise by [S]; without them it is the batch's statistics.
        residual: add x to the output.
        save: return P for backward.
        tf32: let GPUs multiply float32 as TF32; of no effect here, as in all of these.

    Returns:
        Y [N, O, Ho, Wo]; P, like Y, or empty without `save`; the mean and the (biased) variance [S]
        that were used; what `mbconv_moments` gives, or empty where it plays no part.
    """
    moments = _moments_of_batch(x, expand, mean, expand_stride)
    P, mean, var = _project(
        x, expand, depthwise, project, scale, shift, mean, var, moments, eps, stride, expand_stride
    )
    out_channels = project.shape[0]
    H3 = _normalise(P, mean[-out_channels:], var[-out_channels:], eps)
    Y = _affine(H3, scale[-out_channels:], shift[-out_channels:])
    if residual:
        Y = Y + x
    p = P.to(x.dtype) if save else x.new_empty(0)
    return Y.to(x.dtype), p, mean.to(scale.dtype), var.to(scale.dtype), moments


def mbconv_backward(
    grad: Tensor,
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    p: Tensor,
    mean: Tensor,
    var: Tensor,
    moments: Tensor,
    eps: float,
    stride: int,
    expand_stride: int,
    residual: bool,
    batch_statistics: bool,
    input_grad: bool,
    weight_grads: bool,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All gradients of the block, from G = dL/dY.

    Args:
        grad: G [N, O, Ho, Wo].
        p, mean, var, moments: as `mbconv_forward` returned them. The moments, not needed here, save
            the kernels a pass over the expanded tensor.
        batch_statistics: mean and var came from the batch, so gradients flow through them too.
        input_grad: dx is asked for.
        weight_grads: the other gradients are asked for.
        tf32: as forward had it.

    Returns:
        dx, dexpand, ddepthwise, dproject, dscale and dshift, each of the shape of what it is the
        gradient of, or empty if not asked for.
    """
    X, Wd, Wp, G = (_widened(value) for value in (x, depthwise, project, grad))
    We = None if expand is None else _widened(expand)
    sizes = _norm_sizes(expand, depthwise, project)
    means, variances, scales, shifts = (v.split(sizes) for v in (mean, var, scale, shift))

    # What forward had.
    A1 = X
    if We is not None:
        E = _conv(X, We, expand_stride)
        H1 = _normalise(E, means[0], variances[0], eps)
        Z1 = _affine(H1, scales[0], shifts[0])
        A1 = F.relu6(Z1)
    D = _conv(A1, Wd, stride)
    H2 = _normalise(D, means[-2], variances[-2], eps)
    Z2 = _affine(H2, scales[-2], shifts[-2])
    A2 = F.relu6(Z2)
    H3 = _normalise(_widened(p), means[-1], variances[-1], eps)

    # From the output to the input.
    dP, *dnorm3 = _norm_backward(G, H3, scales[-1], variances[-1], eps, batch_statistics)
    dA2, dWp = _conv_backward(dP, A2, Wp, 1)
    dZ2 = _relu6_backward(dA2, Z2)
    dD, *dnorm2 = _norm_backward(dZ2, H2, scales[-2], variances[-2], eps, batch_statistics)
    dA1, dWd = _conv_backward(dD, A1, Wd, stride)
    dX, dWe, dnorms = dA1, None, [dnorm2, dnorm3]
    if We is not None:
        dZ1 = _relu6_backward(dA1, Z1)
        dE, *dnorm1 = _norm_backward(dZ1, H1, scales[0], variances[0], eps, batch_statistics)
        dX, dWe = _conv_backward(dE, X, We, expand_stride)
        dnorms = [dnorm1, *dnorms]
    if residual:
        dX = dX + G
    dscale, dshift = (torch.cat(vectors) for vectors in zip(*dnorms, strict=True))

    return (
        _asked(dX, x, input_grad),
        _asked(dWe, x, weight_grads),
        _asked(dWd, x, weight_grads),
        _asked(dWp, x, weight_grads),
        _asked(dscale, scale, weight_grads),
        _asked(dshift, shift, weight_grads),
    )


def mbconv_gate_probe(
    grad: Tensor,
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    moments: Tensor | None,
    eps: float,
    stride: int,
    expand_stride: int,
    tf32: bool = False,
) -> Tensor:
    """The gradient of the block's gate, `<G, Y>`, without Y (ProxylessNAS, section 3.2).

    It is the sum over the channels of scale3 (S - mean3 T) / sqrt(var3 + eps) + shift3 T, where
    T = sum(G) and S = sum(G P) over the pixels of a channel.

    Args:
        grad: G [N, O, Ho, Wo].
        moments: what `mbconv_moments` gives, to share it among candidates that read the same x.
            The other arguments are those of `mbconv_forward`.

    Returns:
        0-dim, of scale's dtype. Y is without the residual.
    """
    if grad.numel() == 0:  # The mean of an empty batch is NaN, but a sum over it is 0.
        return scale.new_zeros(())
    if moments is None:
        moments = _moments_of_batch(x, expand, mean, expand_stride)
    P, mean, var = _project(
        x, expand, depthwise, project, scale, shift, mean, var, moments, eps, stride, expand_stride
    )
    scale3, shift3, mean3, var3 = (v[-project.shape[0] :] for v in (scale, shift, mean, var))
    T = _widened(grad).sum((0, 2, 3))
    S = (_widened(grad) * P).sum((0, 2, 3))
    return (scale3 * (S - mean3 * T) / torch.sqrt(var3 + eps) + shift3 * T).sum()


def separable_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel of x.

    Args:
        x: [N, C, H, W].

    Returns:
        [C] each, in float32 at least; NaN for an empty batch.
    """
    mean, var = _statistics(x.double())
    vector_type = torch.promote_types(x.dtype, torch.float32)
    return mean.to(vector_type), var.to(vector_type)


def separable_forward(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    stride: int,
    dilation: int,
    batch_statistics: bool,
) -> Tensor:
    """The separable block's output.

    Args:
        x: [N, C, H, W].
        depthwise: Wd [C, 1, k, k].
        pointwise: Wp [O, C, 1, 1].
        scale, shift: the BatchNorm's weight and bias [C].
        mean, var: what to normalise by [C].
        stride, dilation: of the depthwise convolution.
        batch_statistics: mean and var are x's own, so that gradients flow through them too.

    Returns:
        Y [N, O, Ho, Wo].
    """
    A = F.relu(_affine(_normalise(_widened(x), mean, var, eps), scale, shift))
    D = _conv(A, _widened(depthwise), stride, dilation)
    return _conv(D, _widened(pointwise), 1).to(x.dtype)


def separable_backward(
    grad: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    stride: int,
    dilation: int,
    batch_statistics: bool,
    input_grad: bool,
    weight_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All gradients of the separable block, from G = dL/dY.

    Args:
        grad: G [N, O, Ho, Wo].
        input_grad: dx is asked for.
        weight_grads: the other gradients are asked for. Other arguments are those of
            `separable_forward`.

    Returns:
        dx, ddepthwise, dpointwise, dscale and dshift, each of the shape of what it is the gradient
        of, or empty if not asked for.
    """
    X, Wd, Wp, G = (_widened(value) for value in (x, depthwise, pointwise, grad))
    H = _normalise(X, mean, var, eps)
    Z = _affine(H, scale, shift)
    A = F.relu(Z)
    D = _conv(A, Wd, stride, dilation)

    dD, dWp = _conv_backward(G, D, Wp, 1)
    dA, dWd = _conv_backward(dD, A, Wd, stride, dilation)
    dZ = dA.masked_fill(Z <= 0, 0)  # NaN passes.
    dX, dscale, dshift = _norm_backward(dZ, H, scale, var, eps, batch_statistics)
    return (
        _asked(dX, x, input_grad),
        _asked(dWd, x, weight_grads),
        _asked(dWp, x, weight_grads),
        _asked(dscale, scale, weight_grads),
        _asked(dshift, shift, weight_grads),
    )


def separable_gate_probe(
    grad: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    stride: int,
    dilation: int,
) -> Tensor:
    """The gradient of the separable block's gate, `<G, Y>`, without keeping Y.

    Args:
        grad: G [N, O, Ho, Wo]. The other arguments are those of `separable_forward`.

    Returns:
        0-dim, of scale's dtype.
    """
    Y = separable_forward(
        _widened(x), depthwise, pointwise, scale, shift, mean, var, eps, stride, dilation, True
    )
    return (_widened(grad) * Y).sum()


def pool_forward(x: Tensor, kernel: int, stride: int, maximum: bool) -> tuple[Tensor, Tensor]:
    """Maxima or averages of windows, without what lies beyond the picture.

    Args:
        x: [N, C, H, W].
        kernel: size of the windows, which are padded by half of it.
        stride: between them.
        maximum: maxima, or else averages.

    Returns:
        Y and, of maxima, which pixel of its window each is, row by row, as bytes; both
        [N, C, Ho, Wo]. Of averages the second is empty.
    """
    padding = kernel // 2
    if not maximum:
        Y = F.avg_pool2d(_widened(x), kernel, stride, padding, count_include_pad=False)
        return Y.to(x.dtype), x.new_empty((0, 0, 0, 0), dtype=torch.uint8)
    Y, places = F.max_pool2d(_widened(x), kernel, stride, padding, return_indices=True)
    rows, columns = (torch.arange(size) * stride - padding for size in Y.shape[2:])
    width = x.shape[3]
    taps = (places // width - rows[:, None]) * kernel + places % width - columns
    return Y.to(x.dtype), taps.to(torch.uint8)


def pool_backward(
    grad: Tensor, taps: Tensor, height: int, width: int, kernel: int, stride: int, maximum: bool
) -> Tensor:
    """dL/dx from G = dL/dY.

    Args:
        grad: G [N, C, Ho, Wo].
        taps: as `pool_forward` gave them.
        height, width: of x. The other arguments are those of `pool_forward`.

    Returns:
        [N, C, H, W].
    """
    G = _widened(grad)
    dX = G.new_zeros(*G.shape[:2], height, width)
    if maximum:
        rows, columns = (torch.arange(size) * stride - kernel // 2 for size in G.shape[2:])
        places = (rows[:, None] + taps // kernel) * width + columns + taps % kernel
        dX.flatten(2).scatter_add_(2, places.flatten(2), G.flatten(2))
    else:
        with torch.enable_grad():
            Y, _ = pool_forward(dX.requires_grad_(), kernel, stride, maximum)
        (dX,) = torch.autograd.grad(Y, dX, G)
    return dX.to(grad.dtype)


def pool_gate_probe(grad: Tensor, x: Tensor, kernel: int, stride: int, maximum: bool) -> Tensor:
    """The gradient of a pool's gate, `<G, Y>`.

    Args:
        grad: G [N, C, Ho, Wo]. The other arguments are those of `pool_forward`.

    Returns:
        0-dim, in float32 at least.
    """
    Y, _ = pool_forward(_widened(x), kernel, stride, maximum)
    return (_widened(grad) * Y).sum()


def alpha_gradient(alpha: Tensor, gate_gradient: Tensor) -> Tensor:
    """dL/dalpha_i = p_i (g_i - sum_j p_j g_j) with p = softmax(alpha) and g = dL/dgates.

    Args:
        alpha: [E, N], one row for each edge, -inf where it has no such candidate.
        gate_gradient: g [E, N].

    Returns:
        [E, N], in alpha's dtype.
    """
    p, g = alpha.double().softmax(dim=1), gate_gradient.double()
    return (p * (g - (p * g).sum(dim=1, keepdim=True))).to(alpha.dtype)


# --- The block ---


def _moments_of_batch(
    x: Tensor, expand: Tensor | None, mean: Tensor | None, expand_stride: int
) -> Tensor:
    """The moments where the expand layer's BatchNorm needs them, or else an empty tensor."""
    if mean is None and expand is not None:
        return mbconv_moments(x, expand.shape[-1], expand_stride)
    return x.new_empty(0, dtype=torch.float64)


def _project(
    x: Tensor,
    expand: Tensor | None,
    depthwise: Tensor,
    project: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    moments: Tensor,
    eps: float,
    stride: int,
    expand_stride: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """P, and the means and the variances [S] of all BatchNorms, either given or the batch's."""
    sizes = _norm_sizes(expand, depthwise, project)
    scales, shifts = scale.split(sizes), shift.split(sizes)
    given: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(sizes)
    if mean is not None and var is not None:
        given = list(zip(mean.split(sizes), var.split(sizes), strict=True))
    used = []

    A1 = _widened(x)
    if expand is not None:
        We = _widened(expand)
        E = _conv(A1, We, expand_stride)
        used.append(given[0] or _statistics_of_conv(We, moments))
        A1 = F.relu6(_affine(_normalise(E, *used[-1], eps), scales[0], shifts[0]))
    D = _conv(A1, _widened(depthwise), stride)
    used.append(given[-2] or _statistics(D))
    A2 = F.relu6(_affine(_normalise(D, *used[-1], eps), scales[-2], shifts[-2]))
    P = _conv(A2, _widened(project), 1)
    used.append(given[-1] or _statistics(P))

    means, variances = zip(*used, strict=True)
    return P, torch.cat(means), torch.cat(variances)


def _norm_sizes(expand: Tensor | None, depthwise: Tensor, project: Tensor) -> list[int]:
    """Channels of each BatchNorm."""
    hidden, out_channels = depthwise.shape[0], project.shape[0]
    return [hidden, out_channels] if expand is None else [hidden, hidden, out_channels]


def _asked(gradient: Tensor | None, like: Tensor, wanted: bool) -> Tensor:
    """The gradient as a result, which is empty if it is not wanted."""
    return gradient.to(like.dtype) if wanted and gradient is not None else like.new_empty(0)


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


# --- The layers, forward beside backward ---


def _patches(x: Tensor, kernel: int, stride: int, dilation: int = 1) -> Tensor:
    """[N, C kernel^2, Ho Wo]: what each pixel of a convolution's output is made of."""
    return F.unfold(x, kernel, dilation, _padding(kernel, dilation), stride)


def _conv(x: Tensor, weight: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """The convolution, of all channels or depthwise as the weight's shape says."""
    groups = x.shape[1] // weight.shape[1]
    padding = _padding(weight.shape[-1], dilation)
    return F.conv2d(x, weight, None, stride, padding, dilation, groups)


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int = 1
) -> tuple[Tensor, Tensor]:
    """dL/dx and dL/dweight."""
    groups, kernel = x.shape[1] // weight.shape[1], weight.shape[-1]
    grads = grad.flatten(2).unflatten(1, (groups, -1))  # [N, groups, O / groups, Ho Wo]
    patches = _patches(x, kernel, stride, dilation).unflatten(1, (groups, -1))
    matrices = weight.flatten(1).unflatten(0, (groups, -1))  # [groups, O / groups, C / groups k^2]
    dmatrices = torch.einsum("ngop,ngip->goi", grads, patches)
    dpatches = torch.einsum("goi,ngop->ngip", matrices, grads).flatten(1, 2)
    dx = F.fold(dpatches, x.shape[2:], kernel, dilation, _padding(kernel, dilation), stride)
    return dx, dmatrices.reshape(weight.shape)


def _padding(kernel: int, dilation: int) -> int:
    """Half a kernel, dilated as it is."""
    return dilation * (kernel // 2)


def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    mean = values.mean((0, 2, 3))
    centred = values - _over_pixels(mean)
    return mean, centred.square().mean((0, 2, 3))


def _statistics_of_conv(weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """The statistics of a convolution's output, from the moments of what it reads."""
    matrix = weight.flatten(1).double()
    mean, covariance = moments[0], moments[1:]
    var = torch.einsum("oi,ij,oj->o", matrix, covariance, matrix)
    return (matrix @ mean).to(weight.dtype), var.clamp(min=0).to(weight.dtype)


def _normalise(values: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return (values - _over_pixels(mean)) / torch.sqrt(_over_pixels(var) + eps)


def _affine(normalised: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _over_pixels(scale) * normalised + _over_pixels(shift)


def _norm_backward(
    grad: Tensor,
    normalised: Tensor,
    scale: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/d(what was normalised), dL/dscale and dL/dshift, given dL/d(what _affine gave)."""
    dshift = grad.sum((0, 2, 3))
    dscale = (grad * normalised).sum((0, 2, 3))
    if batch_statistics:  # A change of one value moves the mean and the variance of all.
        count = grad[:, 0].numel()
        grad = grad - (_over_pixels(dshift) + normalised * _over_pixels(dscale)) / count
    return _over_pixels(scale / torch.sqrt(var + eps)) * grad, dscale, dshift


def _relu6_backward(grad: Tensor, z: Tensor) -> Tensor:
    """dL/dz; NaN is neither below nor above, and passes."""
    return grad.masked_fill((z <= 0) | (z >= 6), 0)


def _over_pixels(vector: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return vector[:, None, None]
