"""Import of networks in the configuration format of ProxylessNAS and once-for-all.

The models below are that format, with a single value allowed where an `Architecture` knows no
other: a file that asks for anything else is refused, never approximated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from ..errors import UserError
from ..spaces import Activation, Architecture, MBConvSpec, StrictModel, read_mapping, validate
from . import pyramid

RESOLUTION = 224
"""In pixels. The files do not say it; ProxylessNAS's networks were searched and trained for it."""

NoDropout = Annotated[float, Field(ge=0, le=0)]

ActivationName = Literal["relu6", "relu", "h_swish"]
_ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu6": "relu6",
    "relu": "relu",
    "h_swish": "hswish",
}


def _only(value: Any) -> Any:
    """What a list of one holds: once-for-all lists the channels of a shortcut."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


class _BatchNorm(StrictModel):
    momentum: float
    eps: float


class _Convolution(StrictModel):
    name: Literal["ConvLayer"]
    dilation: Literal[1]
    groups: Literal[1]
    bias: Literal[False]
    has_shuffle: Literal[False]
    in_channels: int
    out_channels: int
    act_func: ActivationName
    dropout_rate: NoDropout
    ops_order: Literal["weight_bn_act"]


class _Stem(_Convolution):
    kernel_size: Literal[3]
    stride: Literal[1, 2]
    use_bn: Literal[True]


class _Pointwise(_Convolution):
    kernel_size: Literal[1]
    stride: Literal[1]


class _FeatureMix(_Pointwise):
    use_bn: Literal[True]


class _PooledMix(_Pointwise):
    use_bn: Literal[False]


class _Classifier(StrictModel):
    name: Literal["LinearLayer"]
    in_features: int
    out_features: int
    bias: Literal[True]
    use_bn: Literal[False]
    act_func: None
    dropout_rate: float
    ops_order: Literal["weight_bn_act"]


class _MBConv(StrictModel):
    name: Literal["MBInvertedConvLayer"]
    in_channels: int
    out_channels: int
    kernel_size: Literal[3, 5, 7]
    stride: Literal[1, 2]
    expand_ratio: Literal[1, 2, 3, 4, 5, 6]
    mid_channels: int | None = None
    act_func: ActivationName = "relu6"
    use_se: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> _MBConv:
        expanded = self.in_channels * self.expand_ratio
        if self.mid_channels not in (None, expanded):
            raise UserError(
                f"mid_channels is {self.mid_channels}, where an expand_ratio of "
                f"{self.expand_ratio} gives {expanded}; an architecture knows whole ratios only"
            )
        return self

    @property
    def operation(self) -> str:
        """The name of it."""
        spec = MBConvSpec(
            self.kernel_size, self.expand_ratio, self.use_se, _ACTIVATIONS[self.act_func]
        )
        return spec.name


class _Zero(StrictModel):
    name: Literal["ZeroLayer"]
    stride: Literal[1]


class _Identity(StrictModel):
    name: Literal["IdentityLayer"]
    in_channels: Annotated[int, BeforeValidator(_only)]
    out_channels: Annotated[int, BeforeValidator(_only)]
    use_bn: Literal[False]
    act_func: None
    dropout_rate: NoDropout
    ops_order: Literal["weight_bn_act"]


class _Block(StrictModel):
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
            name = operation.operation
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


class _Config(StrictModel):
    """What both kinds of network have; each has a chain of layers behind its blocks."""

    bn: _BatchNorm
    first_conv: _Stem
    classifier: _Classifier
    blocks: Annotated[tuple[_Block, ...], Field(min_length=1)]

    def fields(self) -> dict[str, object]:
        """The fields of the `Architecture` that this is, but for its name and its mixes."""
        stem = self.first_conv
        return {
            "resolution": RESOLUTION,
            "num_classes": self.classifier.out_features,
            "stem": {
                "in_channels": stem.in_channels,
                "out_channels": stem.out_channels,
                "stride": stem.stride,
            },
            "blocks": [block.fields() for block in self.blocks],
            "activation": _ACTIVATIONS[stem.act_func],
            "dropout": self.classifier.dropout_rate,
            "batch_norm": {"momentum": self.bn.momentum, "eps": self.bn.eps},
        }

    def _check_head(self, **layers: _Convolution) -> None:
        """That every layer takes what the one before gives, and all have the stem's activation."""
        before, given = "the last block", self.blocks[-1].fields()["out_channels"]
        for name, layer in layers.items():
            if layer.in_channels != given:
                raise UserError(f"{name}.in_channels must be those {before} gives")
            if layer.act_func != self.first_conv.act_func:
                raise UserError(f"{name}.act_func must be that of first_conv")
            before, given = name, layer.out_channels
        if self.classifier.in_features != given:
            raise UserError(f"classifier.in_features must be those {before} gives")


class _ProxylessNAS(_Config):
    name: Literal["ProxylessNASNets"]
    feature_mix_layer: _FeatureMix

    @model_validator(mode="after")
    def _check(self) -> _ProxylessNAS:
        self._check_head(feature_mix_layer=self.feature_mix_layer)
        return self

    def fields(self) -> dict[str, object]:
        return {**super().fields(), "feature_mix": self.feature_mix_layer.out_channels}


class _MobileNetV3(_Config):
    name: Literal["MobileNetV3"]
    final_expand_layer: _FeatureMix
    feature_mix_layer: _PooledMix

    @model_validator(mode="after")
    def _check(self) -> _MobileNetV3:
        self._check_head(
            final_expand_layer=self.final_expand_layer, feature_mix_layer=self.feature_mix_layer
        )
        return self

    def fields(self) -> dict[str, object]:
        return {
            **super().fields(),
            "feature_mix": self.final_expand_layer.out_channels,
            "pooled_mix": self.feature_mix_layer.out_channels,
        }


_KINDS: dict[str, type[_Config]] = {
    "ProxylessNASNets": _ProxylessNAS,
    "MobileNetV3": _MobileNetV3,
}


def import_config(path: str | Path) -> Architecture:
    """The architecture in a file of the ProxylessNAS or once-for-all release, named as the file is.

    Raises:
        UserError: the file cannot be read, holds none of their networks, or asks for something that
            an architecture cannot express.
    """
    value = read_mapping(path)
    if value.get("name") == pyramid.NAME:
        return pyramid.import_pyramid(value, str(path), Path(path).stem)
    kind = _KINDS.get(str(value.get("name")))
    if kind is None:
        raise UserError(
            f"{path}: 'name' is {value.get('name')!r}; import one of "
            f"{', '.join([*_KINDS, pyramid.NAME])}"
        )
    config = validate(kind, value, str(path))
    return validate(Architecture, {"name": Path(path).stem, **config.fields()}, str(path))
