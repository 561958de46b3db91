"""Import of networks in the configuration format of the ProxylessNAS release.

The models below are that format, with a single value allowed where an `Architecture` knows no
other: a file that asks for anything else is refused, never approximated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..errors import UserError
from ..spaces import Architecture, Data, read_mapping, validate

RESOLUTION = 224  # The files do not say it; the networks were searched and trained for it.

NoDropout = Annotated[float, Field(ge=0, le=0)]


class _BatchNorm(Data):
    momentum: float
    eps: float


class _Convolution(Data):
    name: Literal["ConvLayer"]
    dilation: Literal[1]
    groups: Literal[1]
    bias: Literal[False]
    has_shuffle: Literal[False]
    in_channels: int
    out_channels: int
    use_bn: Literal[True]
    act_func: Literal["relu6"]
    dropout_rate: NoDropout
    ops_order: Literal["weight_bn_act"]


class _Stem(_Convolution):
    kernel_size: Literal[3]
    stride: Literal[1, 2]


class _FeatureMix(_Convolution):
    kernel_size: Literal[1]
    stride: Literal[1]


class _Classifier(Data):
    name: Literal["LinearLayer"]
    in_features: int
    out_features: int
    bias: Literal[True]
    use_bn: Literal[False]
    act_func: None
    dropout_rate: float
    ops_order: Literal["weight_bn_act"]


class _MBConv(Data):
    name: Literal["MBInvertedConvLayer"]
    in_channels: int
    out_channels: int
    kernel_size: Literal[3, 5, 7]
    stride: Literal[1, 2]
    expand_ratio: Literal[1, 2, 3, 4, 5, 6]
    mid_channels: None = None  # In files of the search code: no width other than the ratio's.


class _Zero(Data):
    name: Literal["ZeroLayer"]
    stride: Literal[1]


class _Identity(Data):
    name: Literal["IdentityLayer"]
    in_channels: int
    out_channels: int
    use_bn: Literal[False]
    act_func: None
    dropout_rate: NoDropout
    ops_order: Literal["weight_bn_act"]


class _Block(Data):
    name: Literal["MobileInvertedResidualBlock"]
    mobile_inverted_conv: Annotated[_MBConv | _Zero, Field(discriminator="name")]
    shortcut: _Identity | None

    @model_validator(mode="after")
    def _check(self) -> _Block:
        shortcut, operation = self.shortcut, self.mobile_inverted_conv
        if shortcut is None and isinstance(operation, _Zero):
            raise ValueError("a ZeroLayer needs an IdentityLayer as its shortcut")
        if shortcut is not None:
            widths = {shortcut.in_channels, shortcut.out_channels}
            if isinstance(operation, _MBConv):
                widths |= {operation.in_channels, operation.out_channels}
            if len(widths) > 1 or operation.stride > 1:
                raise ValueError("a shortcut needs stride 1 and the same channels throughout")
        return self

    def fields(self) -> dict[str, object]:
        """The fields of the `BlockConfig` that this block is."""
        operation = self.mobile_inverted_conv
        if isinstance(operation, _MBConv):
            name = f"k{operation.kernel_size}e{operation.expand_ratio}"
            shape: _MBConv | _Identity | None = operation
        else:
            name = "zero"
            shape = self.shortcut  # A ZeroLayer states no channels, but its shortcut does.
        assert shape is not None
        return {
            "operation": name,
            "in_channels": shape.in_channels,
            "out_channels": shape.out_channels,
            "stride": operation.stride,
            "shortcut": self.shortcut is not None,
        }


class _Config(Data):
    name: Literal["ProxylessNASNets"]
    bn: _BatchNorm
    first_conv: _Stem
    feature_mix_layer: _FeatureMix
    classifier: _Classifier
    blocks: Annotated[tuple[_Block, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> _Config:
        mix = self.feature_mix_layer
        if mix.in_channels != self.blocks[-1].fields()["out_channels"]:
            raise UserError("feature_mix_layer.in_channels must be those the last block gives")
        if self.classifier.in_features != mix.out_channels:
            raise UserError("classifier.in_features must be those feature_mix_layer gives")
        return self


def import_config(path: str | Path) -> Architecture:
    """The architecture in a configuration file of the ProxylessNAS release, named as the file is.

    Raises:
        UserError: the file cannot be read, holds no mobile network, or asks for something that an
            architecture cannot express.
    """
    value = read_mapping(path)
    if value.get("name") == "PyramidTreeNet":
        raise UserError(
            f"{path} is a network of the CIFAR tree space, which is not supported yet; "
            "import a ProxylessNASNets"
        )
    config = validate(_Config, value, str(path))
    stem = config.first_conv
    fields = {
        "name": Path(path).stem,
        "resolution": RESOLUTION,
        "num_classes": config.classifier.out_features,
        "stem": {
            "in_channels": stem.in_channels,
            "out_channels": stem.out_channels,
            "stride": stem.stride,
        },
        "blocks": [block.fields() for block in config.blocks],
        "feature_mix": config.feature_mix_layer.out_channels,
        "dropout": config.classifier.dropout_rate,
        "batch_norm": {"momentum": config.bn.momentum, "eps": config.bn.eps},
    }
    return validate(Architecture, fields, str(path))
