"""Architectures: one network as readable JSON, enough to build it again anywhere."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..errors import UserError
from ..files import write_atomically
from .layers import Layer
from .operations import Activation
from .registry import parse_operation
from .validation import StrictModel, read_model

Count = Annotated[int, Field(ge=1)]


class BatchNorm(StrictModel):
    """Parameters of every BatchNorm of a network."""

    momentum: float = Field(0.1, gt=0, le=1)
    eps: float = Field(1e-3, gt=0)


class Stem(StrictModel):
    """The first 3x3 convolution with BatchNorm and the activation of the network."""

    in_channels: Count = 3
    out_channels: Count = 32
    stride: Literal[1, 2] = 2


class Normalisation(StrictModel):
    """Per-channel mean and standard deviation of pixels in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class BlockConfig(StrictModel):
    """One block: an operation, and whether its input is added to its output.

    Attributes:
        edges: the operations at the edges inside, if the operation has some.
    """

    operation: str
    in_channels: Count
    out_channels: Count
    stride: Literal[1, 2] = 1
    shortcut: bool = False
    edges: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> BlockConfig:
        same_shape = self.stride == 1 and self.in_channels == self.out_channels
        if self.shortcut and not same_shape:
            raise UserError("a shortcut needs stride 1 and as many output as input channels")
        operation = parse_operation(self.operation)
        if not operation.fits(self.in_channels, self.out_channels, self.stride):
            raise UserError(
                f"'{self.operation}' does not fit a block from {self.in_channels} to "
                f"{self.out_channels} channels of stride {self.stride}; {operation.advice}"
            )
        if operation.skips and not self.shortcut:
            raise UserError(
                f"a block of operation '{self.operation}' needs a shortcut, or nothing would pass"
            )
        if len(self.edges) != (number := len(operation.edges(self.out_channels))):
            raise UserError(
                f"'{self.operation}' has {number} edges inside, and 'edges' names {len(self.edges)}"
            )
        _ = self.inside  # Raises if one of them is impossible.
        return self

    @cached_property
    def inside(self) -> tuple[BlockConfig, ...]:
        """Its edges, each as the block that it would be."""
        if not self.edges:
            return ()
        widths = parse_operation(self.operation).edges(self.out_channels)
        return tuple(
            BlockConfig(operation=name, in_channels=width, out_channels=width)
            for name, width in zip(self.edges, widths, strict=True)
        )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The operations that a search chooses: those inside, or else its own."""
        return self.edges or (self.operation,)

    def layers(self, in_size: int) -> list[Layer]:
        """Its own layer, then those of its edges.

        Args:
            in_size: height and width of its input, in pixels.
        """
        own = Layer(
            "trunk" if self.edges else "block",
            self.operation,
            self.in_channels,
            self.out_channels,
            in_size,
            self.stride,
            self.shortcut,
        )
        return [own, *(layer for edge in self.inside for layer in edge.layers(own.out_size))]


SMALL = 64
"""The largest resolution, in pixels, at which pictures are treated as CIFAR's usually are."""


def short_side(resolution: int) -> int:
    """What the short side of a picture is resized to before its centre is cropped, in pixels.

    The resolution itself, or above `SMALL` 256/224 of it, as usual on ImageNet.
    """
    return resolution if resolution <= SMALL else round(resolution * 256 / 224)


