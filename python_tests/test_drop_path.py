"""Branches that are dropped in training: blocks with shortcuts, and trees."""

from __future__ import annotations

import copy

import pytest
import torch
from test_tree import TINY
from tiny_runs import SPACE
from torch import Tensor, nn

from proxyless_ext import Architecture, Network
from proxyless_ext.nn import MBConv, Zero, build_block, set_drop_rates
from proxyless_ext.nn.drop_path import Branch
from proxyless_ext.nn.network import Residual
from proxyless_ext.spaces import BatchNorm, BlockConfig

ARCHITECTURES = {
    "mbconv": SPACE.architecture([1, 3, 1, 2]),  # The second of its blocks is skipped.
    "tree": TINY.architecture([0, 1, 2] * (len(TINY.groups) // 3)),
}
BLOCKS = {
    "mbconv": BlockConfig(operation="k3e2", in_channels=4, out_channels=4, shortcut=True),
    "pool": BlockConfig(operation="avgpool3", in_channels=4, out_channels=4, shortcut=True),
    "tree": BlockConfig(
        operation="tree_split2_copy2",
        in_channels=8,
        out_channels=16,
        stride=2,
        edges=("sep3",) * 6,
    ),
}


def branches(network: nn.Module) -> list[Branch]:
    return [module for module in network.modules() if isinstance(module, Branch)]


@pytest.mark.parametrize(("name", "count"), [("mbconv", 2), ("tree", 3)])
def test_rates_rise_in_proportion_to_depth(name: str, count: int) -> None:
    network = Network(ARCHITECTURES[name])
    set_drop_rates(network, 0.3)
    expected = [0.3 * number / count for number in range(1, count + 1)]
    assert [branch.drop_rate for branch in branches(network)] == pytest.approx(expected)


def built(name: str) -> tuple[nn.Module, Branch, Tensor]:
    """A block in float64, its branch, and pictures."""
    torch.manual_seed(0)
    block = build_block(BLOCKS[name], BatchNorm()).double()
    for norm in block.modules():  # So that no branch begins as another.
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.randn(40, BLOCKS[name].in_channels, 6, 6, dtype=torch.float64)
    (branch,) = branches(block)
    return block, branch, x


@pytest.mark.parametrize("name", BLOCKS)
def test_pictures_get_their_branches_whole_or_not_at_all(name: str) -> None:
    block, branch, x = built(name)
    everything = copy.deepcopy(block)(x)
    # Nothing but the shortcut is left where the whole branch is multiplied by 0.
    alone = copy.deepcopy(block)
    if isinstance(branch, Residual):
        shortcut = x
    else:
        nn.init.zeros_(alone.operation.trunk.norm.weight)
        shortcut = alone(x)
    branch.drop_rate = 0.25
    torch.manual_seed(3)
    found = block(x)
    torch.manual_seed(3)
    kept = torch.empty(40, 1, 1, 1, dtype=torch.float64).bernoulli_(0.75)
    assert 20 < kept.sum() < 38
    torch.testing.assert_close(found, shortcut + kept / 0.75 * (everything - shortcut))


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_is_dropped_but_in_training(name: str) -> None:
    block, branch, x = built(name)
    expected = block.eval()(x)
    branch.drop_rate = 0.9
    state = torch.get_rng_state()
    assert torch.equal(block(x), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_branch_itself_still_runs_fused() -> None:
    block, branch, x = built("mbconv")
    assert isinstance(block.operation, MBConv)
    branch.drop_rate, block.operation.fused = 0.5, True  # Else an error.
    plain = copy.deepcopy(block)
    plain.operation.fused = False
    results = []
    for each in (block, plain):
        torch.manual_seed(1)
        y = each(x)
        y.square().sum().backward()
        results.append([y, *(weight.grad for weight in each.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_networks_without_branches_have_nothing_to_drop() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), Zero())
    set_drop_rates(network, 0.3)
    assert branches(network) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_rate_is_no_part_of_a_network_that_is_handed_over(architecture: Architecture) -> None:
    network = Network(architecture)
    keys = network.state_dict().keys()
    set_drop_rates(network, 0.5)
    assert network.state_dict().keys() == keys
    x = torch.randn(2, 3, architecture.resolution, architecture.resolution)
    graph = torch.export.export(network.eval(), (x,)).graph
    assert not any("bernoulli" in str(node.target) for node in graph.nodes)
