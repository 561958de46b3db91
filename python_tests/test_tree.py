"""Trees: their blocks beside an independent forward, their space, and its supernet's gates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from explicit_gates import explicit_gates
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from typer.testing import CliRunner

from proxyless_ext import Architecture, Network, Space, SuperNet, UserError
from proxyless_ext.cli import app
from proxyless_ext.export import export_onnx
from proxyless_ext.latency import Conditions, measure_table
from proxyless_ext.latency.counting import count_layers, count_table
from proxyless_ext.nn import count_macs, count_parameters
from proxyless_ext.nn.operations import build_operation
from proxyless_ext.nn.tree import Tree
from proxyless_ext.spaces import (
    TREE_CANDIDATES,
    BatchNorm,
    BlockConfig,
    SearchedBlock,
    Stage,
    Stem,
    cifar_tree,
    parse_operation,
)

TINY = cifar_tree(
    num_classes=3,
    width_mult=0.2,
    resolution=6,
    blocks=1,
    tree="tree_split2_copy2",
    candidates=("identity", "sep3", "maxpool3"),
)


def normalised(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """By the batch's statistics."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, shift = (each[:, None, None] for each in (bn.weight, bn.bias))
    return (x - mean) / (variance + bn.eps).sqrt() * scale + shift


def described(tree: Tree, x: Tensor, splits: bool, branches: Sequence[int]) -> Tensor:
    """What a block makes of x, written down level by level from the paper's description."""
    trunk, stride = tree.trunk, tree.trunk.root.conv.stride[0]
    cell = F.conv2d(normalised(x, trunk.enter.bn), trunk.enter.conv.weight)
    cell = F.conv2d(
        normalised(cell, trunk.root.bn).relu(),
        trunk.root.conv.weight,
        stride=stride,
        padding=1,
        groups=2,
    )
    half = cell.shape[1] // 2
    cell = torch.stack([cell[:, :half], cell[:, half:]], 2).flatten(1, 2)  # Shuffled.
    first = branches[0]
    inputs = [*cell.split(cell.shape[1] // first, 1)] if splits else [cell] * first
    edges, levels = iter(tree.edges), []
    for number in [*branches[1:], 0]:
        levels.append([next(edges)(each) for each in inputs])
        inputs = [each for each in levels[-1] for _ in range(number)]
    outputs = levels.pop()
    for number in reversed(branches[1:]):
        sums = [sum(outputs[i : i + number]) for i in range(0, len(outputs), number)]
        above = levels.pop()
        if levels:
            outputs = sums
        else:
            norms = [normalised(y, bn) for y, bn in zip(sums, trunk.norms, strict=True)]
            outputs = [a + b for a, b in zip(norms, above, strict=True)]
    cell = F.conv2d(normalised(sum(outputs), trunk.leave.bn).relu(), trunk.leave.conv.weight)
    if stride == 2:
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    zeros = x.new_zeros(len(x), cell.shape[1] - x.shape[1], *x.shape[2:])
    return normalised(cell, trunk.norm) + torch.cat([x, zeros], 1)


@given(
    kind=st.sampled_from(["split", "copy"]),
    branches=st.lists(st.integers(2, 3), min_size=1, max_size=3),
    stride=st.sampled_from([1, 2]),
    added=st.integers(0, 5),
    data=st.data(),
)
def test_a_block_is_the_one_described(
    kind: str, branches: list[int], stride: int, added: int, data: st.DataObject
) -> None:
    name = f"tree_{kind}" + "_copy".join(map(str, branches))
    spec = parse_operation(name)
    assert spec.name == name
    names = [data.draw(st.sampled_from(TREE_CANDIDATES)) for _ in spec.edges(16)]
    config = block(name, 16 - added, 16, stride, names)
    torch.manual_seed(0)
    tree = build_operation(config, BatchNorm(eps=1e-5)).double()
    assert isinstance(tree, Tree)
    for bn in tree.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.normal_(bn.weight, 1, 0.3)
            nn.init.normal_(bn.bias)
    x = torch.randn(2, 16 - added, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(tree(x), described(tree, x, kind == "split", branches))


def block(
    name: str, in_channels: int, out_channels: int, stride: Any, edges: Sequence[str]
) -> BlockConfig:
    return BlockConfig(
        operation=name,
        in_channels=in_channels,
        out_channels=out_channels,
        stride=stride,
        edges=tuple(edges),
    )


def test_odd_sizes_are_rounded_up() -> None:
    tree = build_operation(block("tree_copy2", 8, 16, 2, ["sep3", "identity"]), BatchNorm())
    assert tree(torch.randn(2, 8, 5, 7)).shape == (2, 16, 3, 4)


def test_a_trunk_is_the_block_with_identities() -> None:
    config = block("tree_split2_copy2", 12, 16, 1, ["identity"] * 6)
    tree = build_operation(config, BatchNorm()).eval()
    x = torch.randn(2, 12, 5, 5)
    torch.testing.assert_close(tree.layers[0](x), tree(x), rtol=0, atol=0)


def test_layers_add_up_to_the_network() -> None:
    architecture = TINY.architecture([index % 3 for index in range(len(TINY.groups))])
    network = Network(architecture)
    layers = architecture.layers()
    assert [layer.kind for layer in layers] == [
        "stem",
        *(["trunk"] + ["block"] * 6) * 3,
        "norm",
        "classifier",
    ]
    counts = count_layers([architecture])
    assert sum(counts[layer.key].parameters for layer in layers) == count_parameters(network)
    assert sum(counts[layer.key].macs for layer in layers) == count_macs(network, 6)
    assert layers[8].key == ("tree_split2_copy2-input:6x6x32-output:3x3x56-stride:2-idskip:0")
    assert layers[10].key == "sep3-input:3x3x14-output:3x3x14-stride:1-idskip:0"
    assert layers[-2].key == "Norm-input:2x2x80-output:2x2x80"


def test_costs_of_a_space_are_those_of_its_networks() -> None:
    table = count_table(TINY, "parameters")
    costs = table.costs(TINY)
    for choices in ([0] * 18, [1] * 18, [index % 3 for index in range(18)]):
        network = Network(TINY.architecture(choices))
        chosen = costs.edges[range(18), choices].sum()
        assert costs.fixed + chosen == count_parameters(network)


def test_all_layers_of_a_space_are_measured() -> None:
    table = measure_table(TINY, Conditions(backend="eager", repetitions=1))
    keys = {layer.key for row in TINY.edge_layers() for layer in row}
    assert table.entries.keys() == keys | {layer.key for layer in TINY.fixed_layers()}
    assert 0 < table.bounds(TINY)[0] < table.bounds(TINY)[1]


def test_an_architecture_is_readable_json(tmp_path: Path) -> None:
    architecture = TINY.architecture([1] * 18)
    architecture.save(path := tmp_path / "tree.json")
    assert Architecture.load(path) == architecture
    lines = path.read_text().splitlines()
    assert sum('"edges": ["sep3", "sep3", ' in line for line in lines) == 3
    assert all(len(json.loads(f"[{line.rstrip(',')}]")) == 1 for line in lines if "edges" in line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": ["sep3"]}, "'tree_copy2' has 2 edges inside, and 'edges' names 1"),
        ({"edges": ["sep3", "zero"]}, "operation 'zero' needs a shortcut"),
        ({"edges": ["sep3", "sep9"]}, "'sep9' is not an operation"),
        (
            {"edges": ["sep3", "tree_copy3"], "out_channels": 64},
            "'tree_copy3' has 3 edges inside, and 'edges' names 0",
        ),
        ({"out_channels": 20}, "its width must be a multiple of 8"),
        ({"out_channels": 8}, "no smaller than the one before"),
        ({"operation": "sep3"}, "'sep3' has 0 edges inside, and 'edges' names 2"),
        ({"operation": "tree_split2_split2"}, "is not an operation"),
    ],
)
def test_impossible_blocks_are_refused(change: dict[str, Any], message: str) -> None:
    fields = {
        "operation": "tree_copy2",
        "in_channels": 16,
        "out_channels": 16,
        "edges": ["sep3", "identity"],
    }
    assert BlockConfig(**fields)
    with pytest.raises(UserError, match=message):
        BlockConfig(**{**fields, **change})


def test_a_network_has_the_mixes_of_its_kind() -> None:
    fields = TINY.architecture([0] * 18).model_dump()
    with pytest.raises(UserError, match="with pre_activation has neither feature_mix"):
        Architecture(**{**fields, "feature_mix": 8})
    with pytest.raises(UserError, match="the key 'feature_mix' is missing"):
        Architecture(**{**fields, "pre_activation": False})


def test_the_space_at_full_size() -> None:
    space = cifar_tree()
    assert (len(space.edges), space.num_networks) == (756, 7**756)
    assert [len(block.edges) for block in space.searched_blocks] == [14] * 54
    channels = [16, *(block.out_channels for block in space.searched_blocks)]
    assert [block.in_channels for block in space.searched_blocks] == channels[:-1]
    assert channels[1:8] == [72, 72, 80, 88, 96, 96, 104]
    assert channels[18:20] == [176, 184]
    assert channels[-1] == 400
    strides = [block.stride for block in space.searched_blocks]
    assert [index for index, stride in enumerate(strides) if stride == 2] == [18, 36]


def test_a_space_is_yaml(tmp_path: Path) -> None:
    TINY.save(path := tmp_path / "space.yaml")
    assert Space.load(path) == TINY
    assert TINY.searched_blocks[1] == SearchedBlock(
        32, 56, 2, "tree_split2_copy2", TINY.edges[6:12]
    )


def test_trees_stand_beside_other_blocks_and_share_choices() -> None:
    space = Space(
        name="both",
        resolution=8,
        num_classes=3,
        stem=Stem(out_channels=8, stride=1),
        candidates=("sep3", "avgpool3", "zero"),
        stages=(
            Stage(channels=8, cells=1),
            Stage(channels=8, cells=2, block="tree_copy2", group="cell"),
            Stage(channels=16, cells=1, stride=2),
        ),
        feature_mix=8,
    )
    assert space.counts == (3, 2, 2, 1)
    assert [group.indices for group in space.groups] == [(0,), (1, 3), (2, 4), (5,)]
    architecture = space.architecture([2, 0, 1, 0])
    assert [block.chosen for block in architecture.blocks] == [
        ("zero",),
        ("sep3", "avgpool3"),
        ("sep3", "avgpool3"),
        ("sep3",),
    ]
    supernet = SuperNet(space)
    assert len(supernet.edges.groups) == 4
    assert supernet(torch.randn(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width_mult": 0}, "width_mult is 0"),
        ({"blocks": 0}, "blocks is 0"),
        ({"growth": -1}, "growth -1"),
        ({"tree": "k3e6"}, "'k3e6' has no edges inside"),
        ({"tree": "tree"}, "'tree' is not an operation"),
        ({"candidates": ("tree_copy2",)}, "'tree_copy2' has edges inside; give it as 'block'"),
        ({"candidates": ("zero",)}, "edge 0 .* has no candidate that fits"),
        ({"candidates": ("conv3g4",), "width_mult": 0.2}, "edge 14 .* has no candidate that fits"),
    ],
)
def test_impossible_spaces_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cifar_tree(**{"blocks": 1, **settings})


def test_widths_that_do_not_fit_are_refused_by_their_block() -> None:
    stages = [Stage(channels=16, cells=1), Stage(channels=20, cells=1)]
    with pytest.raises(UserError, match=r"searched block 1: .* 16 to 20 .* a multiple of 8"):
        Space(**{**TINY.model_dump(), "stages": stages})


@pytest.fixture
def supernet() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(TINY).double()


def test_a_derived_network_is_the_active_path(supernet: SuperNet) -> None:
    choices = [index % 3 for index in range(18)]
    supernet.edges.activate(choices)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    network = supernet.derive(choices, "found")
    assert network.architecture == TINY.architecture(choices, "found")
    torch.testing.assert_close(network(x), supernet(x), rtol=0, atol=0)


def test_gates_have_the_gradients_of_autograd_through_all_candidates(supernet: SuperNet) -> None:
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1])
    edges, seen = supernet.edges, set()
    for seed in range(6):
        with edges.gate_step("full", torch.Generator().manual_seed(seed)) as step:
            F.cross_entropy(supernet(x), labels).backward()
        with explicit_gates(supernet, tuple(edges.active)) as binary:
            loss = F.cross_entropy(supernet(x), labels)
        expected = pad_sequence(list(torch.autograd.grad(loss, binary)), batch_first=True)
        torch.testing.assert_close(step.gates.grad, expected, rtol=1e-9, atol=1e-12)
        seen |= set(enumerate(edges.active))
    assert seen >= set(itertools.product(range(2), range(3)))


