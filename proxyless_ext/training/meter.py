"""Running means over the samples of an epoch."""

from __future__ import annotations

from torch import Tensor


class Meter:
    """Running means over samples.

    Tensors are added up on their device in float64, so that no step waits for it; reading the sums
    does. They come out as plain numbers, so that no graph is kept.
    """

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums: dict[str, list[float | Tensor]] = {
            name: [*sums] for name, sums in (state or {}).items()
        }

    def add(self, count: int, **values: float | Tensor) -> None:
        """Add the means `values`, numbers or tensors [], of `count` samples."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach().double()
            entry = self._sums.setdefault(name, [0.0, 0])
            entry[0] = entry[0] + value * count
            entry[1] = entry[1] + count

    def include(self, other: Meter) -> None:
        """Add all that was added to `other`."""
        for name, (total, count) in other._sums.items():
            entry = self._sums.setdefault(name, [0.0, 0])
            entry[0] = entry[0] + total
            entry[1] = entry[1] + count

    @property
    def waits(self) -> bool:
        """Whether reading the sums waits for a device."""
        sums = (total for total, _ in self._sums.values())
        return any(isinstance(total, Tensor) and total.device.type != "cpu" for total in sums)

    def means(self) -> dict[str, float]:
        """Name to mean over everything added."""
        return {name: total / count for name, (total, count) in self.state.items()}

    @property
    def state(self) -> dict[str, list[float]]:
        """Name to the sum of its values and the number of samples."""
        return {name: [float(total), int(count)] for name, (total, count) in self._sums.items()}
