"""The mathematics of the gates: sampling, and alpha gradients of all edges at once.

Every function works on padded matrices [E, N] over all E edges, N being the largest number of
candidates; an edge with fewer has alpha = -inf (so probability 0) in its last columns. Nothing here
loops over edges, or waits for a device that `ops` has kernels for. All randomness of a search comes
from the generators given here.

Formulas: paper, sections 3.2 and 3.3; appendix D for two paths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import ops


def sample(alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One path per edge, index [E], drawn from softmax(alpha) [E, N]."""
    return _perturbed(alpha, generator).argmax(dim=1)


def sample_apart(alpha: Tensor, number: int, generator: torch.Generator | None = None) -> Tensor:
    """Paths that differ, index [number, E]: for each edge draws without replacement from
    softmax(alpha) [E, N], which begin anew when every candidate has been drawn.
    """
    counts = alpha.isfinite().sum(dim=1)
    rounds = math.ceil(number / int(counts.min()))
    orders = [_perturbed(alpha, generator).argsort(dim=1, descending=True) for _ in range(rounds)]
    places = torch.arange(number)[:, None]
    edges = torch.arange(len(alpha))
    return torch.stack(orders)[places // counts, edges, places % counts]


def sample_pair(alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Two different paths per edge, indices [E, 2], drawn without replacement from softmax(alpha)
    [E, N].

    An edge with a single candidate is given a padded column as its second path ([E, 1] if N is 1).
    """
    return _perturbed(alpha, generator).topk(min(2, alpha.shape[1]), dim=1).indices


def _perturbed(alpha: Tensor, generator: torch.Generator | None) -> Tensor:
    """alpha with Gumbel noise: its k largest entries are k draws without replacement from the
    softmax.

    In float64, so that no probability is rounded to zero.
    """
    noise = torch.rand(alpha.shape, generator=generator, dtype=torch.float64, device=alpha.device)
    return alpha.detach().double() - torch.log(-torch.log(noise))


def restrict(alpha: Tensor, pair: Tensor) -> Tensor:
    """alpha [E, N] with -inf outside the columns `pair` [E, 2]: for a softmax over the two."""
    return torch.full_like(alpha, -torch.inf).scatter(1, pair, alpha.gather(1, pair))


def alpha_gradient(alpha: Tensor, gate_gradient: Tensor) -> Tensor:
    """dL/dalpha_i = p_i (dL/dg_i - sum_j p_j dL/dg_j) with p = softmax(alpha), for every edge.

    Args:
        alpha: [E, N], -inf also outside the pairs of a two-path step; without a gradient.
        gate_gradient: dL/dg [E, N], finite where p is 0.

    Returns:
        [E, N]

    Raises:
        UserError: the matrices differ in shape, type or device, or the compiled operators are
            missing.
    """
    # These few numbers go to the CPU and back from devices without kernels.
    device = alpha.device if ops.has_kernels(alpha.device) else torch.device("cpu")
    gradient = ops.alpha_gradient(alpha.to(device), gate_gradient.to(device))
    return gradient.to(alpha.device)


def reinforce_gradient(probabilities: Tensor, samples: Tensor, advantages: Tensor) -> Tensor:
    """The REINFORCE estimate of -dE[R]/dalpha: mean_k (R_k - b) grad(-log p(path_k)).

    Args:
        probabilities: p [E, N].
        samples: sampled paths [K, E].
        advantages: R_k - b [K].

    Returns:
        [E, N]
    """
    chosen = torch.nn.functional.one_hot(samples, probabilities.shape[1]).to(probabilities.dtype)
    # A product of matrices would be rounded where this is called under autocast.
    return (advantages[:, None, None] * (probabilities - chosen)).mean(0)


def rescale_shift(before: Tensor, after: Tensor, pair: Tensor) -> Tensor:
    """What to add to alpha after a two-path step so that all other probabilities stay as they were.

    Args:
        before, after: alpha [E, N] around the optimizer's step.
        pair: the two paths of every edge [E, 2].

    Returns:
        [E, N], zero outside the pair: log(sum exp(before) / sum exp(after)) over the two.
    """
    shift = before.gather(1, pair).logsumexp(1) - after.gather(1, pair).logsumexp(1)
    return torch.zeros_like(after).scatter(1, pair, shift[:, None].expand_as(pair))


def entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy per edge in nats, from p [E, N]."""
    return torch.special.entr(probabilities).sum(dim=1).mean()
