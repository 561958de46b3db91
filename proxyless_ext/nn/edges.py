"""All mixed operations of a model as one: sample paths, run gate steps, gather alpha gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .. import gates, ranks
from ..errors import UserError
from .mixed_op import MixedOp, group_by_alpha
from .sliced import SlicedConv2d, Slices, hull
from .statistics import frozen_statistics

GateMode = Literal["full", "two_path"]


class Edges:
    """The edges of any model that contains `MixedOp`s, in the order of `model.modules()`.

    E is their number and N the largest number of candidates. Matrices [E, N] are padded as `gates`
    says. MixedOps that have one alpha share one choice and count as one edge, whose gates have the
    sum of their gradients.

    Attributes:
        groups: the MixedOps of every edge [E].

    Raises:
        UserError: the model has no MixedOp, or one has not as many candidates as its alpha.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.groups = group_by_alpha(model)
        if not self.groups:
            raise UserError("the model has no MixedOp; wrap the layers to be searched in MixedOp")

    @property
    def mixed_ops(self) -> list[MixedOp]:
        """All MixedOps, edge by edge."""
        return [mixed for group in self.groups for mixed in group]

    @property
    def alphas(self) -> list[nn.Parameter]:
        """The architecture parameters, one vector per edge: for the alpha optimizer."""
        return [group[0].alpha for group in self.groups]

    @property
    def weights(self) -> list[nn.Parameter]:
        """All other parameters of the model: for the weight optimizer."""
        alphas = {id(alpha) for alpha in self.alphas}
        return [weight for weight in self.model.parameters() if id(weight) not in alphas]

    def alpha_matrix(self) -> Tensor:
        """All alphas [E, N], differentiable, -inf where an edge has no such candidate.

        Raises:
            UserError: they are sharded over the ranks of torch.distributed.
        """
        alphas: list[Tensor] = [*self.alphas]
        if any(hasattr(alpha, "device_mesh") for alpha in alphas):  # As a DTensor has.
            raise UserError(
                "the alphas are sharded and every rank needs all of them; give fully_shard "
                "ignored_params=set(Edges(model).alphas)"
            )
        if len({alpha.numel() for alpha in alphas}) == 1:
            return torch.cat(alphas).view(len(alphas), -1)  # A tenth of the time of padding.
        return pad_sequence(alphas, batch_first=True, padding_value=-torch.inf)

    def probabilities(self) -> Tensor:
        """softmax of `alpha_matrix` [E, N]."""
        return self.alpha_matrix().softmax(dim=1)

    def log_probabilities(self) -> Tensor:
        """Logarithms of `probabilities`, float64 [E, N], -inf where there is no such candidate."""
        return self.alpha_matrix().detach().double().log_softmax(dim=1)

    def choices(self) -> list[int]:
        """The most probable candidate of every edge: the derived network."""
        best: list[int] = self.alpha_matrix().argmax(dim=1).tolist()
        return best

    @property
    def active(self) -> list[int]:
        """The active candidate of every edge."""
        return [group[0].active for group in self.groups]

    def activate(self, paths: Sequence[int]) -> None:
        """Make candidate `paths[e]` of every edge e the one that runs."""
        for group, path in zip(self.groups, paths, strict=True):
            for mixed in group:
                mixed.active = path

    def slices(self) -> dict[nn.Parameter, Slices]:
        """The parts that active candidates have of the weights that they share with others: in a
        weight step, gradients are 0 outside of them.
        """
        return {
            conv.whole: conv.slices
            for mixed in self.mixed_ops
            if mixed.shared is not None
            for conv in mixed.candidates[mixed.active].modules()
            if isinstance(conv, SlicedConv2d)
        }

    def used(self, paths: Sequence[Sequence[int]]) -> dict[nn.Parameter, Slices]:
        """The weights that any of several paths uses, in the order of `weights`, and the parts of
        them outside of which gradients are 0; all of them where nothing is shared.
        """
        mixed_ops = self.mixed_ops
        inside = {id(weight) for mixed in mixed_ops for weight in mixed.parameters()}
        own, shared = set[int](), dict[nn.Parameter, Slices]()
        for path in paths:
            self.activate(path)
            for mixed in mixed_ops:
                own.update(map(id, mixed.candidates[mixed.active].parameters()))
            for weight, slices in self.slices().items():
                shared[weight] = hull(shared.get(weight, slices), slices)
        return {
            weight: shared.get(weight, ())
            for weight in self.weights
            if id(weight) not in inside or id(weight) in own or weight in shared
        }

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None, uniformly: bool = False) -> None:
        """Draw the active path of every edge, for a weight step.

        Args:
            generator: draws it.
            uniformly: all candidates being equally probable, instead of by `probabilities`.
        """
        alpha = self.alpha_matrix()
        if uniformly:
            alpha = alpha.where(alpha.isinf(), 0)
        self.activate(gates.sample(alpha.cpu(), generator).tolist())

    @torch.no_grad()
    def draw_apart(self, number: int, generator: torch.Generator | None = None) -> list[list[int]]:
        """Paths through all edges that differ [number, E], for parts of one weight step: uniform
        ones, such that no candidate comes twice before all others of its edge came.
        """
        alpha = self.alpha_matrix().cpu()
        uniform = alpha.where(alpha.isinf(), 0)
        paths: list[list[int]] = gates.sample_apart(uniform, number, generator).tolist()
        return paths

    @contextmanager
    def gate_step(
        self, mode: GateMode = "full", generator: torch.Generator | None = None
    ) -> Iterator[GateStep]:
        """A gate step: within it, forward and backward of a loss give the gates' gradients.

        Mode ``full`` gives the exact ones of all candidates, ``two_path`` those of two drawn
        candidates of each edge; both need the memory of one path.

        Paths are drawn on entry. Within it weights require no gradient and BatchNorm statistics do
        not move, so that a gate step changes alphas and nothing else. Afterwards `GateStep.update`
        takes the optimizer's step.

        Where torch.distributed has several ranks, all of them take part, with the same generator.
        For a loss with a latency term call the module that DistributedDataParallel wraps: that has
        nothing to do here, and refuses parameters that are used outside of it.

        Raises:
            UserError: there is no such mode, or this is within another gate step.
        """
        if mode not in get_args(GateMode):
            raise UserError(f"'{mode}' is no mode of gate steps; use 'full' or 'two_path'")
        if any(mixed.gates_are_open for mixed in self.mixed_ops):
            raise UserError("a gate step is within another one; end that first")
        alpha = self.alpha_matrix()
        before = alpha.detach()
        host = before.cpu()
        if mode == "two_path":
            pair = gates.sample_pair(host, generator)
            alpha = gates.restrict(alpha, pair.to(alpha.device))
            active = gates.sample(gates.restrict(host, pair), generator)
            involved = pair.tolist()
        else:
            pair = None
            active = gates.sample(host, generator)
            involved = [range(host.shape[1])] * len(self.groups)
        self.activate(active.tolist())
        step = GateStep(self, before, alpha, active, pair)
        frozen = [weight for weight in self.weights if weight.requires_grad]
        try:
            for weight in frozen:
                weight.requires_grad_(False)
            for group, row, paths in zip(self.groups, step.gates.unbind(0), involved, strict=True):
                for mixed in group:
                    mixed.open_gates(row, [path for path in paths if path < len(mixed.candidates)])
            with frozen_statistics(self.model):
                yield step
        finally:
            for mixed in self.mixed_ops:
                mixed.close_gates()
            for weight in frozen:
                weight.requires_grad_(True)

    def add_gradients(self, gradient: Tensor) -> None:
        """Add the rows of `gradient` [E, N] to the alphas' gradients."""
        for alpha, row in zip(self.alphas, gradient.unbind(0), strict=True):
            part = row if len(row) == len(alpha) else row[: len(alpha)]
            before = alpha.grad
            alpha.grad = part if before is None else before + part

    @torch.no_grad()
    def set_alphas(self, alphas: Sequence[Tensor]) -> None:
        """Make `alphas`, one vector per edge, the architecture parameters."""
        for parameter, alpha in zip(self.alphas, alphas, strict=True):
            parameter.copy_(alpha)

    @torch.no_grad()
    def add_to_alphas(self, change: Tensor) -> None:
        """Add the rows of `change` [E, N] to the alphas themselves."""
        for alpha, row in zip(self.alphas, change.unbind(0), strict=True):
            alpha.add_(row[: alpha.numel()])


