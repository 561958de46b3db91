"""The format of the network that ProxylessNAS published for CIFAR-10: a pyramid of trees.

It nests every layer with all its settings. What an `Architecture` says of it is read, and all the
rest must be as such a network needs it: the file is compared with the one that the architecture
would have.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar, cast

from ..errors import UserError
from ..spaces import (
    Architecture,
    BlockConfig,
    PoolSpec,
    SeparableSpec,
    TreeSpec,
    parse_operation,
    validate,
)
from ..spaces.tree import GROUPS

NAME = "PyramidTreeNet"

Config = dict[str, Any]
Place = tuple[str | int, ...]
Value = TypeVar("Value")


def import_pyramid(config: Config, source: str, name: str) -> Architecture:
    """The architecture in a file of this format.

    Args:
        config: what the file holds.
        source: the file, for messages.
        name: of the architecture.

    Raises:
        UserError: naming the first place where the file is not such a network.
    """
    try:
        fields = _fields(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    architecture = validate(Architecture, {"name": name, **fields}, source)
    for place, problem in _differences(config, _config(architecture, "bn" in config), ()):
        raise UserError(f"{source}: '{_dotted(place)}' {problem}")
    return architecture


def _fields(config: Config) -> Config:
    """The fields of the architecture, but for its name."""
    blocks = _at(config, list, "blocks")
    if len(blocks) < 3:
        raise UserError(f"'blocks' holds {len(blocks)}; a network has a stem, blocks and a pooling")
    middle = [_block(config, index) for index in range(1, len(blocks) - 1)]
    strides = math.prod(block["stride"] for block in middle)
    stem, pool = ("blocks", 0, "layers", 0), ("blocks", len(blocks) - 1, "layers", 0)
    return {
        "resolution": _at(config, int, *pool, "kernel_size") * strides,
        "num_classes": _at(config, int, "classifier", "out_features"),
        "stem": {
            "in_channels": _at(config, int, *stem, "in_channels"),
            "out_channels": _at(config, int, *stem, "out_channels"),
            "stride": 1,
        },
        "blocks": middle,
        "activation": "relu",
        "pre_activation": True,
        "batch_norm": config.get("bn", {"eps": 1e-5}),  # PyTorch's, where the file has none.
    }


def _block(config: Config, index: int) -> Config:
    """The fields of the `BlockConfig` that a block is."""
    place = ("blocks", index)
    levels, names = [], []
    nodes: list[Place] = [(*place, "cell", "child_nodes", 0)]
    while True:
        numbers = {len(_at(config, list, *node, "edges")): node for node in nodes}
        if len(numbers) > 1:
            raise UserError(
                f"'{_dotted(nodes[0])}' and others of its level have {sorted(numbers)} edges; all "
                "need the same number"
            )
        (number,) = numbers
        levels.append(f"{_at(config, str, *nodes[0], 'split_type')}{number}")
        branches = [(node, each) for node in nodes for each in range(number)]
        names += [_operation(config, (*node, "edges", each)) for node, each in branches]
        nodes = [(*node, "child_nodes", each) for node, each in branches]
        if not nodes or _at(config, object, *nodes[0]) is None:
            break
    return {
        "operation": _parsed("_".join(["tree", *levels]), (*place, "cell")),
        "in_channels": _at(config, int, *place, "in_bottle", "in_channels"),
        "out_channels": _at(config, int, *place, "out_bottle", "out_channels"),
        "stride": _at(config, int, *place, "cell", "edges", 0, "stride"),
        "edges": names,
    }


def _operation(config: Config, place: Place) -> str:
    """The name of the operation at an edge."""
    layer = _at(config, str, *place, "name")
    if layer == "IdentityLayer":
        return "identity"
    if layer not in ("DepthConvLayer", "PoolingLayer"):
        raise UserError(f"'{_dotted(place)}' is a {layer}, which is no candidate of an edge")
    kernel = _at(config, int, *place, "kernel_size")
    if layer == "PoolingLayer":
        name = f"{_at(config, str, *place, 'pool_type')}pool{kernel}"
    else:
        dilation = _at(config, int, *place, "dilation")
        name = f"sep{kernel}" + (f"d{dilation}" if dilation > 1 else "")
    return _parsed(name, place)


def _parsed(name: str, place: Place) -> str:
    try:
        return parse_operation(name).name
    except UserError as error:
        raise UserError(f"'{_dotted(place)}' would be '{name}', which is no operation") from error


def _at(config: Config, kind: type[Value], *place: str | int) -> Value:
    """What stands at a place of a file."""
    value: Any = config
    for depth, key in enumerate(place):
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"'{_dotted(place[: depth + 1])}' is missing") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = reprlib.repr(value)
        raise UserError(f"'{_dotted(place)}' is {found}, where a {kind.__name__} must be")
    return value


def _dotted(place: Iterable[str | int]) -> str:
    return ".".join(map(str, place))


def _differences(found: Any, wanted: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Where a file is not as it must be, and how."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            if key in found:
                yield from _differences(found[key], wanted[key], (*place, key))
            else:
                yield (*place, key), "is missing"
        for key in found.keys() - wanted.keys():
            yield (*place, key), "is unknown; remove it or correct its spelling"
    elif isinstance(found, list) and isinstance(wanted, list):
        for index, pair in enumerate(zip(found, wanted, strict=False)):
            yield from _differences(*pair, (*place, index))
        if len(found) != len(wanted):
            yield place, f"holds {len(found)}, where such a network has {len(wanted)}"
    elif found != wanted or isinstance(found, bool) is not isinstance(wanted, bool):
        told = "something else" if isinstance(wanted, dict | list) else repr(wanted)
        yield place, f"is {reprlib.repr(found)}, where such a network has {told}"


def _config(architecture: Architecture, has_bn: bool) -> Config:
    """The file of an architecture."""
    stem, last = architecture.stem, architecture.blocks[-1].out_channels
    strides = math.prod(block.stride for block in architecture.blocks)
    pool = architecture.resolution // strides
    blocks = [
        _transition(
            _convolution(stem.in_channels, stem.out_channels, 3, bn=False, relu=False),
            _identity(stem.out_channels, bn=True),
        ),
        *map(_block_config, architecture.blocks),
        _transition(_pooling(last, "avg", pool, pool, relu=True)),
    ]
    classifier = {
        "name": "LinearLayer",
        "in_features": last,
        "out_features": architecture.num_classes,
        "bias": True,
        **_settings(bn=False, relu=False),
    }
    bn = {"bn": architecture.batch_norm.model_dump()} if has_bn else {}
    return {"name": NAME, **bn, "blocks": blocks, "classifier": classifier}


def _transition(*layers: Config) -> Config:
    return {"name": "TransitionBlock", "layers": list(layers)}


def _block_config(block: BlockConfig) -> Config:
    spec = cast(TreeSpec, parse_operation(block.operation))
    width = block.inside[0].in_channels
    root_width = width * spec.branches[0] if spec.splits else width
    root = _convolution(width, root_width, 3, block.stride, GROUPS, shuffle=True)
    names = iter(block.edges)
    levels = [[*islice(names, size)] for size in spec.level_sizes]
    shortcut = _identity(block.in_channels)
    if block.stride > 1:
        shortcut = _pooling(block.in_channels, "avg", block.stride, block.stride)
    return {
        "name": "ResidualTreeBlock",
        "cell_drop_rate": 0,
        "final_bn": True,
        "shortcut": shortcut,
        "in_bottle": _convolution(block.in_channels, width, 1, relu=False),
        "out_bottle": _convolution(width, block.out_channels, 1),
        "cell": {
            **_node(width, width, None, None),
            "edges": [root],
            "child_nodes": [_tree(spec, levels, width, 0)],
        },
    }


def _tree(spec: TreeSpec, levels: list[list[str]], width: int, node: int) -> Config:
    """A node, which has the first of `levels` below it, and is the `node`-th of its own."""
    names, *below = levels
    level = len(spec.branches) - len(levels)
    number = spec.branches[level]
    splits = spec.splits and level == 0
    places = range(node * number, (node + 1) * number)
    return {
        **_node(number * width if splits else width, width, "split" if splits else "copy", "add"),
        "has_branch_bn": level == 0 and bool(below),
        "edges": [_edge(names[place], width) for place in places],
        "child_nodes": [_tree(spec, below, width, place) if below else None for place in places],
    }


def _node(in_channels: int, out_channels: int, split: str | None, merge: str | None) -> Config:
    return {
        "name": "TreeNode",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "split_type": split,
        "merge_type": merge,
        "has_branch_bn": False,
        "path_drop_rate": 0,
    }


def _edge(name: str, width: int) -> Config:
    spec = parse_operation(name)
    if isinstance(spec, PoolSpec):
        return _pooling(width, spec.kind, 3, 1)
    if isinstance(spec, SeparableSpec):
        layer = _convolution(width, width, spec.kernel_size, dilation=spec.dilation)
        return {**layer, "name": "DepthConvLayer"}
    return _identity(width)


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    shuffle: bool = False,
    bn: bool = True,
    relu: bool = True,
) -> Config:
    return {
        "name": "ConvLayer",
        "kernel_size": kernel_size,
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": False,
        "has_shuffle": shuffle,
        "in_channels": in_channels,
        "out_channels": out_channels,
        **_settings(bn, relu),
    }


def _pooling(channels: int, kind: str, kernel_size: int, stride: int, relu: bool = False) -> Config:
    return {
        "name": "PoolingLayer",
        "pool_type": kind,
        "kernel_size": kernel_size,
        "stride": stride,
        "in_channels": channels,
        "out_channels": channels,
        **_settings(bn=relu, relu=relu),
    }


def _identity(channels: int, bn: bool = False) -> Config:
    return {
        "name": "IdentityLayer",
        "in_channels": channels,
        "out_channels": channels,
        **_settings(bn, relu=False),
    }


def _settings(bn: bool, relu: bool) -> Config:
    return {
        "use_bn": bn,
        "act_func": "relu" if relu else None,
        "dropout_rate": 0,
        "ops_order": "bn_act_weight",
    }
