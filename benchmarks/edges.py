"""One searched edge at a time: its shapes and least work, and the peers that compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import plain
import torch
from measuring import SavedTensors
from torch import Tensor, nn

from proxyless_ext import ops
from proxyless_ext.seeding import generator
from proxyless_ext.spaces import BlockConfig, Layer, MBConvSpec, Space

FLOAT_BYTES = 4
PASSES = 3  # forward, and the two halves of backward: gradients of the input and of the weights


@dataclass
class Case:
    """An MBConv of the space's shapes, which may occur at several edges.

    Attributes:
        layer: shapes of the block, shortcut included.
        block: the same as configuration.
        space: where it comes from.
        batch: pictures.
        edges: where it occurs, as indices into `space.edges`.
    """

    layer: Layer
    block: BlockConfig
    space: Space
    batch: int
    edges: list[int] = field(default_factory=list)

    @property
    def spec(self) -> MBConvSpec:
        assert isinstance(self.layer.spec, MBConvSpec)
        return self.layer.spec

    @property
    def name(self) -> str:
        """Such as ``16-24 112 s2``: channels, input size, stride."""
        layer = self.layer
        return f"{layer.in_channels}-{layer.out_channels} {layer.in_size} s{layer.stride}"

    @property
    def flops(self) -> int:
        """Of forward and backward: two for each multiply-add of a convolution."""
        spec, layer = self.spec, self.layer
        hidden = spec.expand_ratio * layer.in_channels
        expand = layer.in_size**2 * layer.in_channels * hidden if spec.expand_ratio > 1 else 0
        rest = layer.out_size**2 * hidden * (spec.kernel_size**2 + layer.out_channels)
        return 2 * PASSES * self.batch * (expand + rest)

    @property
    def least_bytes(self) -> int:
        """Memory traffic of forward and backward if input, output, weights and the gradients of all
        of them are read or written once.
        """
        return 2 * FLOAT_BYTES * (self._input + self._output + self._weights)

    @property
    def layered_bytes(self) -> int:
        """The same if every layer reads its operands and writes its results once, as layers do.

        In forward a convolution reads and writes one tensor each, a BatchNorm reads twice and
        writes once, ReLU6 reads and writes. In backward a convolution reads its output's gradient
        twice and its input once and writes its input's gradient, a BatchNorm reads input and
        gradient twice and writes once, ReLU6 reads two and writes one.
        """
        spec, layer = self.spec, self.layer
        hidden = spec.expand_ratio * layer.in_channels
        expanded = self.batch * layer.in_size**2 * hidden if spec.expand_ratio > 1 else 0
        filtered = self.batch * layer.out_size**2 * hidden
        convolved, normalised, activated = 1 + 2, 3 + 5, 2 + 3  # passes over a layer's output
        read = 1 + 2  # passes over a convolution's input
        inner = (convolved + normalised + activated + read) * (expanded + filtered)
        elements = inner + read * self._input + (convolved + normalised) * self._output
        return FLOAT_BYTES * (elements + 2 * self._weights)

    @property
    def _input(self) -> int:
        return self.batch * self.layer.in_size**2 * self.layer.in_channels

    @property
    def _output(self) -> int:
        return self.batch * self.layer.out_size**2 * self.layer.out_channels

    @property
    def _weights(self) -> int:
        hidden = self.spec.expand_ratio * self.layer.in_channels
        expand = self.layer.in_channels if self.spec.expand_ratio > 1 else 0
        return hidden * (expand + self.spec.kernel_size**2 + self.layer.out_channels)


def cases(space: Space, operation: str, batch: int) -> list[Case]:
    """The different shapes that `operation` meets at the edges of `space`, in order."""
    found: dict[Layer, Case] = {}
    for index, (edge, layers) in enumerate(zip(space.edges, space.edge_layers(), strict=True)):
        layer = layers[edge.candidates.index(operation)]
        case = found.setdefault(layer, Case(layer, edge.block(operation), space, batch))
        case.edges.append(index)
    return list(found.values())


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
        self._block = block.to(edge.device, memory_format=layout)
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
