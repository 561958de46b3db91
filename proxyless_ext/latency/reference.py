"""How fast a machine was when a table was measured: what the same networks take tells it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ..errors import UserError
from ..spaces import Architecture, Space, StrictModel


class Reference(StrictModel):
    """Whole networks of a space and the mean of their latencies.

    Attributes:
        networks: each as the names of the candidates at the edges, such as ``k3e6 zero k5e3``.
        mean: of their latencies.
    """

    networks: Annotated[tuple[str, ...], Field(min_length=1)]
    mean: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @classmethod
    def of(cls, space: Space, choices: Sequence[Sequence[int]], mean: float) -> Reference:
        """The networks of a space that have these candidate indices at its edges."""
        return cls(networks=tuple(name_network(space, each) for each in choices), mean=mean)

    def architectures(self, space: Space) -> list[Architecture]:
        """The networks again.

        Raises:
            UserError: they are not networks of this space.
        """
        try:
            return [find_network(space, network) for network in self.networks]
        except UserError as error:
            raise UserError(
                f"the table was measured for another space than '{space.name}'; measure one with "
                f"`proxyless latency measure {space.name}`"
            ) from error


def name_network(space: Space, choices: Sequence[int]) -> str:
    """A network as the names of the candidates at the edges, such as ``k3e6 zero k5e3``.

    Edges of one group, which share one choice, have one name together.
    """
    pairs = zip(space.groups, choices, strict=True)
    return " ".join(group.candidates[index] for group, index in pairs)


def find_network(space: Space, network: str) -> Architecture:
    """The network that `name_network` named.

    Raises:
        UserError: the space has none of that name.
    """
    try:
        pairs = zip(space.groups, network.split(), strict=True)
        return space.architecture([group.candidates.index(name) for group, name in pairs])
    except ValueError as error:
        raise UserError(
            f"'{network}' does not name one candidate at each of the {len(space.groups)} edges of "
            f"space '{space.name}', those of one group counted once"
        ) from error
