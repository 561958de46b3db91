"""The blocks that are measured: their shapes, and the least work that they take."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..spaces import BlockConfig, Layer, MBConvSpec, Space

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
