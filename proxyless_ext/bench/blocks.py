"""One block at a time: its weights and input, and the peers that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..seeding import generator
from . import plain
from .agreement import check_block
from .cases import Case
from .memory import SavedTensors
from .records import BlockFigures
from .timing import alternate


class Edge:
    """A case with weights, an input [N, C, H, W] and an output gradient, all drawn from a seed.

    Its peers compute on `device`; what is drawn is the same on all.
    """

    def __init__(self, case: Case, seed: int = 0, device: str = "cpu") -> None:
        self.case = case
        layer = case.layer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            source = plain.build_block(case.block, case.space.batch_norm)
            for module in source.modules():
                if isinstance(module, nn.BatchNorm2d):  # Ones and zeros would hide mistakes.
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.5)
        self.state = source.state_dict()
        draw = partial(torch.randn, generator=generator(seed, "edge"))
        x = draw(case.batch, layer.in_channels, layer.in_size, layer.in_size)
        grad = draw(case.batch, layer.out_channels, layer.out_size, layer.out_size)
        self.device = device
        self.x, self.grad = x.to(device), grad.to(device)

    def peer(self, name: str, dtype: torch.dtype = torch.float32) -> Peer:
        """The peer called `name`, one of `PEERS`, with this edge's weights."""
        return PEERS[name](self, dtype)

    def expected(self) -> list[Tensor]:
        """What every peer should give, from PyTorch's layers in float64."""
        return Peer(self, _plain(self), torch.contiguous_format, torch.float64)()


class Peer:
    """A training step of one block: forward, and backward with the gradients of all it can give.

    Args:
        edge: weights, input and gradient.
        block: the module, to be given the edge's weights.
        layout: of input and gradient.
        dtype: of the computation; 16 bits under autocast.
        compiled: whether torch.compile makes it faster.
    """

    def __init__(
        self,
        edge: Edge,
        block: nn.Module,
        layout: torch.memory_format,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        block.load_state_dict(edge.state)
        self._block = block.to(edge.device).to(memory_format=layout)
        if dtype == torch.float64:
            block.to(dtype)
        self._parameters = [weight for _, weight in sorted(block.named_parameters())]
        self._x = edge.x.to(dtype, memory_format=layout).requires_grad_()
        self._grad = edge.grad.to(dtype, memory_format=layout)
        self._autocast = partial(torch.autocast, edge.device, dtype, enabled=dtype.itemsize == 2)
        self._forward: Callable[[Tensor], Tensor] = block
        if compiled:
            torch.compiler.reset()  # Else the blocks before it would count as its recompilations.
            self._forward = torch.compile(block, fullgraph=True)

    def __call__(self) -> list[Tensor]:
        """The output, the gradient of the input, and those of all parameters by name."""
        with self._autocast():
            y = self._forward(self._x)
        return [y, *torch.autograd.grad(y, [self._x, *self._parameters], self._grad)]

    def saved_bytes(self) -> int:
        """What one forward keeps for backward."""
        with SavedTensors(self._block) as saved, self._autocast():
            self._forward(self._x)
        return saved.bytes


class FusedBlock(nn.Module):
    """A block of PyTorch's layers, computed by the fused operator."""

    def __init__(self, block: plain.Block) -> None:
        super().__init__()
        self.operation = block.operation
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self.operation.children())
        *expand, depthwise, project = (layer.conv for layer in layers)
        norms = [layer.bn for layer in layers]
        return ops.mbconv(
            x,
            expand[0].weight if expand else None,
            depthwise.weight,
            project.weight,
            torch.cat([norm.weight for norm in norms]),
            torch.cat([norm.bias for norm in norms]),
            eps=norms[0].eps,
            stride=depthwise.stride[0],
            residual=self.shortcut,
        ).y


def _plain(edge: Edge) -> plain.Block:
    return plain.build_block(edge.case.block, edge.case.space.batch_norm)


def _fused(edge: Edge) -> nn.Module:
    return FusedBlock(_plain(edge))


PEERS: dict[str, Callable[[Edge, torch.dtype], Peer]] = {
    "fused": lambda edge, dtype: Peer(edge, _fused(edge), torch.channels_last, dtype),
    "fused_bf16": lambda edge, _: Peer(edge, _fused(edge), torch.channels_last, torch.bfloat16),
    "plain": lambda edge, dtype: Peer(edge, _plain(edge), torch.contiguous_format, dtype),
    "channels_last": lambda edge, dtype: Peer(edge, _plain(edge), torch.channels_last, dtype),
    "compiled": lambda edge, dtype: Peer(
        edge, _plain(edge), torch.channels_last, dtype, compiled=True
    ),
}
RIVALS = ("plain", "channels_last", "compiled")


def measure_block(
    edge: Edge,
    names: Sequence[str],
    rounds: int,
    dtype: torch.dtype = torch.float32,
    kind: str = "float32",
    expected: list[Tensor] | None = None,
    calls: int = 1,
) -> BlockFigures:
    """Check the peers of an edge, and time them in turns.

    Args:
        edge: the block.
        names: of the peers, each one of `PEERS`.
        rounds: timed runs of each peer.
        dtype: that they compute in.
        kind: of numbers, as `check_block` has it.
        expected: `edge.expected()`, where it is known already.
        calls: of a peer in one run.

    Raises:
        DisagreementError: a result is wrong.
    """
    expected = expected or edge.expected()
    peers = {name: edge.peer(name, dtype) for name in names}
    differences = {
        name: check_block(
            f"{name} at {edge.case.name}",
            peer(),
            expected,
            "bfloat16" if name == "fused_bf16" else kind,
        )
        for name, peer in peers.items()
    }
    del expected
    runs = {name: partial(_call, peer, calls) for name, peer in peers.items()}
    times = alternate(runs, rounds, steps=calls, device=edge.device)
    return BlockFigures.of(
        edge.case, differences, {name: peer.saved_bytes() for name, peer in peers.items()}, times
    )


def _call(peer: Peer, calls: int) -> None:
    for _ in range(calls):
        peer()
