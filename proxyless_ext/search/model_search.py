"""Search over anyone's model: the steps of a training loop that is the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ranks
from ..config import GatesConfig, LatencyConfig
from ..errors import UserError
from ..latency import Conditions, CostName, Costs, Limit, MeasuredCosts, StandingCandidates
from ..nn import Edges, derive
from ..quantities import amount_within
from ..runtime import Runtime
from ..seeding import generator
from ..spaces import validate
from .candidates import Band, Choices, check_limits, warn_of_narrow_band
from .gate_steps import gate_learner
from .objective import Objective

REPETITIONS = 45
"""Of what is measured without `conditions`: fewer than a table's, as whole models correct it."""

MEASURED = 6
"""Networks that are measured as a whole for one that meets the target, at most."""

MARGIN = 0.6
"""The part of the tolerance that is enough: measured again, a network takes something else."""


COUNTED: dict[str, CostName] = {"macs": "macs", "parameters": "parameters"}
"""What can be limited."""


class Search:
    """A search over any model that has MixedOps, under a latency target or without one.

    The README has an example.

    Where torch.distributed has several ranks, each makes one, of the same seed: so paths are the
    same on all. Costs are those that the first one finds, and gradients of gates, or rewards, are
    averaged.

    Args:
        model: with MixedOps, on the device where it is searched; not what DistributedDataParallel,
            fully_shard or torch.compile have made of it, which the training loop calls.
        example_input: a tensor that the model is called with, or several in a tuple: what networks
            cost is found out with it.
        target: to end at: such as ``12.5ms`` or ``5.7Mparams``, ``40%`` of the way from the
            cheapest to the dearest network, or a number in the unit of the costs; None for accuracy
            alone.
        cost: what the target is of: ``latency`` on this machine, ``macs`` of the example input, or
            ``parameters``.
        costs: what networks cost, instead of finding that out here.
        limits: what they may have at most beside, of ``macs`` and ``parameters``: such as
            ``{"parameters": "300k", "macs": "60%"}``, amounts as of the target.
        mode: of gate steps: ``full``, ``two_path`` or ``reinforce``.
        lr: of the architecture parameters.
        networks: sampled by each step of REINFORCE.
        tolerance: by which the derived network may miss the target, as a part of it.
        conditions: how latencies are measured; by PyTorch on one thread of this CPU without them.
        scaler: for gate steps that compute in float16; it may be that of the weight steps.
        seed: of the paths that are drawn.

    Attributes:
        edges: the model's `Edges`.

    Raises:
        UserError: the model has no MixedOp, cannot take the example input or does not reach all
            MixedOps with it, candidates of one give different shapes, the target or a limit is out
            of reach, or no network keeps all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor | tuple[Tensor, ...],
        target: str | float | None = None,
        *,
        cost: CostName = "latency",
        costs: Costs | None = None,
        limits: Mapping[str, str | float] | None = None,
        mode: Literal["full", "two_path", "reinforce"] = "full",
        lr: float = 0.01,
        networks: int = 10,
        tolerance: float = 0.05,
        conditions: Conditions | None = None,
        scaler: torch.amp.GradScaler | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.edges = Edges(model)
        if any(alpha.dtype == torch.float16 for alpha in self.edges.alphas):
            raise UserError(
                "the alphas are float16, in which their optimizer divides by 0; keep the model in "
                "float32 and run it under torch.autocast"
            )
        self._candidates = candidates = StandingCandidates(model, _tensors(example_input))
        if costs is not None and costs.counts != candidates.counts:
            raise UserError(
                f"the costs are of {list(costs.counts)} candidates and the model's MixedOps have "
                f"{list(candidates.counts)}; give one for each"
            )
        self._conditions = conditions or Conditions(repetitions=REPETITIONS)
        self._measured: MeasuredCosts | None = None
        if costs is None and cost == "latency":
            self._measured = ranks.of_first(lambda: candidates.latencies(self._conditions))
            known = self._measured.costs
        else:
            known = ranks.of_first(lambda: costs or candidates.counted(cost))
        latency: dict[str, Any] = {"tolerance": tolerance, "regularizer": "none"}
        if target is not None:
            aim = target if isinstance(target, str) else f"{target} {known.unit}"
            latency |= {"regularizer": "target", "target": aim}
        gates = {"mode": mode, "lr": lr, "networks": networks}
        self.config = validate(GatesConfig, gates, "Search")
        self.objective = Objective.build(
            type(model).__name__,
            known,
            validate(LatencyConfig, latency, "Search"),
            tuple(_limit(candidates, name, most) for name, most in (limits or {}).items()),
        )
        check_limits(self.objective)
        warn_of_narrow_band(self.objective)
        runtime = Runtime(self.edges.alphas[0].device)
        self._learner = gate_learner(self.edges, self.objective, self.config, runtime)
        if scaler is not None:
            self._learner.scaler = scaler
        self._seed = seed
        self._draws = 0

    @property
    def weights(self) -> list[nn.Parameter]:
        """All parameters but the architecture's: for the optimizer of the weights."""
        return self.edges.weights

    def weight_step(self) -> None:
        """Draw the paths, all being equally probable, that the model runs from now on."""
        self.edges.sample(self._next_generator(), uniformly=True)

    def gate_step(self, run: Callable[[], Tensor | float]) -> None:
        """Move the architecture parameters, and pay what keeps the expected cost on the target.

        Args:
            run: calls the model on a batch that weights are not trained on, and gives its loss [];
                in mode ``reinforce`` a reward, of which more is better, such as the accuracy. Only
                then it is called more than once.

        Raises:
            UserError: what `run` gives is no loss that has a graph, no reward, or not finite; the
                alphas stay as they are.
        """
        check = _checked_reward if self.config.mode == "reinforce" else _checked_loss

        def told() -> tuple[Tensor, Tensor, None]:
            value = check(run())
            return value, value.detach(), None

        self._learner.step(told, self._next_generator())

    @property
    def choices(self) -> Choices:
        """The most probable network within the tolerance of the target that keeps all limits, by
        candidate indices.
        """
        (choices,) = Band.of(self.objective).likeliest(self.edges.log_probabilities(), 1)
        return choices

    @property
    def costs(self) -> Costs:
        """What the model's networks cost, as far as that is known by now."""
        return self.objective.costs

    def cost(self, choices: Sequence[int] | None = None) -> float:
        """What a network costs, in the unit of the costs; `choices` without an argument."""
        return self.costs.network(self.choices if choices is None else choices)

    def derive(self, choices: Sequence[int] | None = None) -> nn.Module:
        """A copy of the model with the chosen candidates in the place of its MixedOps.

        Args:
            choices: a candidate index for each; those of `settle` without them.
        """
        return derive(self.model, self.settle() if choices is None else choices)

    def settle(self) -> Choices:
        """The most probable network that is within the tolerance of the target, and keeps all
        limits.

        A latency target is one that networks meet as a whole: where latencies were measured here,
        the network is, too. If it misses, what it takes corrects the costs, and the next one is
        tried; after some, the nearest is taken, with a warning.
        """
        target, tolerance = self.objective.target, self.objective.config.tolerance
        if self._measured is None or target is None:
            return self.choices
        missed: dict[Choices, float] = {}
        while len(missed) < MEASURED:
            band = Band.of(self.objective)
            likeliest = band.likeliest(self.edges.log_probabilities(), len(missed) + 1)
            if not (new := [each for each in likeliest if each not in missed]):
                break
            ms = self._measure(new[0])
            missed[new[0]] = abs(ms / target - 1)
            if missed[new[0]] <= MARGIN * tolerance:
                break
        nearest = min(missed, key=missed.__getitem__)
        if missed[nearest] <= tolerance:
            return nearest
        warnings.warn(
            f"no network was found that takes the target of {target:.4g} ms: of {len(missed)} "
            f"that were measured, the nearest is {missed[nearest]:.0%} off; measure on an idle "
            "machine, move the target or widen the tolerance",
            stacklevel=2,
        )
        return nearest

    def _measure(self, choices: Choices) -> float:
        """What a network takes as a whole in ms, which corrects the costs."""
        assert self._measured is not None
        ms = ranks.of_first(lambda: self._candidates.latency(choices, self._conditions))
        self._measured = self._measured.beside(choices, ms)
        self.objective.correct(self._measured.costs)
        return ms

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model's own state and its optimizer's."""
        return {
            "learner": self._learner.state_dict(),
            "searched": self._searched,
            "seed": self._seed,
            "draws": self._draws,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`.

        Raises:
            UserError: it is of a search with other candidates, another mode or other costs.
        """
        if (theirs := state.get("searched")) != self._searched:
            raise UserError(
                f"the state is of a search over {theirs}, and this one is over {self._searched}; "
                "make it with the same model and settings"
            )
        self._learner.load_state_dict(state["learner"])
        self._seed, self._draws = state["seed"], state["draws"]

    @property
    def _searched(self) -> str:
        limits = "".join(f", limited {each.name}" for each in self.objective.limits)
        return (
            f"{list(self.costs.counts)} candidates by {self.costs.unit}{limits}, mode "
            f"{self.config.mode}"
        )

    def _next_generator(self) -> torch.Generator:
        self._draws += 1
        return generator(self._seed, "paths", self._draws)


