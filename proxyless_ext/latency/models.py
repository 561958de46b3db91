"""What the networks of any model with MixedOps cost: each candidate where it stands."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError
from ..nn import Edges, MixedOp, count_parameters, derive
from .conditions import Conditions
from .costs import Costs
from .counting import UNITS
from .measured_costs import MeasuredCosts
from .sampling import draw_uniform
from .whole_networks import measure_each

CostName = Literal["latency", "macs", "parameters"]

WHOLE_MODELS, HELD_OUT = 16, 4
"""Whole models that are measured beside the candidates: to correct them, and to check that."""

TOLERATED = 0.1
"""By which part of their mean models may deviate from the prediction without a warning."""


class StandingCandidates:
    """The candidates of a model's MixedOps with the inputs that they are given there.

    Args:
        model: with MixedOps; it stays as it is.
        example: what it is called with, such as one batch of pictures.

    Raises:
        UserError: the model cannot take the example, does not reach one of its MixedOps with it, or
            candidates give different shapes, change their input or hold other MixedOps.
    """

    def __init__(self, model: nn.Module, example: Sequence[Tensor]) -> None:
        self.model = model
        self.example = tuple(example)
        self.groups = Edges(model).groups
        self.names = {
            module: name for name, module in model.named_modules() if isinstance(module, MixedOp)
        }
        for outer, inner in permutations(self.names.values(), 2):
            if inner.startswith(f"{outer}."):
                raise UserError(
                    f"MixedOp '{inner}' is within a candidate of MixedOp '{outer}'; a search knows "
                    "no choice within a choice, so put one beside the other"
                )
        self.inputs = self._find_inputs()
        with _evaluating(model):
            for mixed, inputs in self.inputs.items():
                _check_shapes(self.names[mixed], mixed, inputs)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of candidates of every edge [E]."""
        return tuple(len(group[0].candidates) for group in self.groups)

    def counted(self, cost: CostName) -> Costs:
        """What they cost in MACs of the example or in parameters.

        Raises:
            UserError: that is not counted, or cannot be.
        """
        if cost not in ("macs", "parameters"):
            known = ", ".join(get_args(CostName))
            raise UserError(f"'{cost}' is no cost; use one of {known}, or give costs of your own")
        count = self._macs if cost == "macs" else self._parameters
        if cost == "parameters":
            self._check_separate()
        rows = self._rows(
            lambda mixed, choice: count(self.candidate(mixed, choice), self.inputs[mixed])
        )
        first = [0] * len(rows)
        fixed = count(derive(self.model, first), [self.example]) - sum(row[0] for row in rows)
        return Costs.of(rows, fixed, UNITS[cost])

    @staticmethod
    def candidate(mixed: MixedOp, choice: int) -> nn.Module:
        """A candidate that has no weights in common with others."""
        (chosen,) = derive(nn.Sequential(mixed), [choice])
        module: nn.Module = chosen
        return module

    def latencies(self, conditions: Conditions) -> MeasuredCosts:
        """What they take under `conditions`, in turn with some whole models.

        Raises:
            UserError: the backend cannot run one of them.
        """
        modules: dict[Hashable, tuple[nn.Module, Tensor]] = {
            (mixed, choice, use): (self.candidate(mixed, choice), x)
            for mixed, inputs in self.inputs.items()
            for choice in range(len(mixed.candidates))
            for use, (x,) in enumerate(inputs)
        }
        rng = random.Random(0)
        drawn = [tuple(draw_uniform(self.counts, rng)) for _ in range(WHOLE_MODELS + HELD_OUT)]
        modules.update({number: self._whole(choices) for number, choices in enumerate(drawn)})
        measured = measure_each(modules, conditions)
        rows = self._rows(
            lambda mixed, choice: sum(
                measured[mixed, choice, use].mean for use in range(len(self.inputs[mixed]))
            )
        )
        whole = [(choices, measured[number].mean) for number, choices in enumerate(drawn)]
        found = MeasuredCosts(rows, whole[:WHOLE_MODELS])
        if (error := found.error_of(whole[WHOLE_MODELS:])) > TOLERATED:
            warnings.warn(
                f"whole models deviate by {error:.0%} of their latency from what their parts "
                "predict; measure on an idle machine and a model in one memory format, such as "
                "channels_last, or give costs of your own",
                stacklevel=2,
            )
        return found

    def latency(self, choices: Sequence[int], conditions: Conditions) -> float:
        """What the whole model with these candidates takes, in ms.

        Raises:
            UserError: the backend cannot run it.
        """
        return measure_each({0: self._whole(choices)}, conditions)[0].mean

    def _rows(self, cost: Callable[[MixedOp, int], float]) -> list[list[float]]:
        """What candidates of edges cost, from what those of MixedOps do."""
        return [
            [sum(cost(mixed, choice) for mixed in group) for choice in range(count)]
            for group, count in zip(self.groups, self.counts, strict=True)
        ]

    def _whole(self, choices: Sequence[int]) -> tuple[nn.Module, Tensor]:
        """A model as a function of its first input, and that."""
        first, *others = self.example
        return _Bound(derive(self.model, choices), others), first

    def _check_separate(self) -> None:
        """That what MixedOps have adds up."""
        owners: dict[int, str] = {}
        for mixed, name in self.names.items():
            for weight in mixed.parameters():
                if weight is not mixed.alpha and owners.setdefault(id(weight), name) != name:
                    raise UserError(
                        f"MixedOps '{owners[id(weight)]}' and '{name}' share weights, so that "
                        "parameters do not add up; give costs of your own"
                    )

    @torch.no_grad()
    def _macs(self, module: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> int:
        if any(isinstance(each, nn.RNNBase) for each in module.modules()):
            raise UserError(
                "nobody counts the MACs of recurrent layers; take the latency, or give costs of "
                "your own"
            )
        with _evaluating(module), _layers_of_attention(), FlopCounterMode(display=False) as counter:
            for each in inputs:
                module(*each)
        flops: int = counter.get_total_flops()
        return flops // 2

    @staticmethod
    def _parameters(module: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> int:
        return count_parameters(module)

    @torch.no_grad()
    def _find_inputs(self) -> dict[MixedOp, list[tuple[Tensor, ...]]]:
        """What every MixedOp is given, each time that the model calls it."""
        found: dict[MixedOp, list[tuple[Tensor, ...]]] = {mixed: [] for mixed in self.names}

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(module, MixedOp)
            if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
                kinds = ", ".join(type(each).__name__ for each in inputs)
                raise UserError(
                    f"MixedOp '{self.names[module]}' is given {kinds}, and "
                    "it takes one tensor; choose among modules that do"
                )
            found[module].append((inputs[0].detach().clone(),))

        handles = [mixed.register_forward_pre_hook(note) for mixed in self.names]
        try:
            with _evaluating(self.model):
                self.model(*self.example)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the model cannot take the example input: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        for mixed, name in self.names.items():
            if not found[mixed]:
                raise UserError(
                    f"the model does not reach its MixedOp '{name}' with the example input, so "
                    "nobody knows what it costs; give an input that reaches all, or leave it out"
                )
        return found


class _Bound(nn.Module):
    """A model of one input: the others are given here."""

    def __init__(self, model: nn.Module, others: Sequence[Tensor]) -> None:
        super().__init__()
        self.model, self.others = model, others

    def forward(self, x: Tensor) -> Any:
        return self.model(x, *self.others)


@torch.no_grad()
def _check_shapes(name: str, mixed: MixedOp, inputs: Sequence[tuple[Tensor, ...]]) -> None:
    for (x,) in inputs:
        shapes = [
            list(mixed.run_candidate(index, x).shape) for index in range(len(mixed.candidates))
        ]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise UserError(
                    f"candidate {index} of MixedOp '{name}' gives {shape} where candidate 0 gives "
                    f"{shapes[0]}; make all give the same"
                )


@contextmanager
def _layers_of_attention() -> Iterator[None]:
    """Within it attention runs as the products it is, since its fused operators are not counted."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode; then its modules are as they were."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
