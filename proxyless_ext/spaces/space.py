"""Search spaces: which networks there are to choose from, as data that YAML can hold."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ..documents import write_document
from ..errors import UserError
from ..files import write_atomically
from .architecture import Architecture, BatchNorm, BlockConfig, Count, Stem, check_mixes
from .layers import Layer
from .operations import Activation
from .registry import parse_operation
from .validation import StrictModel, read_mapping, validate
from .widths import make_divisible

Candidates = Annotated[tuple[str, ...], Field(min_length=1)]
WidthMults = tuple[Annotated[float, Field(gt=0)], ...]
Resolutions = tuple[Count, ...]


class FirstBlock(StrictModel):
    """The fixed block between the stem and the first searched one."""

    operation: str = "k3e1"
    channels: Count


class Stage(StrictModel):
    """Blocks of one width; the first of them changes the width and the resolution.

    Attributes:
        channels: output channels of every block.
        cells: number of blocks, each one searched edge or, where `block` says so, with several.
        stride: of the first block.
        candidates: instead of the space's, for this stage.
        block: instead of the space's, for this stage.
        group: a name; the edges of all stages that have it share one choice, and where blocks have
            several edges inside, each of them with those in its place.
    """

    channels: Count
    cells: Count
    stride: Literal[1, 2] = 1
    candidates: Candidates | None = None
    block: str | None = None
    group: Annotated[str, Field(min_length=1)] | None = None


class Edge(StrictModel):
    """A searched block, or an edge inside one: its shapes, candidates and group.

    Attributes:
        candidates: those that fit, in order.
        shortcut: whether the input is added: to a block wherever it has the output's shape.
    """

    in_channels: Count
    out_channels: Count
    stride: Literal[1, 2]
    shortcut: bool
    candidates: tuple[str, ...]
    group: str | None = None

    def block(self, operation: str) -> BlockConfig:
        """The block that choosing `operation` gives."""
        return BlockConfig(
            operation=operation,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            stride=self.stride,
            shortcut=self.shortcut,
        )


class SearchedBlock(NamedTuple):
    """A block of a space: one edge, or an operation with edges inside.

    Attributes:
        operation: around the edges; None where the only edge is the block.
        edges: what is chosen.
    """

    in_channels: int
    out_channels: int
    stride: Literal[1, 2]
    operation: str | None
    edges: tuple[Edge, ...]

    def block(self, chosen: Sequence[str]) -> BlockConfig:
        """The block that choosing an operation for each edge gives."""
        if self.operation is None:
            return self.edges[0].block(chosen[0])
        return BlockConfig(
            operation=self.operation,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            stride=self.stride,
            edges=tuple(chosen),
        )


class EdgeGroup(NamedTuple):
    """Edges that share one choice, so that they take the same candidate; most edges are alone.

    Attributes:
        indices: of the edges in `Space.edges`.
        candidates: of each of them.
    """

    indices: tuple[int, ...]
    candidates: tuple[str, ...]

    @property
    def is_searched(self) -> bool:
        """Whether there is anything to choose from."""
        return len(self.candidates) > 1


class Space(StrictModel):
    """A search space of networks that are blocks in sequence (ProxylessNAS, arXiv 1812.00332,
    section 3), each block being an edge or having several inside, such as a tree.

    A candidate of the list that cannot fit an edge (``zero`` or ``identity`` where shapes change)
    is left out there.

    What is chosen is counted by `groups`: a network is one candidate index for each of them.

    Attributes:
        candidates: of the stages that list none of their own.
        block: an operation with edges inside, such as ``tree_split2_copy2_copy2``, which all blocks
            are of stages that name none of their own; the candidates are those of its edges.
        activation, pre_activation, feature_mix, pooled_mix: as of an `Architecture`.
        weights: of a supernet's MBConvs: ``separate`` for each candidate, as published, or
            ``shared`` by those of an edge, as slices of the largest.
        width_mults, resolutions: of the sizes that ``proxyless specialise`` searches, in place of
            its own; see `resized`.
    """

    name: str
    resolution: Count
    num_classes: Annotated[int, Field(ge=2)] = 1000
    stem: Stem = Stem()
    first_block: FirstBlock | None = None
    candidates: tuple[str, ...] = ()
    block: str | None = None
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    activation: Activation = "relu6"
    pre_activation: bool = False
    feature_mix: Count | None = None
    pooled_mix: Count | None = None
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_norm: BatchNorm = BatchNorm()
    weights: Literal["separate", "shared"] = "separate"
    width_mults: WidthMults | None = None
    resolutions: Resolutions | None = None

    @model_validator(mode="after")
    def _check(self) -> Space:
        for stage in self.stages:
            names = stage.candidates or self.candidates
            for name in names:
                if parse_operation(name).edges(stage.channels):
                    raise UserError(f"'{name}' has edges inside; give it as 'block'")
            around = stage.block or self.block
            if around and not parse_operation(around).edges(stage.channels):
                raise UserError(f"'{around}' has no edges inside; list it among the candidates")
            if len(set(names)) < len(names):
                raise UserError(f"candidates {list(names)} repeat; list each of them once")
        _ = self.fixed_blocks  # Raises if the first block is impossible.
        for index, edge in enumerate(self.edges):
            if not edge.candidates:
                raise UserError(
                    f"edge {index} ({edge.in_channels} to {edge.out_channels} channels, stride "
                    f"{edge.stride}) has no candidate that fits; add one for these shapes, such "
                    "as k3e6 or sep3"
                )
        for number, block in enumerate(self.searched_blocks):
            try:
                block.block([edge.candidates[0] for edge in block.edges])
            except UserError as error:
                raise UserError(f"searched block {number}: {error}") from error
        check_mixes(self.pre_activation, self.feature_mix, self.pooled_mix)
        for group in self.groups:
            for index in group.indices:
                if (names := self.edges[index].candidates) != group.candidates:
                    raise UserError(
                        f"edges {group.indices[0]} and {index} are of group "
                        f"'{self.edges[index].group}', but {list(group.candidates)} fit one and "
                        f"{list(names)} the other; give both the same, in a stage apart if need be"
                    )
        return self

    @cached_property
    def searched_blocks(self) -> tuple[SearchedBlock, ...]:
        """The blocks behind the fixed ones, in order."""
        channels = self.first_block.channels if self.first_block else self.stem.out_channels
        blocks = []
        for stage in self.stages:
            around = stage.block or self.block
            for cell in range(stage.cells):
                stride = stage.stride if cell == 0 else 1
                if around is None:
                    edges = [self._edge(stage, channels, stage.channels, stride, stage.group)]
                else:
                    widths = parse_operation(around).edges(stage.channels)
                    edges = [
                        self._edge(stage, width, width, 1, stage.group and f"{stage.group}.{place}")
                        for place, width in enumerate(widths)
                    ]
                block = SearchedBlock(channels, stage.channels, stride, around, tuple(edges))
                blocks.append(block)
                channels = stage.channels
        return tuple(blocks)

    def _edge(
        self,
        stage: Stage,
        in_channels: int,
        out_channels: int,
        stride: Literal[1, 2],
        group: str | None,
    ) -> Edge:
        is_block = (stage.block or self.block) is None
        shortcut = is_block and stride == 1 and in_channels == out_channels
        specs = [parse_operation(name) for name in stage.candidates or self.candidates]
        return Edge(
            in_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            shortcut=shortcut,
            candidates=tuple(
                spec.name
                for spec in specs
                if spec.fits(in_channels, out_channels, stride) and (shortcut or not spec.skips)
            ),
            group=group,
        )

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """What is chosen, in order."""
        return tuple(edge for block in self.searched_blocks for edge in block.edges)

    @cached_property
    def groups(self) -> tuple[EdgeGroup, ...]:
        """The edges by what they share a choice with, in the order of their first ones."""
        members: dict[Hashable, list[int]] = {}
        for index, edge in enumerate(self.edges):
            members.setdefault(edge.group or index, []).append(index)
        return tuple(
            EdgeGroup(tuple(indices), self.edges[indices[0]].candidates)
            for indices in members.values()
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of candidates of every group [E]."""
        return tuple(len(group.candidates) for group in self.groups)

    @property
    def num_networks(self) -> int:
        """How many networks the space holds."""
        return math.prod(self.counts)

    @property
    def fixed_blocks(self) -> tuple[BlockConfig, ...]:
        """The blocks before the first edge: none or the first block, which has no shortcut."""
        if self.first_block is None:
            return ()
        return (
            BlockConfig(
                operation=self.first_block.operation,
                in_channels=self.stem.out_channels,
                out_channels=self.first_block.channels,
            ),
        )

    def architecture(self, choices: Sequence[int], name: str | None = None) -> Architecture:
        """The network that takes candidate `choices[e]` at the edges of every group e.

        Raises:
            UserError: there is not one valid choice for every group.
        """
        if len(choices) != len(self.groups) or not all(
            0 <= choice < count for choice, count in zip(choices, self.counts, strict=True)
        ):
            raise UserError(
                f"choices {list(choices)} do not pick one candidate at each of the "
                f"{len(self.groups)} edges of space '{self.name}', those of one group counted once"
            )
        taken = {
            index: group.candidates[choice]
            for group, choice in zip(self.groups, choices, strict=True)
            for index in group.indices
        }
        names = (taken[index] for index in range(len(self.edges)))
        searched = (
            block.block([*islice(names, len(block.edges))]) for block in self.searched_blocks
        )
        return Architecture(
            name=name or self.name,
            resolution=self.resolution,
            num_classes=self.num_classes,
            stem=self.stem,
            blocks=(*self.fixed_blocks, *searched),
            activation=self.activation,
            pre_activation=self.pre_activation,
            feature_mix=self.feature_mix,
            pooled_mix=self.pooled_mix,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )

    def edge_layers(self) -> list[list[Layer]]:
        """For every edge, the layer that each of its candidates would be."""
        layers = self.architecture([0] * len(self.groups)).layers()
        shapes = [layer for layer in layers if layer.kind == "block"][len(self.fixed_blocks) :]
        return [
            [replace(shape, operation=name) for name in edge.candidates]
            for edge, shape in zip(self.edges, shapes, strict=True)
        ]

    def fixed_layers(self) -> list[Layer]:
        """The layers that every network of the space has: all but those of the edges."""
        layers = self.architecture([0] * len(self.groups)).layers()
        first = len(self.fixed_blocks) + 1
        return [*layers[:first], *(layer for layer in layers[first:] if layer.kind != "block")]

    def with_classes(self, num_classes: int) -> Space:
        """The same space with a classifier for `num_classes`.

        Raises:
            UserError: there are fewer than two.
        """
        fields = {**self.model_dump(), "num_classes": num_classes}
        return validate(Space, fields, f"space '{self.name}'")

    def resized(self, width_mult: float = 1.0, resolution: int | None = None) -> Space:
        """The same space at another size, with `width_mults` and `resolutions` left out.

        All channels are multiplied and rounded by `make_divisible`, but for a feature mix that no
        pooled mix follows: it only grows, as in MobileNetV2. At 1 they stay as they are.

        Args:
            width_mult: of the channels.
            resolution: of the pictures, in pixels; the space's own where None.

        Raises:
            UserError: there is no such size, or rounding would make a narrower space wider.
        """
        if not 0 < width_mult < math.inf:
            raise UserError(f"width_mult is {width_mult}; give a number above 0, such as 1.0")
        fields = self.model_dump(exclude_unset=True, exclude={"width_mults", "resolutions"})
        if resolution is not None:
            fields["resolution"] = resolution
        if width_mult != 1:
            fields |= self._widened(width_mult)
        return validate(Space, fields, f"space '{self.name}'")

    def _widened(self, width_mult: float) -> dict[str, Any]:
        """The fields that hold channels, these being multiplied."""

        def times(channels: int) -> int:
            product = make_divisible(channels * width_mult)
            if (product - channels) * (width_mult - 1) < 0:
                raise UserError(
                    f"space '{self.name}' has no width {width_mult:g}: channels become multiples "
                    f"of 8, which would make {product} of {channels}; give it multiples of 8"
                )
            return product

        first, mix, pooled = self.first_block, self.feature_mix, self.pooled_mix
        if mix is not None and (pooled is not None or width_mult > 1):
            mix = times(mix)
        return {
            "stem": self.stem.model_copy(update={"out_channels": times(self.stem.out_channels)}),
            "first_block": first and first.model_copy(update={"channels": times(first.channels)}),
            "stages": [
                stage.model_copy(update={"channels": times(stage.channels)})
                for stage in self.stages
            ],
            "feature_mix": mix,
            "pooled_mix": pooled and times(pooled),
        }

    def save(self, path: str | Path) -> None:
        """Write the space as YAML."""
        fields = self.model_dump(mode="json", exclude_none=True)
        write_atomically(path, write_document(fields))

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """Read a user-defined space from YAML.

        Raises:
            UserError: the file cannot be read or the space is impossible.
        """
        described = read_mapping(path)
        if "space" in described:
            raise UserError(
                f"{path} configures a run and is no space; give the space that it names instead"
            )
        return validate(cls, described, str(path))
