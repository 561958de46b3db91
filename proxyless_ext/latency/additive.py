"""What layers cost, given what whole networks cost: Bayesian linear regression.

A network's cost is the sum over its layers, and costs of layers are unknown. Before anything is
measured they are believed to be about m = F a, F holding what can be counted of each layer:
multiply-accumulates, bytes written, operations. The weights a >= 0 are fitted to the networks
first, by least squares of relative errors; so the scale is learnt, and the device says by itself
whether it counts bytes or multiplications. Around m there are errors of two kinds: one of each
layer (relative standard deviation tau), and those of the weights. The stem carries what a network
pays once, too, such as the call, so that its own error is as large as a good part of a network.
With measurements y = X t (1 + e), X counting the layers of each network and e having the standard
deviation sigma, the posterior of t is normal. tau and sigma are those under which the measurements
are the most probable (MacKay, Bayesian Interpolation, Neural Computation 4(3), 1992); the costs are
the posterior's mode among those that are not negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import nnls

from ..spaces import Architecture, Space
from .counting import count_layers, covering

Array = npt.NDArray[np.float64]

FEATURES = 0.3
"""Standard deviation of what a network costs for one of the features, relative to all it costs."""
ONCE = 0.3
"""Standard deviation of what the stem carries, relative to a whole network."""
PART_ERRORS = tuple(np.geomspace(0.01, 1.0, 11).tolist())
"""Values of tau that are tried."""
NETWORK_ERRORS = tuple(np.geomspace(0.002, 0.2, 11).tolist())
"""Values of sigma that are tried."""
SMALLEST = 1e-4
"""No layer is believed to cost less than this fraction of a network before it is measured."""


class LayerErrors(NamedTuple):
    """Relative standard deviations: tau of each layer, sigma of each measured network."""

    part: float
    network: float


class Posterior(NamedTuple):
    """What is believed of the layers' costs [K], in the unit of the measurements.

    Attributes:
        mean: the most probable ones, at least 0.
        covariance: [K, K].
        errors: under which the measurements are the most probable.
    """

    mean: Array
    covariance: Array
    errors: LayerErrors


@dataclass(frozen=True)
class Layers:
    """The K distinct layers that networks of a space can have.

    Attributes:
        keys: of them.
        features: F, what can be counted of them [K, 3].
        fixed: how often each is part of every network [K].
        edges: for every edge, the number of its group, and the index of the layer that each
            candidate is, or K for none.
        stem: the index of the stem.
    """

    keys: tuple[str, ...]
    features: Array
    fixed: Array
    edges: tuple[tuple[int, tuple[int, ...]], ...]
    stem: int

    @classmethod
    def of(cls, space: Space) -> Layers:
        """Those of a space."""
        counts = count_layers(covering(space))
        features = [(each.macs, each.activation_bytes, each.operations) for each in counts.values()]
        places = {key: place for place, key in enumerate(counts)}
        fixed = [places[layer.key] for layer in space.fixed_layers()]
        layers = space.edge_layers()
        edges = (
            (number, tuple(places.get(layer.key, len(places)) for layer in layers[index]))
            for number, group in enumerate(space.groups)
            for index in group.indices
        )
        return cls(
            tuple(counts),
            np.array(features, dtype=np.float64),
            np.bincount(fixed, minlength=len(places)).astype(np.float64),
            tuple(edges),
            fixed[0],
        )

    def count_choices(self, choices: Sequence[Sequence[int]]) -> Array:
        """X: how often the networks with these choices at the edges have each layer [M, K]."""
        counts = np.zeros((len(choices), len(self.keys) + 1))
        rows, chosen = np.arange(len(choices)), np.array(choices)
        for group, layers in self.edges:
            counts[rows, np.array(layers)[chosen[:, group]]] += 1
        return self.fixed + counts[:, :-1]

    def count(self, networks: Iterable[Architecture]) -> Array:
        """X of networks that need not be of the space [M, K]; layers that it lacks do not count."""
        tallies = [Counter(layer.key for layer in network.layers()) for network in networks]
        return np.array([[tally[key] for key in self.keys] for tally in tallies], dtype=np.float64)

    def shares(self, counts: Array) -> Array:
        """What can be counted, as a fraction of all that the mean network of `counts` [M, K] has:
        [K, 3].
        """
        shares: Array = self.features / (counts @ self.features).mean(axis=0)
        return shares

    def typical(self, counts: Array) -> Array:
        """m in units of the mean network of `counts` [M, K], all features weighing alike [K]."""
        return np.maximum(self.shares(counts).mean(axis=1), SMALLEST)

    def prior(self, counts: Array, measured: Array) -> Array:
        """m, fitted to measurements [M] of networks of `counts` [M, K], in their unit."""
        shares = self.shares(counts)
        features = np.column_stack([counts @ shares, np.ones(len(measured))])
        weights = _not_negative(features / measured[:, None], np.ones(len(measured)))
        sizes: Array = shares @ weights[:-1]
        sizes[self.stem] += weights[-1]
        return np.maximum(sizes, SMALLEST * measured.mean())

    def variance(self, counts: Array, sizes: Array, network: float, part_error: float) -> Array:
        """The covariance of the layers' costs divided by m, before any measurement [K, K].

        Args:
            counts: X of the networks [M, K].
            sizes: m [K].
            network: what the mean one costs, in the unit of m.
            part_error: tau.
        """
        shared = FEATURES * network * self.shares(counts) / sizes[:, None]
        covariance: Array = part_error**2 * np.eye(len(sizes)) + shared @ shared.T
        covariance[self.stem, self.stem] += (ONCE * network / sizes[self.stem]) ** 2
        return covariance

    def posterior(self, counts: Array, measured: Array) -> Posterior:
        """What is believed of the layers, given measurements.

        Args:
            counts: X of the networks [M, K].
            measured: y [M].
        """
        sizes = self.prior(counts, measured)
        rows = counts * sizes / measured[:, None]
        network = float(measured.mean())
        errors = _most_probable(rows, self.variance(counts, sizes, network, 0.0))
        covariance = self.variance(counts, sizes, network, errors.part)
        gain = covariance @ rows.T
        total = rows @ gain + errors.network**2 * np.eye(len(rows))
        after = covariance - gain @ cho_solve(cho_factor(total), gain.T)
        # The mode of least squares, each row divided by its standard deviation.
        inverse = solve_triangular(np.linalg.cholesky(covariance), np.eye(len(sizes)), lower=True)
        left = np.vstack([rows / errors.network, inverse])
        right = np.concatenate([np.full(len(rows), 1 / errors.network), inverse.sum(axis=1)])
        mode = _not_negative(left, right)
        return Posterior(sizes * mode, after * np.outer(sizes, sizes), errors)


def _not_negative(matrix: Array, target: Array) -> Array:
    """The x >= 0 that makes |matrix x - target| the least."""
    solution: Array = nnls(matrix, target, maxiter=100 * matrix.shape[1])[0]
    return solution


def _most_probable(rows: Array, others: Array) -> LayerErrors:
    """The errors under which the measurements are the most probable.

    Args:
        rows: X m / y [M, K], whose sums would be 1 without any error.
        others: covariance of the layers' relative errors but for tau [K, K].
    """
    misfit = 1 - rows.sum(axis=1)
    of_parts, of_others = rows @ rows.T, rows @ others @ rows.T

    def evidence(errors: LayerErrors) -> float:
        """The logarithm of the measurements' probability, up to a constant."""
        noise = errors.network**2 * np.eye(len(rows))
        factor = np.linalg.cholesky(errors.part**2 * of_parts + of_others + noise)
        whitened = solve_triangular(factor, misfit, lower=True)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())

    tried = (LayerErrors(*each) for each in product(PART_ERRORS, NETWORK_ERRORS))
    return max(tried, key=evidence)