def _limit(candidates: StandingCandidates, name: str, most: str | float) -> Limit:
    """Raises UserError where it cannot be counted, or the amount is none."""
    if name not in COUNTED:
        raise UserError(f"'{name}' cannot be limited here; limit {' or '.join(COUNTED)}")
    costs = ranks.of_first(candidates.counted, COUNTED[name])
    amount = amount_within(str(most), f"the limit of {name}", costs.bounds, costs.unit)
    return Limit(name, costs, amount)


def _checked_loss(value: Any) -> Tensor:
    """Raises UserError where it is none."""
    if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
        raise UserError(
            "a gate step needs a function that gives a loss: a tensor of one number, of which "
            "nobody has called backward or detach"
        )
    return _finite(value)


def _checked_reward(value: Any) -> Tensor:
    """Raises UserError where it is none."""
    try:
        return _finite(torch.tensor(float(value), dtype=torch.float64))
    except (TypeError, ValueError) as error:
        raise UserError(
            "a gate step of mode 'reinforce' needs a function that gives a reward: one number"
        ) from error


def _finite(value: Tensor) -> Tensor:
    if not value.isfinite():
        raise UserError(
            f"the loss or reward of a gate step is {value.item()}; the alphas stay as they are"
        )
    return value


def _tensors(example: Any) -> tuple[Tensor, ...]:
    """Raises UserError where these are none."""
    given = example if isinstance(example, tuple) else (example,)
    if not given or not all(isinstance(each, Tensor) for each in given):
        kinds = ", ".join(type(each).__name__ for each in given) or "nothing"
        raise UserError(f"the example input is {kinds}; give a tensor, or several in a tuple")
    return given
