"""What layers cost, given what whole networks cost: Bayesian linear regression.

A network's cost is the sum over its layers, and costs of layers are unknown. Before anything is
measured they are believed to be about m = F a, F holding what can be counted of each layer:
multiply-accumulates, bytes written, operations. The weights a >= 0 are fitted to the networks
first, by least squares of relative errors; so the scale is learnt, and the device says by itself
whether it counts bytes or multiplications. Around m the layers have errors of two kinds, one of
each layer (relative standard deviation tau) and one that all share. The stem carries what a network
pays once, too, such as the call, so that its own error is as large as a good part of a network.
With measurements y = X t (1 + e), X counting the layers of each network and e having the standard
deviation sigma, the posterior of t is normal. tau and sigma are those under which the measurements
are the most probable (MacKay, Bayesian Interpolation, Neural Computation 4(3), 1992); the costs are
the posterior's mode among those that are not negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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

SHARED = 0.3
"""Standard deviation of the relative error that all layers share."""
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
        stem: the index of the stem.
    """

    keys: tuple[str, ...]
    features: Array
    stem: int

    @classmethod
    def of(cls, space: Space) -> Layers:
        """Those of a space."""
        counts = count_layers(covering(space))
        rows = [(each.macs, each.activation_bytes, each.operations) for each in counts.values()]
        keys = tuple(counts)
        stem = keys.index(space.fixed_layers()[0].key)
        return cls(keys, np.array(rows, dtype=np.float64), stem)

    def count(self, networks: Iterable[Architecture]) -> Array:
        """X: how often each network has each layer [M, K]."""
        tallies = [Counter(layer.key for layer in network.layers()) for network in networks]
        return np.array([[tally[key] for key in self.keys] for tally in tallies], dtype=np.float64)

    def typical(self, counts: Array) -> Array:
        """m in units of a network of `counts` [M, K], all features weighing alike [K]."""
        return self._at_least((self.features / (counts @ self.features).mean(axis=0)).mean(axis=1))

    def prior(self, counts: Array, measured: Array) -> Array:
        """m, fitted to measurements [M] of networks of `counts` [M, K], in their unit."""
        scale = (counts @ self.features).mean(axis=0)
        features = np.column_stack([counts @ (self.features / scale), np.ones(len(measured))])
        weights, _ = nnls(features / measured[:, None], np.ones(len(measured)))
        sizes: Array = self.features / scale @ weights[:-1]
        sizes[self.stem] += weights[-1]
        unit = measured.mean()
        return unit * self._at_least(sizes / unit)

    def variance(self, sizes: Array, network: float, part_error: float) -> Array:
        """The covariance of the layers' costs divided by m, before any measurement [K, K].

        Args:
            sizes: m [K].
            network: what a network costs, in the unit of m.
            part_error: tau.
        """
        covariance: Array = part_error**2 * np.eye(len(sizes)) + SHARED**2
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
        errors = self._most_probable(rows, sizes, measured.mean())
        covariance = self.variance(sizes, measured.mean(), errors.part)
        gain = covariance @ rows.T
        total = rows @ gain + errors.network**2 * np.eye(len(rows))
        after = covariance - gain @ cho_solve(cho_factor(total), gain.T)
        # The mode of least squares, each row divided by its standard deviation.
        inverse = solve_triangular(np.linalg.cholesky(covariance), np.eye(len(sizes)), lower=True)
        left = np.vstack([rows / errors.network, inverse])
        right = np.concatenate([np.full(len(rows), 1 / errors.network), inverse.sum(axis=1)])
        mode, _ = nnls(left, right)
        return Posterior(sizes * mode, after * np.outer(sizes, sizes), errors)

    def _most_probable(self, rows: Array, sizes: Array, network: float) -> LayerErrors:
        """The errors under which the measurements are the most probable."""
        misfit = 1 - rows.sum(axis=1)
        of_parts = rows @ rows.T
        of_others = rows @ self.variance(sizes, network, 0.0) @ rows.T

        def evidence(errors: LayerErrors) -> float:
            """The logarithm of the measurements' probability, up to a constant."""
            noise = errors.network**2 * np.eye(len(rows))
            factor = np.linalg.cholesky(errors.part**2 * of_parts + of_others + noise)
            whitened = solve_triangular(factor, misfit, lower=True)
            return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())

        tried = (LayerErrors(*each) for each in product(PART_ERRORS, NETWORK_ERRORS))
        return max(tried, key=evidence)

    @staticmethod
    def _at_least(sizes: Array) -> Array:
        return np.maximum(sizes, SMALLEST)
