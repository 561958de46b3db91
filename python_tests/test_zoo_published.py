"""Import of the released configuration format: faithful, or refused."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
from published_configs import import_values, leaves, value_at, with_value
from torchvision.models._utils import _make_divisible

from proxyless_ext import Network, UserError, spaces, zoo
from proxyless_ext.nn import count_macs, count_parameters

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"

BASIC = {
    "use_bn": False,
    "act_func": None,
    "dropout_rate": 0,
    "ops_order": "weight_bn_act",
}


def convolution(kernel_size, stride, in_channels, out_channels):
    return {
        "name": "ConvLayer",
        "kernel_size": kernel_size,
        "stride": stride,
        "dilation": 1,
        "groups": 1,
        "bias": False,
        "has_shuffle": False,
        "in_channels": in_channels,
        "out_channels": out_channels,
        **BASIC,
        "use_bn": True,
        "act_func": "relu6",
    }


def mbconv(in_channels, out_channels, kernel_size, stride, expand_ratio):
    return {
        "name": "MBInvertedConvLayer",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernel_size,
        "stride": stride,
        "expand_ratio": expand_ratio,
    }


def block(operation, shortcut=None):
    """A block; with an identity shortcut if `shortcut` is its number of channels."""
    identity = {
        "name": "IdentityLayer",
        "in_channels": shortcut,
        "out_channels": shortcut,
        **BASIC,
    }
    return {
        "name": "MobileInvertedResidualBlock",
        "mobile_inverted_conv": operation,
        "shortcut": None if shortcut is None else identity,
    }


ZERO = {"name": "ZeroLayer", "stride": 1}

# Three blocks of one width, so that only the files themselves tell which have a shortcut.
CONFIG = {
    "name": "ProxylessNASNets",
    "bn": {"momentum": 0.2, "eps": 1e-05},
    "first_conv": convolution(3, 2, 3, 8),
    "feature_mix_layer": convolution(1, 1, 12, 40),
    "classifier": {
        "name": "LinearLayer",
        "in_features": 40,
        "out_features": 5,
        "bias": True,
        **BASIC,
        "dropout_rate": 0.25,
    },
    "blocks": [
        block(mbconv(8, 8, 3, 1, 1)),
        block(mbconv(8, 8, 5, 1, 4), shortcut=8),
        block(ZERO, shortcut=8),
        block(mbconv(8, 12, 7, 2, 6)),
    ],
}

# As once-for-all writes them, whose shortcuts list their channels.
MOBILENET_V3 = {
    "name": "MobileNetV3",
    "bn": {"momentum": 0.1, "eps": 1e-05},
    "first_conv": {**convolution(3, 2, 3, 8), "act_func": "h_swish"},
    "final_expand_layer": {**convolution(1, 1, 12, 40), "act_func": "h_swish"},
    "feature_mix_layer": {**convolution(1, 1, 40, 64), "act_func": "h_swish", "use_bn": False},
    "classifier": {**CONFIG["classifier"], "in_features": 64},
    "blocks": [
        block(
            {**mbconv(8, 8, 3, 1, 1), "mid_channels": None, "act_func": "relu", "use_se": False},
            shortcut=[8],
        ),
        block(
            {**mbconv(8, 12, 5, 2, 4), "mid_channels": 32, "act_func": "h_swish", "use_se": True}
        ),
    ],
}


@pytest.fixture
def imported(tmp_path):
    return partial(import_values, tmp_path)


def changed(path, value, config=CONFIG):
    return with_value(config, path, value)


def test_import_gives_what_the_file_says(imported):
    def expected(operation, channels, stride=1, shortcut=False):
        return spaces.BlockConfig(
            operation=operation,
            in_channels=8,
            out_channels=channels,
            stride=stride,
            shortcut=shortcut,
        )

    assert imported(CONFIG) == spaces.Architecture(
        name="my_net",
        resolution=224,
        num_classes=5,
        stem=spaces.Stem(in_channels=3, out_channels=8, stride=2),
        blocks=(
            expected("k3e1", 8),
            expected("k5e4", 8, shortcut=True),
            expected("zero", 8, shortcut=True),
            expected("k7e6", 12, stride=2),
        ),
        feature_mix=40,
        dropout=0.25,
        batch_norm=spaces.BatchNorm(momentum=0.2, eps=1e-5),
    )


@pytest.mark.parametrize("mid_channels", [None, 32])
def test_mid_channels_say_nothing_new(imported, mid_channels):
    path = ("blocks", 1, "mobile_inverted_conv", "mid_channels")
    assert imported(changed(path, mid_channels)) == imported(CONFIG)
    with pytest.raises(UserError, match="mid_channels is 24, where an expand_ratio of 4 gives 32"):
        imported(changed(path, 24))


def test_once_for_all_networks_have_other_activations_and_a_head_behind_the_pooling(imported):
    ours, other = imported(MOBILENET_V3), imported(CONFIG)
    assert [block.operation for block in ours.blocks] == ["k3e1_relu", "k5e4_se_hswish"]
    assert [block.shortcut for block in ours.blocks] == [True, False]
    assert (ours.activation, ours.feature_mix, ours.pooled_mix) == ("hswish", 40, 64)
    assert (other.activation, other.feature_mix, other.pooled_mix) == ("relu6", 40, None)


def other_values(old):
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, int):
        return {-1, 0, 1, 2, 3, 5, 7, 9, 24} - {old}
    if isinstance(old, float):
        return [old * 2, -1.0]
    return [{"relu": "relu6"}.get(old, "relu"), {"name": "IdentityLayer"}]


@pytest.mark.parametrize(
    ("config", "path"),
    [(config, path) for config in (CONFIG, MOBILENET_V3) for path in leaves(config)],
    ids=lambda value: value["name"] if isinstance(value, dict) else ".".join(map(str, value)),
)
def test_no_value_is_ignored(imported, config, path):
    """Another value gives another network or an error; so does one too many."""
    old, original = value_at(config, path), imported(config)
    for other in other_values(old):
        try:
            assert imported(changed(path, other, config)) != original
        except UserError as error:
            assert_is_sentence(error)
    while isinstance(path[-1], int):  # An item of a list, which has no keys.
        path = path[:-1]
    with pytest.raises(UserError, match="extra_key") as caught:
        imported(changed((*path[:-1], "extra_key"), 1, config))
    assert_is_sentence(caught.value)


@pytest.mark.parametrize("path", leaves(CONFIG), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_value_is_an_error(imported, path):
    missing = changed(path, None)
    parent = missing
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    with pytest.raises(UserError) as caught:
        imported(missing)
    assert_is_sentence(caught.value)


def assert_is_sentence(error):
    assert "my_net.config" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 500


CONV = ("blocks", 1, "mobile_inverted_conv")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("first_conv", "act_func"), "swish", "'first_conv.act_func' is 'swish'.*'relu6'"),
        (("first_conv", "act_func"), "relu", "feature_mix_layer.act_func must be that of first"),
        (("first_conv", "kernel_size"), 5, "'first_conv.kernel_size' is 5.*3"),
        (("first_conv", "dropout_rate"), 0.1, "'first_conv.dropout_rate' is 0.1"),
        (("feature_mix_layer", "groups"), 2, "'feature_mix_layer.groups' is 2.*1"),
        (("feature_mix_layer", "in_channels"), 8, "feature_mix_layer.in_channels"),
        (("classifier", "bias"), False, "'classifier.bias' is False.*True"),
        (("classifier", "in_features"), 8, "classifier.in_features"),
        (("bn", "eps"), float("nan"), "eps"),
        (("blocks",), [], "'blocks'"),
        (("blocks", 2, "name"), "ResidualTreeBlock", "'blocks.2.name'"),
        (CONV, {"name": "ShuffleLayer"}, "'ShuffleLayer'.*'MBInvertedConvLayer', 'ZeroLayer'"),
        (CONV, mbconv(8, 8, 9, 1, 3), "blocks.1.*kernel_size' is 9"),
        (CONV, mbconv(8, 8, 3, 1, 7), "blocks.1.*expand_ratio' is 7"),
        (CONV, mbconv(8, 8, 3, 3, 6), "stride' is 3.*1 or 2"),
        (CONV, mbconv(8, 8, 3, 2, 6), "blocks.1.*a shortcut needs stride 1"),
        (CONV, mbconv(9, 9, 3, 1, 6), "blocks.1.*a shortcut needs.*same channels"),
        (CONV, {"name": "ZeroLayer", "stride": 2}, "ZeroLayer.stride' is 2"),
        (("blocks", 2), block(ZERO), "blocks.2.*a ZeroLayer needs"),
        (("blocks", 2), block(ZERO, shortcut=16), "block 2 takes 16 channels but is given 8"),
        (("blocks", 1, "shortcut", "out_channels"), 16, "blocks.1.*a shortcut needs"),
        (("blocks", 1, "shortcut", "name"), "ZeroLayer", "shortcut.name' is 'ZeroLayer'"),
        (("name",), "ResNet50D", "'name' is 'ResNet50D'; import one of ProxylessNASNets, Mob"),
        (("name",), "MobileNetV3", "'final_expand_layer' is missing"),
        (("name",), "PyramidTreeNet", "'blocks.1.cell' is missing"),
    ],
)
def test_what_an_architecture_cannot_express_is_an_error(imported, path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        imported(changed(path, value))
    assert_is_sentence(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '"ProxylessNASNets"', "{}"])
def test_a_file_of_something_else_is_an_error(tmp_path, text):
    path = tmp_path / "my_net.config"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        zoo.import_config(path)
    assert_is_sentence(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*my_net.config"):
        zoo.import_config(tmp_path / "my_net.config")


needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the released files")


@needs_reference
@pytest.mark.parametrize("name", zoo.IMAGENET)
def test_released_files_are_the_zoo(name):
    imported = zoo.import_config(REFERENCE / f"{name}.config")
    # The released files leave out the dropout that the networks were trained with.
    assert imported.dropout == 0
    published = zoo.architecture(name)
    assert imported == published.model_copy(update={"dropout": 0.0})


def counted(config, resolution):
    """Parameters, and MACs at a resolution, of a network of once-for-all: from its file alone."""
    parameters = macs = 0

    def convolution(inputs, outputs, kernel_size, size, groups=1, norm=True, bias=False):
        nonlocal parameters, macs
        weights = inputs // groups * outputs * kernel_size**2
        parameters += weights + 2 * outputs * norm + outputs * bias
        macs += weights * size**2

    stem = config["first_conv"]
    size = math.ceil(resolution / stem["stride"])
    convolution(stem["in_channels"], stem["out_channels"], stem["kernel_size"], size)
    for each in config["blocks"]:
        block = each["mobile_inverted_conv"]
        inputs, outputs = block["in_channels"], block["out_channels"]
        hidden = block["mid_channels"] or round(inputs * block["expand_ratio"])
        if block["expand_ratio"] > 1:
            convolution(inputs, hidden, 1, size)
        size = math.ceil(size / block["stride"])
        convolution(hidden, hidden, block["kernel_size"], size, groups=hidden)
        if block["use_se"]:
            squeezed = _make_divisible(hidden // 4, 8)
            convolution(hidden, squeezed, 1, 1, norm=False, bias=True)
            convolution(squeezed, hidden, 1, 1, norm=False, bias=True)
        convolution(hidden, outputs, 1, size)
    for name in ("final_expand_layer", "feature_mix_layer"):
        if mix := config.get(name):
            size = size if mix["use_bn"] else 1  # MobileNetV3's last convolution is pooled before.
            convolution(mix["in_channels"], mix["out_channels"], 1, size, norm=mix["use_bn"])
    last = config["classifier"]
    convolution(last["in_features"], last["out_features"], 1, 1, norm=False, bias=True)
    return parameters, macs


# Beside what they are called, once-for-all says what they were specialised for, and how large they
# are: in millions of parameters and MACs, at a resolution that it does not say.
ONCE_FOR_ALL = {
    "note10_lat-11ms_top1-73.6_finetune-25": (4.3, 110, 176),
    "cpu_lat-15ms_top1-74.6_finetune-25": (4.9, 301, 188),
    "1080ti_gpu64-12ms_top1-72.6_finetune-25": (5.9, 165, 128),
}


@needs_reference
@pytest.mark.parametrize("name", ONCE_FOR_ALL)
def test_networks_of_once_for_all_are_as_large_as_their_files_say(name):
    path = REFERENCE / "ofa" / f"{name}.config"
    network = Network(zoo.import_config(path))
    config = json.loads(path.read_text())
    millions, mega_macs, resolution = ONCE_FOR_ALL[name]
    for size in (resolution, 224, 33):
        counts = (count_parameters(network), count_macs(network, size))
        assert counts == counted(config, size)
    published = counted(config, resolution)
    assert (round(published[0] / 1e6, 1), round(published[1] / 1e6)) == (millions, mega_macs)
