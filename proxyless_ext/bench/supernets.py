"""Whole training steps of supernets that have the same weights but different layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from .. import gates
from ..nn import GateMode, Separable, SuperNet
from ..nn.pools import AvgPool, MaxPool
from ..nn.pre_activated import BNActConv
from ..seeding import generator
from ..spaces import Space
from . import plain
from .memory import SavedTensors


class Batch:
    """Random pictures [N, 3, H, W] and labels [N].

    Attributes:
        pictures, labels: the tensors, drawn alike for every device.
    """

    def __init__(self, space: Space, size: int, resolution: int, device: str = "cpu") -> None:
        draws = generator(0, "batch")
        self.pictures = torch.randn((size, 3, resolution, resolution), generator=draws).to(device)
        self.labels = torch.randint(space.num_classes, (size,), generator=draws).to(device)


class Trainee(ABC):
    """A supernet in training, with momentum SGD, and the batch it trains on.

    Steps draw their paths from a seed: the same paths in every trainee.
    """

    def __init__(self, model: nn.Module, layout: torch.memory_format) -> None:
        self.model = model.to(memory_format=layout)
        named = sorted(model.named_parameters())
        self.weights = {name: each for name, each in named if not name.endswith("alpha")}
        # So slow that all steps of a benchmark start from nearly the same weights.
        self._optimizer = torch.optim.SGD(self.weights.values(), lr=1e-6, momentum=0.9)
        self._layout = layout

    @abstractmethod
    def activate(self, paths: Sequence[int]) -> None:
        """Make candidate `paths[e]` of every edge e the one that runs."""

    @abstractmethod
    def gate_step(self, seed: int, mode: plain.GateMode) -> Tensor:
        """Forward and backward of a gate step: the gates' gradients [E, N]."""

    def take(self, batch: Batch, dtype: torch.dtype = torch.float32) -> None:
        """From now on train on `batch`, where it is, in `dtype`; of 16 bits under autocast."""
        device = batch.pictures.device.type
        narrow = dtype.itemsize == 2
        self._autocast = partial(torch.autocast, device, dtype, enabled=narrow)
        stored = torch.float32 if narrow else dtype
        self.model.to(device, stored)
        self._pictures = batch.pictures.to(stored, memory_format=self._layout)
        self._labels = batch.labels

    def weight_step(self, seed: int) -> None:
        """Forward, backward and update of the weights on one path."""
        self.weight_gradients(seed)
        self._optimizer.step()

    def weight_gradients(self, seed: int) -> list[Tensor]:
        """Forward and backward of a weight step: the gradients of the path's weights by name."""
        self.draw_path(seed)
        self._optimizer.zero_grad()
        self.loss().backward()
        return [each.grad for each in self.weights.values() if each.grad is not None]

    def saved_bytes(self, seed: int) -> int:
        """What the forward of a weight step keeps for backward."""
        self.draw_path(seed)
        with SavedTensors(self.model) as saved:
            self.loss()
        return saved.bytes

    def statistics(self) -> list[Tensor]:
        """Copies of the BatchNorms' running means and variances."""
        named = sorted(self.model.named_buffers())
        return [buffer.clone() for _, buffer in named if buffer.is_floating_point()]

    def draw_path(self, seed: int) -> None:
        """Activate a random candidate of every edge."""
        self.activate(gates.sample(self.alpha_matrix(), generator(seed, "paths")).tolist())

    def alpha_matrix(self) -> Tensor:
        """All alphas [E, N] on the CPU, -inf where an edge has no such candidate."""
        named = self.model.named_parameters()
        alphas: list[Tensor] = [each for name, each in named if name.endswith("alpha")]
        return pad_sequence(alphas, batch_first=True, padding_value=-torch.inf).detach().cpu()

    def loss(self) -> Tensor:
        """Cross entropy of the active path."""
        with self._autocast():
            return cross_entropy(self.model(self._pictures), self._labels)


