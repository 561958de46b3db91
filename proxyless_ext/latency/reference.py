"""How fast a machine was when a table was measured: what the same networks take tells it again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..errors import UserError
from ..spaces import Architecture, Space, StrictModel


class Reference(StrictModel):
    """Whole networks of a space and the mean of their latencies.

    Attributes:
        networks: each as the names of the candidates at the edges, such as ``k3e6 zero k5e3``.
        mean_ms: of their latencies.
    """

    networks: Annotated[tuple[str, ...], Field(min_length=1)]
    mean_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @classmethod
    def of(cls, space: Space, choices: list[list[int]], mean_ms: float) -> Reference:
        """The networks of a space that have these candidate indices at its edges."""
        names = (
            " ".join(
                group.candidates[index] for group, index in zip(space.groups, network, strict=True)
            )
            for network in choices
        )
        return cls(networks=tuple(names), mean_ms=mean_ms)

    def architectures(self, space: Space) -> list[Architecture]:
        """The networks again.

        Raises:
            UserError: they are not networks of this space.
        """
        try:
            return [
                space.architecture(
                    [
                        group.candidates.index(name)
                        for group, name in zip(space.groups, network.split(), strict=True)
                    ]
                )
                for network in self.networks
            ]
        except ValueError as error:
            raise UserError(
                f"the table was measured for another space than '{space.name}'; measure one with "
                f"`proxyless latency measure {space.name}`"
            ) from error
