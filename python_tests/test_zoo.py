"""The zoo against the table of the published networks, and the yardsticks against torchvision."""

import pytest
import torch
from torchvision import models

from proxyless_ext import Network, UserError, zoo
from proxyless_ext.nn import count_macs, count_parameters
from proxyless_ext.spaces import TREE_CANDIDATES, cifar_tree

MOBILE = (
    "k5e3 k3e3 - -|k7e3 k3e3 k5e3 k5e3|k7e6 k5e3 k5e3 k5e3|"
    "k5e6 k5e3 k5e3 k5e3|k7e6 k7e6 k7e3 k7e3|k7e6"
)
STRIDES = (2, 2, 2, 1, 2, 1)

# Widths of the first block and of the stages; the stages ("-" is skipped); stem, feature mix,
# dropout, parameters, multiply-accumulates at 224 pixels.
PUBLISHED = {
    "proxyless_gpu": (
        (24, 32, 56, 112, 128, 256, 432),
        "k5e3 - - -|k7e3 - - k3e3|k7e6 - - k5e3|k5e6 - k3e3 k5e3|k7e6 k7e6 k7e6 k5e6|k7e6",
        (40, 1728, 0.3, 7_119_848, 465_260_160),
    ),
    "proxyless_cpu": (
        (24, 32, 48, 88, 104, 216, 360),
        "k3e6 k3e3 k3e3 k3e3|k3e6 k3e3 k3e3 k5e3|k3e6 - - k3e3|"
        "k5e6 k3e3 k3e3 k3e3|k5e6 k5e3 k5e3 k3e3|k5e6",
        (40, 1432, 0.2, 4_361_648, 439_243_864),
    ),
    "proxyless_mobile": (
        (16, 32, 40, 80, 96, 192, 320),
        MOBILE,
        (32, 1280, 0.1, 4_080_512, 320_427_584),
    ),
    "proxyless_mobile_14": (
        (24, 40, 56, 112, 136, 256, 448),
        MOBILE,
        (48, 1792, 0.3, 6_857_568, 580_883_408),
    ),
}


def test_names_lists_published_networks_then_yardsticks():
    assert list(zoo.IMAGENET) == list(PUBLISHED)
    assert zoo.names() == [*PUBLISHED, "proxyless_cifar", "mobilenet_v2", "mnasnet1_0"]
    assert set(zoo.RESULTS) <= set(zoo.names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_architecture_is_the_published_one(name):
    (first, *widths), stages, (stem, feature_mix, dropout, _, _) = PUBLISHED[name]
    architecture = zoo.architecture(name)
    assert (architecture.name, architecture.resolution) == (name, 224)
    assert (architecture.num_classes, architecture.classes) == (1000, None)
    assert (architecture.stem.in_channels, architecture.stem.out_channels) == (3, stem)
    assert (architecture.stem.stride, architecture.feature_mix) == (2, feature_mix)
    assert architecture.dropout == dropout
    assert (architecture.batch_norm.momentum, architecture.batch_norm.eps) == (0.1, 1e-3)

    blocks = iter(architecture.blocks)
    head = next(blocks)
    assert (head.operation, head.in_channels, head.out_channels) == ("k3e1", stem, first)
    assert (head.stride, head.shortcut) == (1, False)
    previous = first
    for width, operations, stride in zip(widths, stages.split("|"), STRIDES, strict=True):
        for cell, operation in enumerate(operations.split()):
            block = next(blocks)
            assert block.operation == operation.replace("-", "zero")
            assert (block.in_channels, block.out_channels) == (previous, width)
            assert block.stride == (stride if cell == 0 else 1)
            assert block.shortcut == (cell > 0)
            previous = width
    assert next(blocks, None) is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_network_has_the_published_size(name):
    _, _, (*_, parameters, macs) = PUBLISHED[name]
    network = zoo.build(name)
    assert count_parameters(network) == parameters
    assert count_macs(network, 224) == macs


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mobilenet_v2", models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("mnasnet1_0", models.MNASNet1_0_Weights.IMAGENET1K_V1),
    ],
)
def test_yardstick_has_the_size_torchvision_states(name, weights):
    network = zoo.build(name)
    assert count_parameters(network) == weights.meta["num_params"]
    assert count_macs(network, 224) / 1e9 == pytest.approx(weights.meta["_ops"], abs=1e-3)


def test_the_network_for_cifar10_is_the_published_one():
    architecture = zoo.architecture("proxyless_cifar")
    assert (architecture.resolution, architecture.num_classes) == (32, 10)
    assert architecture.classes[:2] == ("airplane", "automobile")
    network = zoo.build("proxyless_cifar")
    assert count_parameters(network) == 5_731_530
    assert count_macs(network, 32) == 1_213_155_872
    chosen = [name for block in architecture.blocks for name in block.chosen]
    counts = [chosen.count(name) for name in TREE_CANDIDATES]
    assert counts == [204, 83, 85, 116, 90, 89, 89]  # Of the 756 edges.


def test_the_network_for_cifar10_is_one_of_its_space():
    space, published = cifar_tree(), zoo.architecture("proxyless_cifar")
    names = (name for block in published.blocks for name in block.chosen)
    choices = [edge.candidates.index(name) for edge, name in zip(space.edges, names, strict=True)]
    derived = space.architecture(choices, "proxyless_cifar")
    assert derived == published.model_copy(update={"classes": None})


@pytest.mark.parametrize("name", zoo.names())
def test_network_takes_any_resolution_and_number_of_classes(name):
    network = zoo.build(name, num_classes=7).eval()
    with torch.no_grad():
        for size in (32, 45):
            assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_number_of_classes_changes_the_classifier_alone():
    ten = zoo.build("proxyless_mobile", num_classes=10)
    assert isinstance(ten, Network)
    assert ten.architecture.num_classes == 10
    thousand = PUBLISHED["proxyless_mobile"][2][3]
    assert thousand - count_parameters(ten) == 990 * (1280 + 1)


@pytest.mark.parametrize("name", ["proxyless_mobile", "mobilenet_v2"])
def test_weights_are_fresh(name):
    torch.manual_seed(0)
    first, second = zoo.build(name), zoo.build(name)
    torch.manual_seed(0)
    again = zoo.build(name)
    for a, b, c in zip(first.parameters(), second.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, c)
        if a.dim() > 1:
            assert not torch.equal(a, b)


@pytest.mark.parametrize("make", [zoo.build, zoo.architecture])
@pytest.mark.parametrize("name", ["proxyless", "", "../zoo/proxyless_gpu", "proxyless_cifar100"])
def test_unknown_name_lists_the_known_ones(make, name):
    with pytest.raises(UserError) as error:
        make(name)
    assert f"'{name}'" in str(error.value)
    assert all(known in str(error.value) for known in zoo.names())


def test_yardstick_has_no_architecture():
    with pytest.raises(UserError, match=r"'mnasnet1_0' comes from torchvision.*zoo\.build"):
        zoo.architecture("mnasnet1_0")


@pytest.mark.parametrize("name", ["proxyless_gpu", "mobilenet_v2"])
def test_no_classes_is_an_error(name):
    with pytest.raises(UserError, match=rf"^{name}.* 0\b"):
        zoo.build(name, num_classes=0)
