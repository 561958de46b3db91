"""The space of once-for-all: its networks, its latency table, and a whole search."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import begin, layers, search, tiny_config
from torch import nn
from torchvision.models import MobileNetV3
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from proxyless_ext import Architecture, Network, Space, UserError, spaces, zoo
from proxyless_ext.config import LatencyConfig
from proxyless_ext.latency import Entry, LatencyTable
from proxyless_ext.latency.sampling import draw_uniform, most_probable_within
from proxyless_ext.report import write_report
from proxyless_ext.search.objective import Objective
from proxyless_ext.spaces import Stage, Stem, parse_operation

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "ofa"
TABLE = REFERENCE / "note10_224.yaml"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the published files")


def keys_of(space: Space) -> set[str]:
    """Everything that a latency table of a space needs."""
    return {layer.key for layer in layers(space)}


def as_torchvision(architecture: Architecture) -> nn.Module:
    """The same network of torchvision's layers."""
    settings = []
    for block in architecture.blocks:
        operation = parse_operation(block.operation)
        if not operation.skips:
            settings.append(
                InvertedResidualConfig(
                    input_channels=block.in_channels,
                    kernel=operation.kernel_size,
                    expanded_channels=block.in_channels * operation.expand_ratio,
                    out_channels=block.out_channels,
                    use_se=operation.squeeze,
                    activation={"relu": "RE", "hswish": "HS"}[operation.activation],
                    stride=block.stride,
                    dilation=1,
                    width_mult=1.0,
                )
            )
    norm = partial(nn.BatchNorm2d, eps=architecture.batch_norm.eps)
    classes = architecture.num_classes
    network = MobileNetV3(settings, architecture.pooled_mix, classes, norm_layer=norm)
    pooled_mix = network.classifier[0]  # With a bias there, without one here.
    nn.init.zeros_(pooled_mix.bias)
    pooled_mix.register_parameter("bias", None)
    return network


def test_networks_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    space = spaces.mobilenet_v3(num_classes=10, resolution=33)
    architecture = space.architecture(draw_uniform(space.counts, random.Random(0)))
    assert any(block.operation == "zero" for block in architecture.blocks)
    theirs = as_torchvision(architecture)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    ours = Network(architecture)
    pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict({name: value.view_as(mine) for (name, mine), value in pairs})
    x = torch.randn(2, 3, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_stages_have_two_blocks_to_four() -> None:
    space = spaces.mobilenet_v3()
    first, *searched = space.edges
    assert (first.candidates, first.shortcut) == (("k3e1_relu",), True)
    assert [len(edge.candidates) for edge in searched] == [9, 9, 10, 10] * 5
    assert space.num_networks == (9 * 9 * 10 * 10) ** 5
    assert [edge.stride for edge in searched] == [s for s in (2, 2, 2, 1, 2) for s in (s, 1, 1, 1)]


def test_a_space_is_saved_and_loaded(tmp_path: Path) -> None:
    space = spaces.mobilenet_v3(width_mult=1.2)
    space.save(tmp_path / "space.yaml")
    assert Space.load(tmp_path / "space.yaml") == space


@needs_reference
def test_the_published_table_has_just_the_layers_of_the_space() -> None:
    keys = keys_of(spaces.mobilenet_v3(width_mult=1.2))
    assert keys == set(yaml.safe_load(TABLE.read_text()))


@needs_reference
def test_a_published_network_is_one_of_the_space() -> None:
    network = zoo.import_config(REFERENCE / "note10_lat-11ms_top1-73.6_finetune-25.config")
    space, left, choices = spaces.mobilenet_v3(), list(network.blocks), []
    for edge in space.edges:
        fits = left and left[0] in [edge.block(name) for name in edge.candidates]
        choices.append(edge.candidates.index(left.pop(0).operation if fits else "zero"))
    found = space.architecture(choices, network.name)
    blocks = tuple(block for block in found.blocks if block.operation != "zero")
    assert found.model_copy(update={"blocks": blocks}) == network


@needs_reference
def test_eleven_milliseconds_on_that_phone() -> None:
    """Out of reach at depths 2 to 4 and width 1.2, but not where more can be left out."""
    table, config = LatencyTable.load(TABLE), LatencyConfig(target="11ms")
    with pytest.raises(UserError, match=r"11 ms is out of reach: .* take 17\.77 to 92\.4 ms"):
        Objective.of_space(spaces.mobilenet_v3(width_mult=1.2), table, config)
    space = Space.load(ROOT / "configs/spaces/note10.yaml")
    objective = Objective.of_space(space, table, config)
    costs = objective.costs
    torch.manual_seed(0)
    alpha = torch.randn(costs.edges.shape).where(costs.exists, -torch.inf)
    alpha = alpha + objective.pricing.charge(alpha)
    assert objective.expected(alpha.softmax(1)).item() == pytest.approx(11, abs=1e-4)
    band = (10.45 - costs.fixed, 11.55 - costs.fixed)
    (choices,) = most_probable_within(alpha.log_softmax(1), costs.edges, *band)
    assert 10.45 <= table.predict(space.architecture(choices)) <= 11.55


def test_what_a_table_lacks_is_listed_at_once() -> None:
    """Of another number of classes the classifier alone, of another width everything."""
    space = spaces.mobilenet_v3(num_classes=10, width_mult=0.25, resolution=32)
    keys = keys_of(space)
    table = LatencyTable(dict.fromkeys(keys, Entry(count=1, mean=1, var=0)))
    with pytest.raises(UserError, match=r"lacks 1 of \d+ layers.*: Logits-input:1x1x320-output:7$"):
        table.costs(space.with_classes(7))
    with pytest.raises(UserError, match=rf"lacks {len(keys)} of {len(keys)} layers") as error:
        table.costs(spaces.mobilenet_v3(num_classes=11, resolution=32))
    assert str(error.value).count("expanded_conv-") == len(keys) - 5


TINY = Space(
    name="tiny_v3",
    resolution=8,
    num_classes=10,
    stem=Stem(out_channels=4, stride=1),
    stages=(
        Stage(channels=4, cells=1, candidates=("k3e1_relu",)),
        Stage(channels=4, cells=1, candidates=("k3e2_relu", "k5e2_relu", "zero")),
        Stage(channels=6, cells=1, stride=2, candidates=("k3e2_se_hswish",)),
        Stage(channels=6, cells=2, candidates=("k3e2_se_hswish", "k5e3_se_hswish", "zero")),
    ),
    activation="hswish",
    feature_mix=8,
    pooled_mix=12,
)


def test_fixed_blocks_stand_anywhere_in_a_search(tmp_path: Path) -> None:
    """One candidate is no choice: from the latency target to the report nothing minds."""
    settings = {"checkpoint_seconds": 60, "warmup.epochs": 1, "search.epochs": 2, "train.epochs": 1}
    run = begin(tmp_path / "run", tiny_config(tmp_path, settings, TINY))
    result = search(run)
    found = Architecture.load(run.outcome.architecture_path)
    assert [block.operation for block in found.blocks][::2][:2] == ["k3e1_relu", "k3e2_se_hswish"]
    assert (found.activation, found.pooled_mix) == ("hswish", 12)
    assert result.onnx_max_difference is not None
    assert result.onnx_max_difference < 1e-4
    report = write_report(run.folder).read_text()
    assert "behind the pooling" in report
    assert "to be chosen at each of 3 edges" in report
