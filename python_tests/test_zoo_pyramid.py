"""Import of the released network for CIFAR-10: faithful, or refused with the place."""

import json
from functools import partial
from pathlib import Path

import pytest
from published_configs import import_values, leaves, value_at, with_value

from proxyless_ext import Network, UserError, zoo
from proxyless_ext.nn import count_macs, count_parameters
from proxyless_ext.spaces import Architecture, BatchNorm, BlockConfig, Stem

RELEASED = Path(__file__).parents[2] / "shared" / "reference" / "proxyless_cifar.config"


def layer(name, in_channels, out_channels=None, use_bn=False, act_func=None, **settings):
    return {
        "name": name,
        **settings,
        "in_channels": in_channels,
        "out_channels": out_channels or in_channels,
        "use_bn": use_bn,
        "act_func": act_func,
        "dropout_rate": 0,
        "ops_order": "bn_act_weight",
    }


def convolution(in_channels, out_channels, kernel_size, act_func="relu", **settings):
    defaults = {
        "name": "ConvLayer",
        "stride": 1,
        "dilation": 1,
        "groups": 1,
        "bias": False,
        "has_shuffle": False,
        "use_bn": True,
    }
    given = {**defaults, "kernel_size": kernel_size, **settings}
    return layer(given.pop("name"), in_channels, out_channels, act_func=act_func, **given)


def pooling(kind, channels, kernel_size, stride, **settings):
    shape = {"pool_type": kind, "kernel_size": kernel_size, "stride": stride}
    return layer("PoolingLayer", channels, **shape, **settings)


def node(in_channels, out_channels, edges, child_nodes, split="copy", merge="add", bn=False):
    return {
        "name": "TreeNode",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "split_type": split,
        "merge_type": merge,
        "has_branch_bn": bn,
        "path_drop_rate": 0,
        "edges": edges,
        "child_nodes": child_nodes,
    }


def block(in_channels, out_channels, shortcut, root, tree):
    width = out_channels // 4
    return {
        "name": "ResidualTreeBlock",
        "cell_drop_rate": 0.0,
        "final_bn": True,
        "shortcut": shortcut,
        "in_bottle": convolution(in_channels, width, 1, act_func=None),
        "out_bottle": convolution(width, out_channels, 1),
        "cell": node(width, width, [root], [tree], split=None, merge=None),
    }


SEPARABLE = convolution(4, 4, 5, name="DepthConvLayer")
DILATED = convolution(4, 4, 3, name="DepthConvLayer", dilation=2)
AVERAGE, MAXIMUM = pooling("avg", 4, 3, 1), pooling("max", 4, 3, 1)
IDENTITY = layer("IdentityLayer", 4)

# A block around a tree of two levels, whose stride is 2, and one around a tree of one.
CONFIG = {
    "name": "PyramidTreeNet",
    "blocks": [
        {
            "name": "TransitionBlock",
            "layers": [
                convolution(3, 16, 3, act_func=None, use_bn=False),
                layer("IdentityLayer", 16, use_bn=True),
            ],
        },
        block(
            16,
            16,
            pooling("avg", 16, 2, 2),
            convolution(4, 8, 3, stride=2, groups=2, has_shuffle=True),
            node(
                8,
                4,
                [IDENTITY, SEPARABLE],
                [
                    node(4, 4, [DILATED, AVERAGE], [None, None]),
                    node(4, 4, [MAXIMUM, SEPARABLE], [None, None]),
                ],
                split="split",
                bn=True,
            ),
        ),
        block(
            16,
            24,
            layer("IdentityLayer", 16),
            convolution(6, 6, 3, groups=2, has_shuffle=True),
            node(6, 6, [layer("IdentityLayer", 6), pooling("max", 6, 3, 1)], [None, None]),
        ),
        {
            "name": "TransitionBlock",
            "layers": [pooling("avg", 24, 3, 3, use_bn=True, act_func="relu")],
        },
    ],
    "classifier": {
        "name": "LinearLayer",
        "in_features": 24,
        "out_features": 5,
        "bias": True,
        "use_bn": False,
        "act_func": None,
        "dropout_rate": 0,
        "ops_order": "bn_act_weight",
    },
}


@pytest.fixture
def imported(tmp_path):
    return partial(import_values, tmp_path)


def changed(path, value):
    return with_value(CONFIG, path, value)


def test_import_gives_what_the_file_says(imported):
    assert imported(CONFIG) == Architecture(
        name="my_net",
        resolution=6,
        num_classes=5,
        stem=Stem(in_channels=3, out_channels=16, stride=1),
        blocks=(
            BlockConfig(
                operation="tree_split2_copy2",
                in_channels=16,
                out_channels=16,
                stride=2,
                edges=("identity", "sep5", "sep3d2", "avgpool3", "maxpool3", "sep5"),
            ),
            BlockConfig(
                operation="tree_copy2",
                in_channels=16,
                out_channels=24,
                edges=("identity", "maxpool3"),
            ),
        ),
        activation="relu",
        pre_activation=True,
        batch_norm=BatchNorm(eps=1e-5),
    )


def test_settings_of_batch_norm_can_be_given(imported):
    found = imported({**CONFIG, "bn": {"momentum": 0.2, "eps": 0.001}})
    assert found.batch_norm == BatchNorm(momentum=0.2, eps=0.001)