class Fused(Trainee):
    """proxyless_ext's own supernet."""

    def __init__(self, space: Space, layout: torch.memory_format = torch.channels_last) -> None:
        self.supernet = SuperNet(space)
        super().__init__(self.supernet, layout)

    def activate(self, paths: Sequence[int]) -> None:
        self.supernet.edges.activate(paths)

    def gate_step(self, seed: int, mode: plain.GateMode) -> Tensor:
        ours: GateMode = "two_path" if mode == "two_path" else "full"
        with self.supernet.edges.gate_step(ours, generator(seed, "paths")) as step:
            self.loss().backward()
        assert step.gates.grad is not None
        return step.gates.grad


class Layered(Fused):
    """The same supernet, with PyTorch's layers in all its blocks.

    Its gate steps over all candidates are those of the mode ``recompute``.

    Args:
        space: of separable candidates.
        layout: of pictures and weights.
    """

    def __init__(self, space: Space, layout: torch.memory_format) -> None:
        super().__init__(space, layout)
        for module in self.supernet.modules():
            if isinstance(module, Separable):
                module.fused = False
            elif isinstance(module, (BNActConv, MaxPool, AvgPool)):
                module.recomputes = False


class Plain(Trainee):
    """The supernet of PyTorch's layers, written apart from proxyless_ext's.

    Args:
        space: of MBConvs.
        layout: contiguous, as published, or channels-last.
        checkpointed: whether weight steps compute every block again for backward.
    """

    def __init__(self, space: Space, layout: torch.memory_format, checkpointed: bool) -> None:
        self.supernet = plain.SuperNet(space)
        for block in self.supernet.modules():
            if isinstance(block, plain.Block):
                block.checkpointed = checkpointed
        super().__init__(self.supernet, layout)

    def activate(self, paths: Sequence[int]) -> None:
        self.supernet.activate(paths)

    def gate_step(self, seed: int, mode: plain.GateMode) -> Tensor:
        alpha, draws = self.alpha_matrix(), generator(seed, "paths")
        pairs = gates.sample_pair(alpha, draws) if mode == "two_path" else None
        active = gates.sample(alpha if pairs is None else gates.restrict(alpha, pairs), draws)
        self.activate(active.tolist())
        binary = nn.functional.one_hot(active, alpha.shape[1]).to(self._pictures).requires_grad_()
        with self._open_gates(binary, pairs, mode):
            self.loss().backward()
        assert binary.grad is not None
        return binary.grad

    @contextmanager
    def _open_gates(
        self, binary: Tensor, pairs: Tensor | None, mode: plain.GateMode
    ) -> Iterator[None]:
        for weight in self.weights.values():  # What a gate step need not compute, it does not.
            weight.requires_grad_(False)
        for index, mixed in enumerate(self.supernet.mixed_ops):
            mixed.mode = mode
            mixed.gates = binary[index, : len(mixed.candidates)]
            if pairs is not None:
                (mixed.other,) = set(pairs[index].tolist()) - {mixed.active}
        yield
        for mixed in self.supernet.mixed_ops:
            mixed.gates = None
        for weight in self.weights.values():
            weight.requires_grad_(True)


TRAINEES: dict[str, Callable[[Space], Trainee]] = {
    "fused": Fused,
    "plain": lambda space: Plain(space, torch.contiguous_format, checkpointed=False),
    "channels_last": lambda space: Plain(space, torch.channels_last, checkpointed=False),
    "checkpointed": lambda space: Plain(space, torch.channels_last, checkpointed=True),
}
"""Of the space `imagenet`."""

TREES: dict[str, Callable[[Space], Trainee]] = {
    "fused": Fused,
    "plain": lambda space: Layered(space, torch.contiguous_format),
    "channels_last": lambda space: Layered(space, torch.channels_last),
}
"""Of the space `cifar_tree`."""

SPACES = {"imagenet": TRAINEES, "cifar_tree": TREES}
"""The trainees that there are, by space."""


def build(names: Iterable[str], space: Space, batch: Batch) -> dict[str, Trainee]:
    """The trainees of those names, all with the same weights, alphas and pictures.

    Raises:
        KeyError: there is none of that name for the space.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = SuperNet(space).state_dict()
    trainees = {name: SPACES[space.name][name](space) for name in names}
    for trainee in trainees.values():
        trainee.model.load_state_dict(state)
        trainee.take(batch)
    return trainees
