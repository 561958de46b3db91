"""MixedOp: an edge with candidate operations, of which only the active one runs.

Its gates' gradients come from an identity function behind the active candidate: on the way back it
meets G = dL/dy and computes dL/dg_j = `<G, o_j(x)>` (paper, section 3.2). Candidates that are not
active run there, one at a time, without graphs and without moving BatchNorm statistics, so a gate
step needs the memory of one path. Those that have a `gate_probe` need not even make o_j(x).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..compilers import uncompiled
from ..errors import UserError
from .sharing import share_weights
from .statistics import InputStatistics, frozen_statistics

ALPHA_STD = 1e-3


class Probed(Protocol):
    """A candidate that can tell `<grad, o(x)>` without o(x)."""

    def gate_probe(self, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor | None:
        """`<grad, o(x)>` [], or None if the candidate has to run.

        It leaves BatchNorm statistics alone. `statistics` are those of x, for all candidates.
        """
        ...


class MixedOp(nn.Module):
    """An edge of an over-parameterised network: N candidate operations, one of them active.

    A drop-in for any layer: candidates are any modules that map the same input to outputs of one
    shape. Only the active one runs; `Edges` samples the active ones of a whole model and gathers
    the gradients of `alpha`. Neither a candidate nor the layer behind may change what it is given
    in place, as nn.ReLU(inplace=True) does. In memory outputs may be laid out differently: fused
    blocks give channels-last ones. So the layer behind is to use `flatten` or `reshape` and not
    `view`.

    Args:
        candidates: the candidate operations.
        share: whether the MBConvs among them share one set of weights, as `share_weights` says.

    Attributes:
        alpha: architecture parameters [N]; the candidates' probabilities are softmax(alpha). One
            that is given the alpha of another shares its choice: ``second.alpha = first.alpha``.
        candidates: the modules [N].
        shared: the weights that they share, if they do.
        active: index of the candidate that runs.

    Raises:
        UserError: there are no candidates, or one is no module; when called, one gives something
            else than a tensor.
    """

    def __init__(self, candidates: Iterable[nn.Module], share: bool = False) -> None:
        super().__init__()
        given: list[Any] = [*candidates]
        for index, candidate in enumerate(given):
            if not isinstance(candidate, nn.Module):
                kind = type(candidate).__name__
                raise UserError(f"candidate {index} of a MixedOp is no module but of type {kind}")
        if not given:
            raise UserError("MixedOp needs at least one candidate")
        self.candidates = nn.ModuleList(given)
        self.shared = share_weights(self.candidates) if share else None
        self.alpha = nn.Parameter(ALPHA_STD * torch.randn(len(self.candidates)))
        self.active = 0
        self._gates: Tensor | None = None
        self._involved: Sequence[int] = ()
        self._graphs: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            torch._dynamo.graph_break("the active candidate of a MixedOp changes")
            return self._run_uncompiled(x)
        return self._run(x)  # An export is of the active path alone.

    def _run(self, x: Tensor) -> Tensor:
        if self._gates is not None:
            self._graphs.add(torch.is_grad_enabled())
            if torch.is_grad_enabled():
                return self._run_with_gates(x, self._gates)
        return self._check_kind(self.active, self.candidates[self.active](x))

    # A compiler that traced through this would make a graph of every combination of paths.
    _run_uncompiled = uncompiled(_run, recursive=False)

    @uncompiled
    def _run_with_gates(self, x: Tensor, gates: Tensor) -> Tensor:
        output = self.run_candidate(self.active, x)
        result: Tensor = _GateGradient.apply(output, gates, x.detach(), self, self.active)
        return result

    def run_candidate(self, index: int, x: Tensor) -> Tensor:
        """The output of one candidate in a gate step, which gives all of them the same input.

        Raises:
            UserError: the candidate gives no tensor, or changes its input, so that the others would
                see another.
        """
        version = x._version
        output = self._check_kind(index, self.candidates[index](x))
        if x._version != version:
            raise UserError(
                f"candidate {index} of a MixedOp changes its input in place; "
                "build it with inplace=False or let it work on a copy"
            )
        return output

    def _check_kind(self, index: int, output: Any) -> Tensor:
        if isinstance(output, tuple | list | dict) or output is None:
            raise UserError(
                f"candidate {index} of a MixedOp gives a {type(output).__name__}; candidates make "
                "one tensor of one tensor, so wrap it in a module that does"
            )
        result: Tensor = output
        return result

    def probe(self, index: int, grad: Tensor, x: Tensor, statistics: InputStatistics) -> Tensor:
        """`<grad, o(x)>` [] of one candidate, in float32 at least; `statistics` are those of x.

        Raises:
            UserError: o(x) has not the shape of grad, or what `run_candidate` raises.
        """
        candidate = self.candidates[index]
        if hasattr(candidate, "gate_probe"):
            product = cast(Probed, candidate).gate_probe(grad, x, statistics)
            if product is not None:
                return product
        with frozen_statistics(candidate), _closed_gates(candidate):
            output = self.run_candidate(index, x)
        if output.shape != grad.shape:
            raise UserError(
                f"candidate {index} of a MixedOp gives the shape {list(output.shape)} and "
                f"the active one {list(grad.shape)}; make all give the same"
            )
        return _dot(grad, output)

    def open_gates(self, gates: Tensor, involved: Sequence[int]) -> None:
        """Until `close_gates`, backward adds dL/dgates of the `involved` candidates.

        Args:
            gates: binary gates [>= N] that require a gradient; columns past N stay without one.
            involved: indices of the candidates whose gates get a gradient.
        """
        self._gates = gates
        self._involved = involved
        self._graphs = set()

    @property
    def gates_are_open(self) -> bool:
        """Whether this is between `open_gates` and `close_gates`."""
        return self._gates is not None

    @property
    def ran_without_graph(self) -> bool:
        """Whether it ran since `open_gates`, but never so that backward could reach its gates."""
        return self._graphs == {False}

    def close_gates(self) -> None:
        """End `open_gates`."""
        self._gates = None
        self._involved = ()

    def extra_repr(self) -> str:
        return f"active={self.active}"

    def __getstate__(self) -> dict[str, Any]:
        if self.gates_are_open:
            raise UserError("a model cannot be copied or pickled within a gate step; do it after")
        return self.__dict__


def group_by_alpha(model: nn.Module) -> list[list[MixedOp]]:
    """The MixedOps of a model, in the order of `modules()`, those with one alpha together.

    Raises:
        UserError: one has not as many candidates as its alpha.
    """
    groups: dict[int, list[MixedOp]] = {}
    for name, module in model.named_modules():
        if isinstance(module, MixedOp):
            if len(module.candidates) != module.alpha.numel():
                raise UserError(
                    f"MixedOp '{name}' has {len(module.candidates)} candidates and an alpha of "
                    f"{module.alpha.numel()}; those that share one alpha need equally many"
                )
            groups.setdefault(id(module.alpha), []).append(module)
    return list(groups.values())


class _GateGradient(torch.autograd.Function):
    """Identity on the active candidate's output whose backward computes the gates' gradients.

    It keeps that output for the candidate's own gate, or asks again as it asks all others.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, gates: Tensor, x: Tensor, mixed: MixedOp, active: int
    ) -> Tensor:
        asks_again = _recomputes(mixed.candidates[active])
        ctx.save_for_backward(None if asks_again else output, x)
        ctx.mixed, ctx.involved = mixed, mixed._involved
        ctx.num_gates = gates.numel()
        ctx.kept = None if asks_again else active
        ctx.others = _tensors_beside(mixed, ctx.kept)
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        output, x = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        gate_grad = grad.new_zeros(
            ctx.num_gates, dtype=torch.promote_types(grad.dtype, torch.float32)
        )
        if not all(map(operator.is_, ctx.others, _tensors_beside(ctx.mixed, ctx.kept))):
            raise UserError(
                "the weights of a MixedOp were exchanged between forward and backward of a gate "
                "step, as by torch.func.functional_call; load them into the model instead"
            )
        statistics = InputStatistics(x)
        with torch.autocast(device, dtype, enabled):
            for index in ctx.involved:
                if index == ctx.kept:
                    gate_grad[index] = _dot(grad, output)
                else:
                    gate_grad[index] = ctx.mixed.probe(index, grad, x, statistics)
        return grad, gate_grad, None, None, None