def other_values(old):
    if isinstance(old, bool):
        return [not old, int(not old)]
    if isinstance(old, int | float):
        return [old + 1, -1, True]
    return ["relu6", {"name": "IdentityLayer"}]


def assert_is_sentence(error):
    assert "my_net.config" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 300


def test_no_value_is_ignored(imported):
    """Another value gives another network or an error; so does one too many or too few."""
    original = imported(CONFIG)
    for path in leaves(CONFIG):
        parent = value_at(CONFIG, path[:-1])
        for other in other_values(parent[path[-1]]):
            try:
                assert imported(changed(path, other)) != original, (path, other)
            except UserError as error:
                assert_is_sentence(error)
        if isinstance(parent, dict):
            config = changed(path, None)
            del value_at(config, path[:-1])[path[-1]]
            with pytest.raises(UserError) as caught:
                imported(config)
            assert_is_sentence(caught.value)
    with pytest.raises(UserError, match=r"'blocks.2.cell.extra' is unknown; remove it"):
        imported(changed(("blocks", 2, "cell", "extra"), 1))


ROOT = ("blocks", 1, "cell", "edges", 0)
TREE = ("blocks", 1, "cell", "child_nodes", 0)
EDGE = (*TREE, "child_nodes", 1, "edges", 1)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("blocks",), [], "'blocks' holds 0; a network has a stem, blocks and a pooling"),
        (("blocks",), CONFIG["blocks"][:3], "'blocks.2.layers' is missing"),
        (("blocks", 2), CONFIG["blocks"][1], "'blocks.3.layers.0.in_channels' is 24, .* has 16"),
        ((*ROOT, "groups"), 4, "'blocks.1.cell.edges.0.groups' is 4, where such a network has 2"),
        ((*ROOT, "stride"), 3, "blocks.0.stride"),
        ((*TREE, "split_type"), "concat", "'blocks.1.cell' would be 'tree_concat2_copy2'"),
        ((*TREE, "edges"), [IDENTITY], "'blocks.1.cell' would be 'tree_split1_copy2'"),
        ((*TREE, "child_nodes", 0, "edges"), [DILATED], r"child_nodes.0' and others of its level"),
        ((*TREE, "child_nodes", 1), None, r"child_nodes.1.edges' is missing"),
        ((*EDGE, "name"), "ZeroLayer", "edges.1' is a ZeroLayer, which is no candidate"),
        ((*EDGE, "kernel_size"), 9, "edges.1' would be 'sep9', which is no operation"),
        ((*EDGE, "groups"), 2, "edges.1.groups' is 2, where such a network has 1"),
        ((*EDGE, "kernel_size"), "5", "edges.1.kernel_size' is '5', where a int must be"),
        (
            ("classifier", "bias"),
            False,
            "'classifier.bias' is False, where such a network has True",
        ),
        (("bn",), {"eps": "small"}, "batch_norm.eps"),
    ],
)
def test_an_edited_file_is_refused_with_the_place(imported, path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        imported(changed(path, value))
    assert_is_sentence(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "my_net.config"
    path.write_text(json.dumps(CONFIG, indent=4)[:3000])
    with pytest.raises(UserError) as caught:
        zoo.import_config(path)
    assert_is_sentence(caught.value)


def counted(config):
    """Parameters and MACs of a network of this format, from its file alone."""
    parameters = macs = 0

    def run(layer, size):
        nonlocal parameters, macs
        inputs, outputs = layer["in_channels"], layer["out_channels"]
        size = size // layer.get("stride", 1)
        weights = 0
        if layer["name"] == "ConvLayer":
            weights = inputs // layer["groups"] * outputs * layer["kernel_size"] ** 2
        if layer["name"] == "DepthConvLayer":
            weights = inputs * layer["kernel_size"] ** 2 + inputs * outputs
        parameters += weights + 2 * inputs * layer["use_bn"]
        macs += weights * size**2
        return size

    def grow(tree, size):
        nonlocal parameters
        for edge, child in zip(tree["edges"], tree["child_nodes"], strict=True):
            parameters += 2 * tree["out_channels"] * tree["has_branch_bn"]
            behind = run(edge, size)
            behind = grow(child, behind) if child else behind
        return behind

    size = config["blocks"][-1]["layers"][0]["kernel_size"]
    for each in config["blocks"][1:-1]:
        size *= each["cell"]["edges"][0]["stride"]
    for each in config["blocks"]:
        if each["name"] == "TransitionBlock":
            for part in each["layers"]:
                size = run(part, size)
            continue
        size = run(each["out_bottle"], grow(each["cell"], run(each["in_bottle"], size)))
        parameters += 2 * each["out_bottle"]["out_channels"]
    last = config["classifier"]
    weights = last["in_features"] * last["out_features"]
    return parameters + weights + last["out_features"], macs + weights


def test_the_network_is_as_large_as_the_file_says(imported):
    network = Network(imported(CONFIG))
    assert (count_parameters(network), count_macs(network, 6)) == counted(CONFIG)


@pytest.mark.skipif(not RELEASED.is_file(), reason="needs the released file")
def test_the_released_file_is_the_zoo():
    published = zoo.architecture("proxyless_cifar")
    assert zoo.import_config(RELEASED) == published.model_copy(update={"classes": None})
    assert counted(json.loads(RELEASED.read_text())) == (5_731_530, 1_213_155_872)
