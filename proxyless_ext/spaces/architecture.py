"""Architectures: one network as readable JSON, enough to build it again anywhere."""

from __future__ import annotations

import json
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
    """One block: an operation, and whether its input is added to its output."""

    operation: str
    in_channels: Count
    out_channels: Count
    stride: Literal[1, 2] = 1
    shortcut: bool = False

    @model_validator(mode="after")
    def _check(self) -> BlockConfig:
        same_shape = self.stride == 1 and self.in_channels == self.out_channels
        if self.shortcut and not same_shape:
            raise UserError("a shortcut needs stride 1 and as many output as input channels")
        operation = parse_operation(self.operation)
        if not operation.fits(self.in_channels, self.out_channels, self.stride):
            raise UserError(
                f"'{self.operation}' does not fit a block from {self.in_channels} to "
                f"{self.out_channels} channels of stride {self.stride}; use an MBConv there"
            )
        if operation.skips and not self.shortcut:
            raise UserError(
                f"a block of operation '{self.operation}' needs a shortcut, or nothing would pass"
            )
        return self


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
    feature_mix: Count
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
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise UserError(f"{len(self.classes)} class names for {self.num_classes} classes")
        return self

    def layers(self) -> list[Layer]:
        """Every layer in order: stem, blocks (skipped ones too), feature mix, classifier.

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
        layers = [stem]
        for block in self.blocks:
            size = layers[-1].out_size
            layers.append(
                Layer(
                    "block",
                    block.operation,
                    block.in_channels,
                    block.out_channels,
                    size,
                    block.stride,
                    block.shortcut,
                )
            )
        last = layers[-1]
        mix = Layer("feature_mix", "", last.out_channels, self.feature_mix, last.out_size)
        layers.append(mix)
        if self.pooled_mix is not None:
            layers.append(Layer("pool", "", mix.out_channels, mix.out_channels, mix.out_size))
            layers.append(Layer("pooled_mix", "", mix.out_channels, self.pooled_mix, 1))
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
        write_atomically(path, _readable_json(fields, self.model_dump(mode="json")["blocks"]))

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, is no JSON, or describes no possible network.
        """
        return read_model(cls, path)


def _readable_json(fields: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in fields.items()]
    rows = ",\n".join(f"    {json.dumps(block)}" for block in blocks)
    return "{\n" + "\n".join(lines) + '\n  "blocks": [\n' + rows + "\n  ]\n}\n"