def _recomputes(candidate: nn.Module) -> bool:
    """Whether it keeps so little for backward that its output would double that."""
    return bool(getattr(candidate, "recomputes", False))


def _tensors_beside(mixed: MixedOp, kept: int | None) -> list[Tensor | None]:
    """What candidates compute with, parameters and buffers, but for one whose output is kept."""
    found: list[Tensor | None] = []
    for index, candidate in enumerate(mixed.candidates):
        if index != kept:
            _add_tensors(candidate, found)
    if mixed.shared is not None:
        _add_tensors(mixed.shared, found)
    return found


def _add_tensors(module: nn.Module, found: list[Tensor | None]) -> None:
    """Those of the module and what it contains; `modules()` takes several times as long."""
    found.extend(module._parameters.values())
    found.extend(module._buffers.values())
    for child in module._modules.values():
        if child is not None:
            _add_tensors(child, found)


@contextmanager
def _closed_gates(candidate: nn.Module) -> Iterator[None]:
    """Within it, MixedOps inside the candidate run as if there were no gate step."""
    inner = [module for module in candidate.modules() if isinstance(module, MixedOp)]
    gates = [mixed._gates for mixed in inner]
    for mixed in inner:
        mixed._gates = None
    try:
        yield
    finally:
        for mixed, row in zip(inner, gates, strict=True):
            mixed._gates = row


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """`<a, b>` in float32 at least: in float16 the products of small gradients would underflow."""
    return (a.to(torch.promote_types(a.dtype, torch.float32)) * b).sum()