def test_onnx_runtime_computes_the_same(tmp_path: Path) -> None:
    stages = (
        Stage(channels=16, cells=1, block="tree_split2_copy2"),
        Stage(channels=24, cells=1, stride=2, block="tree_copy2"),
    )
    space = Space(
        **{**TINY.model_dump(), "resolution": 5, "stages": stages, "candidates": TREE_CANDIDATES}
    )
    torch.manual_seed(0)
    network = Network(space.architecture([index % 7 for index in range(8)]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.randn(16, 3, 5, 5))  # One step of momentum 1: statistics of real inputs.
    assert export_onnx(network, 5, tmp_path / "network.onnx") < 1e-5


@pytest.mark.slow
def test_a_search_from_end_to_end(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"train.epochs": 1}, TINY.with_classes(10))
    (tmp_path / "settings.yaml").write_text(config.model_dump_json())
    run = tmp_path / "run"

    def proxyless(*arguments: object) -> None:
        found = CliRunner().invoke(app, [*map(str, arguments)])
        assert found.exit_code == 0, found.output

    proxyless("search", "--config", tmp_path / "settings.yaml", "--out", run)
    architecture = Architecture.load(run / "architecture.json")
    assert all(len(block.edges) == 6 for block in architecture.blocks)
    proxyless("evaluate", run)
    proxyless("verify", run)
    page = (run / "report.html").read_text()
    assert "1 to 6" in page
    assert len(page) < 1e6
