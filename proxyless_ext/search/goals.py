"""What a run searches for: one network, or one for every device and target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..config import Aim, Config, LatencyConfig
from ..errors import UserError
from ..latency import Costs, LatencyTable, measure_network
from ..nn import Edges
from ..quantities import amount_within
from ..runs import Outcome, Run, phase_name
from ..spaces import Space
from .candidates import check_limits
from .limits import read_limits
from .objective import Objective


@dataclass(frozen=True)
class Device:
    """Whatever networks are to be fast on.

    Attributes:
        name: empty in a run for one network.
        table: what the space's layers cost.
        costs: what they make of the space's networks.
    """

    name: str
    table: LatencyTable
    costs: Costs

    def measure(self, network: nn.Module, resolution: int) -> float | None:
        """What a network takes on this device in ms; None if it is not at hand."""
        conditions = self.table.conditions
        if conditions is None or not conditions.are_of_this_machine:
            return None
        return measure_network(network, resolution, conditions).mean


@dataclass
class Goal:
    """A network to be found.

    Attributes:
        name: of the network; empty where it is the only one.
        device: that it is for.
        objective: what it is searched for.
        outcome: the files about it.
        alphas: as the search has moved them for it, one vector per edge.
    """

    name: str
    device: Device
    objective: Objective
    outcome: Outcome
    alphas: list[Tensor] = field(init=False)

    @property
    def probabilities(self) -> Tensor:
        """Of the candidates by its alphas [E, N], on the host."""
        return self._alpha_matrix().softmax(dim=1)

    @property
    def log_probabilities(self) -> Tensor:
        """Their logarithms, float64 [E, N], -inf where there is no such candidate."""
        return self._alpha_matrix().double().log_softmax(dim=1)

    def take_alphas(self, edges: Edges) -> None:
        """Keep the alphas that a supernet has now."""
        self.alphas = [alpha.detach().clone() for alpha in edges.alphas]

    def _alpha_matrix(self) -> Tensor:
        return pad_sequence(self.alphas, batch_first=True, padding_value=-torch.inf).cpu()

    def phase(self, kind: str) -> str:
        """What a phase is called that is about this network alone."""
        return phase_name(kind, self.name)


def make_goals(
    run: Run, config: Config, space: Space, tables: Mapping[str, LatencyTable]
) -> list[Goal]:
    """What a run searches for.

    Args:
        run: receives what is found.
        config: of the run.
        space: that is searched.
        tables: by the names of devices.

    Raises:
        UserError: what `objective_of` raises.
    """
    goals: list[Goal] = []
    devices: dict[str, Device] = {}
    for aim in config.aims:
        table = tables[aim.device]
        objective = objective_of(aim, space, table, run)
        device = devices.setdefault(aim.device, Device(aim.device, table, objective.costs))
        goals.append(Goal(aim.name, device, objective, run.outcome_of(aim.name)))
    return goals


def objective_of(aim: Aim, space: Space, table: LatencyTable, run: Run | None = None) -> Objective:
    """The objective of a search; `run` is as of `read_limits`.

    Raises:
        UserError: a table lacks layers or is of another unit than the target or a limit, or these
            are out of reach or conflict.
    """
    try:
        objective = Objective.of_space(space, table, aim.latency, run)
        check_limits(objective)
    except UserError as error:
        raise _of_device(aim.device, error) from error
    return objective


def check_unmeasured(aim: Aim, space: Space, run: Run | None = None) -> None:
    """Refuse what is impossible whatever latencies will be measured; `run` is as of `read_limits`.

    Raises:
        UserError: the target is in another unit than what will be measured, or no network keeps
            the limits.
    """
    config = aim.latency
    try:
        if config.regularizer == "target":
            amount_within(config.target, "target", (0.0, 0.0), config.conditions().unit)
        if limits := read_limits(space, config, run):
            free = config.model_copy(update={"regularizer": "none"})
            check_limits(Objective.build(space.name, limits[0].costs, free, limits))
    except UserError as error:
        raise _of_device(aim.device, error) from error


def check_table(aim: Aim, table: LatencyTable, space: Space) -> None:
    """Refuse a table that was not measured as its device is said to run, or not for this space.

    Raises:
        UserError: says what differs.
    """
    conditions, said = table.conditions, aim.latency
    asked = [name for name in LatencyConfig.MEASURING if name in said.model_fields_set]
    if conditions is not None:
        differences = [
            f"{name} {getattr(conditions, name)}, not {getattr(said, name)}"
            for name in asked
            if getattr(conditions, name) != getattr(said, name)
        ]
        if differences:
            raise _of_device(
                aim.device,
                UserError(
                    f"{table.source} was measured with {'; '.join(differences)}; correct the "
                    "settings, or measure the table again"
                ),
            )
    stem = space.fixed_layers()[0].key
    kind = stem.partition("-")[0]
    others = [key for key in table.entries if key.partition("-")[0] == kind]
    if others and stem not in table.entries:
        raise _of_device(
            aim.device,
            UserError(
                f"{table.source} is for networks that begin with {', '.join(others)}, and those of "
                f"'{space.name}' begin with {stem}; give a table of this space and resolution"
            ),
        )


def _of_device(name: str, error: UserError) -> UserError:
    return type(error)(f"device '{name}': {error}") if name else error