class GateStep:
    """One gate step: its binary gates, and the probabilities its paths were drawn from.

    Attributes:
        probabilities: [E, N], differentiable in the alphas; over the two paths of each edge in mode
            ``two_path``. A latency term of the loss is to be computed from these.
        gates: binary gates [E, N], a leaf whose gradient backward computes.
        pair: the two paths of every edge [E, 2] in mode ``two_path``, else None.
    """

    def __init__(
        self,
        edges: Edges,
        before: Tensor,
        alpha: Tensor,
        active: Tensor,
        pair: Tensor | None,
    ) -> None:
        self.edges = edges
        self.probabilities = alpha.softmax(dim=1)
        self.pair = pair
        self.gates = torch.nn.functional.one_hot(active, alpha.shape[1]).to(alpha).requires_grad_()
        self._before = before
        self._alpha = alpha.detach()

    def update(self, optimizer_step: Callable[[], object]) -> None:
        """Give the alphas their gradients and let their optimizer take its step.

        The gates' gradients are averaged over the ranks of torch.distributed, if there are several,
        and added to what gradients the alphas have, such as a latency term's. In mode ``two_path``
        the probabilities of paths outside the pairs stay as they were.

        Args:
            optimizer_step: such as ``optimizer.step``, or ``lambda: scaler.step(optimizer)``.

        Raises:
            UserError: backward has not run within the step, or not reached a MixedOp that ran in
                it, or ranks have drawn different paths.
        """
        if self.gates.grad is None:
            raise UserError("the gates have no gradient; call loss.backward() within gate_step")
        if any(mixed.ran_without_graph for mixed in self.edges.mixed_ops):
            raise UserError(
                "a MixedOp ran without a graph in the gate step, so its gates have no gradient; "
                "call it outside of torch.no_grad, and in checkpoints with use_reentrant=False and "
                "backward within gate_step"
            )
        finite = self._alpha.isfinite()
        gradient = ranks.mean(self.gates.grad, self.gates, finite, self._alpha.where(finite, 0))
        self.edges.add_gradients(gates.alpha_gradient(self._alpha, gradient))
        optimizer_step()
        if self.pair is not None:
            self._rescale(self.pair.to(self._before.device))

    @torch.no_grad()
    def _rescale(self, pair: Tensor) -> None:
        """Keep the probabilities of paths outside the pair."""
        shift = gates.rescale_shift(self._before, self.edges.alpha_matrix(), pair)
        self.edges.add_to_alphas(shift)