class Architecture(StrictModel):
    """A network: stem, blocks, feature mix, classifier.

    The layout is the one of the paper (section 3, `imagenet` space): a 3x3 stem, the blocks in
    sequence, a 1x1 feature-mix layer, global average pooling, dropout and a linear classifier.
    A trained network also knows its classes, and how the pixels it is given are normalised.

    Attributes:
        activation: of the layers that are no blocks.
        pre_activation: whether blocks normalise and activate what they are given; then the stem has
            no activation, and BatchNorm and the activation stand in place of the feature mix.
        feature_mix: channels of the 1x1 convolution before the pooling.
        pooled_mix: channels of one behind the pooling, without BatchNorm or bias, as MobileNetV3
            has it (Howard et al., 2019, section 5.1); None for none.
    """

    format: Literal["proxyless_ext/architecture/1"] = "proxyless_ext/architecture/1"
    name: str
    resolution: Count
    num_classes: Count
    stem: Stem
    blocks: Annotated[tuple[BlockConfig, ...], Field(min_length=1)]
    activation: Activation = "relu6"
    pre_activation: bool = False
    feature_mix: Count | None = None
    pooled_mix: Count | None = None
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_norm: BatchNorm = BatchNorm()
    classes: tuple[str, ...] | None = None
    normalisation: Normalisation | None = None

    @model_validator(mode="after")
    def _check(self) -> Architecture:
        channels = self.stem.out_channels
        for index, block in enumerate(self.blocks):
            if block.in_channels != channels:
                raise UserError(
                    f"block {index} takes {block.in_channels} channels but is given {channels}"
                )
            channels = block.out_channels
        check_mixes(self.pre_activation, self.feature_mix, self.pooled_mix)
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise UserError(f"{len(self.classes)} class names for {self.num_classes} classes")
        return self

    def layers(self) -> list[Layer]:
        """Every layer in order: stem, blocks (skipped ones too), feature mix or BatchNorm,
        classifier.

        Pooling is a layer where a pooled mix follows it, and else a part of the classifier.
        """
        stem = Layer(
            "stem",
            "",
            self.stem.in_channels,
            self.stem.out_channels,
            self.resolution,
            self.stem.stride,
        )
        layers, size = [stem], stem.out_size
        for block in self.blocks:
            layers += block.layers(size)
            size = -(-size // block.stride)
        channels = self.blocks[-1].out_channels
        if self.feature_mix is None:
            layers.append(Layer("norm", "", channels, channels, size))
        else:
            layers.append(Layer("feature_mix", "", channels, self.feature_mix, size))
        last = layers[-1]
        if self.pooled_mix is not None:
            layers.append(Layer("pool", "", last.out_channels, last.out_channels, size))
            layers.append(Layer("pooled_mix", "", last.out_channels, self.pooled_mix, 1))
        last = layers[-1]
        layers.append(Layer("classifier", "", last.out_channels, self.num_classes, last.out_size))
        return layers

    def deployment(self) -> dict[str, str]:
        """What has to be known to give a trained network its pictures, as keys and JSON values."""
        normalisation = self.normalisation or Normalisation(mean=(0, 0, 0), std=(1, 1, 1))
        return {
            "format": "proxyless_ext/onnx/1",
            "classes": json.dumps(self.classes or list(map(str, range(self.num_classes)))),
            "channel_order": "RGB",
            "layout": "NCHW",
            "resize_short_side": json.dumps(short_side(self.resolution)),
            "resize_interpolation": "bilinear, antialiased",
            "crop_centre": json.dumps(self.resolution),
            "pixel_scale": json.dumps(1 / 255),
            "mean": json.dumps(normalisation.mean),
            "std": json.dumps(normalisation.std),
        }

    def save(self, path: str | Path) -> None:
        """Write readable JSON: one line a block."""
        fields = self.model_dump(mode="json", exclude={"blocks"}, exclude_none=True)
        if not self.pre_activation:
            del fields["pre_activation"]
        blocks = [
            block.model_dump(mode="json", exclude=None if block.edges else {"edges"})
            for block in self.blocks
        ]
        write_atomically(path, _readable_json(fields, blocks))

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, is no JSON, or describes no possible network.
        """
        return read_model(cls, path)


def check_mixes(pre_activation: bool, feature_mix: int | None, pooled_mix: int | None) -> None:
    """That a network has the mixes of its kind.

    Raises:
        UserError: it has not.
    """
    if pre_activation and (feature_mix or pooled_mix):
        raise UserError("a network with pre_activation has neither feature_mix nor pooled_mix")
    if not pre_activation and feature_mix is None:
        raise UserError("the key 'feature_mix' is missing")


def _readable_json(fields: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in fields.items()]
    rows = ",\n".join(f"    {json.dumps(block)}" for block in blocks)
    return "{\n" + "\n".join(lines) + '\n  "blocks": [\n' + rows + "\n  ]\n}\n"
