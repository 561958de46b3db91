"""Search spaces and architectures as data: the published figures, files, and bad input."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models._utils import _make_divisible

import proxyless_ext
from proxyless_ext import Architecture, Space, UserError, spaces
from proxyless_ext.spaces import BatchNorm, BlockConfig, FirstBlock, Layer, Stage, Stem
from proxyless_ext.spaces.layers import LayerKind

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
CANDIDATES = ["k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6"]

MINE = """
name: mine
resolution: 33
num_classes: 4
stem: {in_channels: 1, out_channels: 8, stride: 1}
first_block: {operation: k5e2, channels: 6}
candidates: [zero, k3e2, identity]
stages:
  - {channels: 6, cells: 2}
  - {channels: 12, cells: 3, stride: 2, candidates: [k7e1, zero]}
  - {channels: 12, cells: 1, stride: 2}
feature_mix: 20
dropout: 0.25
batch_norm: {momentum: 0.05, eps: 1e-5}
"""


@pytest.fixture
def load(tmp_path):
    """Load a space from YAML text."""

    def run(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return Space.load(path)

    return run


# The built-in spaces.


def test_imagenet_is_the_space_of_the_paper():
    space = spaces.imagenet()
    assert [len(edge.candidates) for edge in space.edges] == [6, 7, 7, 7] * 5 + [6]
    assert space.num_networks == 221_502_229_807_900_608
    assert [edge.out_channels for edge in space.edges[::4]] == [24, 40, 80, 96, 192, 320]
    assert [edge.stride for edge in space.edges] == [
        s for s in (2, 2, 2, 1, 2) for s in (s, 1, 1, 1)
    ] + [1]
    for edge in space.edges:
        fits = edge.stride == 1 and edge.in_channels == edge.out_channels
        assert edge.shortcut == fits
        assert list(edge.candidates) == CANDIDATES + ["zero"] * fits
    assert space.fixed_blocks == (BlockConfig(operation="k3e1", in_channels=32, out_channels=16),)
    assert (space.stem, space.feature_mix) == (Stem(in_channels=3, out_channels=32, stride=2), 1280)
    assert (space.batch_norm.momentum, space.batch_norm.eps) == (0.1, 1e-3)
    assert (space.resolution, space.num_classes) == (224, 1000)


def test_cifar_mbconv_shrinks_32_pixels_by_8():
    space = spaces.cifar_mbconv()
    assert (space.resolution, space.num_classes, len(space.edges)) == (32, 10, 16)
    assert [len(edge.candidates) for edge in space.edges] == [6, 7, 7] * 5 + [6]
    layers = space.architecture([0] * 16).layers()
    assert [layers[0].out_size, layers[-1].in_size] == [32, 4]


# Stem, first block, stages and feature mix of MobileNetV2, whose widths follow the same rule, as
# its published variants have them.
MOBILENET_V2 = (32, 16, 24, 32, 64, 96, 160, 320)
MOBILENET_V2_WIDTHS = {
    0.35: (16, 8, 8, 16, 24, 32, 56, 112),
    0.5: (16, 8, 16, 16, 32, 48, 80, 160),
    0.75: (24, 16, 24, 24, 48, 72, 120, 240),
    1.0: MOBILENET_V2,
    1.3: (40, 24, 32, 40, 80, 128, 208, 416),
    1.4: (48, 24, 32, 48, 88, 136, 224, 448),
}


@pytest.mark.parametrize("width_mult", MOBILENET_V2_WIDTHS)
def test_make_divisible_gives_the_widths_of_mobilenet_v2(width_mult):
    widths = tuple(spaces.make_divisible(width * width_mult) for width in MOBILENET_V2)
    assert widths == MOBILENET_V2_WIDTHS[width_mult]


@given(st.floats(0.01, 1e5), st.integers(1, 64))
def test_make_divisible_is_that_of_torchvision(value, divisor):
    assert spaces.make_divisible(value, divisor) == _make_divisible(value, divisor)


@pytest.mark.parametrize(
    ("width_mult", "stem", "first", "stages", "feature_mix"),
    [
        (0.5, 16, 8, [16, 24, 40, 48, 96, 160], 1280),
        (1.4, 48, 24, [32, 56, 112, 136, 272, 448], 1792),
    ],
)
def test_width_mult_scales_all_but_a_narrow_feature_mix(
    width_mult, stem, first, stages, feature_mix
):
    space = spaces.imagenet(width_mult=width_mult)
    assert space.stem.out_channels == stem
    assert space.first_block.channels == first
    assert [stage.channels for stage in space.stages] == stages
    assert space.feature_mix == feature_mix


@pytest.mark.parametrize("build", spaces.BUILTIN.values())
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width_mult": 0}, "width_mult is 0"),
        ({"width_mult": -1.0}, "width_mult is -1.0"),
        ({"width_mult": float("nan")}, "width_mult is nan"),
        ({"width_mult": float("inf")}, "width_mult is inf"),
        ({"num_classes": 1}, "'num_classes' is 1"),
        ({"resolution": 0}, "'resolution' is 0"),
    ],
)
def test_impossible_settings_of_a_builtin_space(build, setting, message):
    with pytest.raises(UserError, match=message):
        build(**setting)


# Spaces from YAML.


def test_space_from_yaml(load):
    space = load(MINE)
    assert space == Space(
        name="mine",
        resolution=33,
        num_classes=4,
        stem=Stem(in_channels=1, out_channels=8, stride=1),
        first_block=FirstBlock(operation="k5e2", channels=6),
        candidates=("zero", "k3e2", "identity"),
        stages=(
            Stage(channels=6, cells=2),
            Stage(channels=12, cells=3, stride=2, candidates=("k7e1", "zero")),
            Stage(channels=12, cells=1, stride=2),
        ),
        feature_mix=20,
        dropout=0.25,
        batch_norm=BatchNorm(momentum=0.05, eps=1e-5),
    )
    # Zero and identity stay only where the shape does; the order is the user's.
    assert [edge.candidates for edge in space.edges] == [
        ("zero", "k3e2", "identity"),
        ("zero", "k3e2", "identity"),
        ("k7e1",),
        ("k7e1", "zero"),
        ("k7e1", "zero"),
        ("k3e2",),
    ]
    assert [edge.stride for edge in space.edges] == [1, 1, 2, 1, 1, 2]
    assert space.num_networks == 3 * 3 * 1 * 2 * 2 * 1


def test_a_short_space_has_the_published_defaults(load):
    space = load(
        "{name: a, resolution: 8, num_classes: 2, candidates: [k3e1], "
        "stages: [{channels: 32, cells: 1}], feature_mix: 1}"
    )
    assert space.fixed_blocks == ()
    assert space.stem == Stem(in_channels=3, out_channels=32, stride=2)
    assert space.batch_norm == BatchNorm(momentum=0.1, eps=1e-3)
    assert space.dropout == 0


MBCONVS = st.builds("k{}e{}".format, st.sampled_from([3, 5, 7]), st.integers(1, 6))


@st.composite
def candidate_lists(draw):
    names = draw(st.lists(MBCONVS, min_size=1, max_size=3, unique=True))
    extra = draw(st.lists(st.sampled_from(["zero", "identity"]), unique=True))
    return draw(st.permutations(names + extra))


STAGES = st.builds(
    Stage,
    channels=st.integers(1, 9),
    cells=st.integers(1, 3),
    stride=st.sampled_from([1, 2]),
    candidates=st.none() | candidate_lists(),
)
SPACES = st.builds(
    Space,
    name=st.text(max_size=8),
    resolution=st.integers(1, 70),
    num_classes=st.integers(2, 5),
    stem=st.builds(Stem, in_channels=st.integers(1, 4), out_channels=st.integers(1, 9)),
    first_block=st.none() | st.builds(FirstBlock, operation=MBCONVS, channels=st.integers(1, 9)),
    candidates=candidate_lists(),
    stages=st.lists(STAGES, min_size=1, max_size=3),
    activation=st.sampled_from(["relu6", "relu", "hswish"]),
    feature_mix=st.integers(1, 9),
    pooled_mix=st.none() | st.integers(1, 9),
    dropout=st.floats(0, 0.99),
    batch_norm=st.builds(BatchNorm, momentum=st.floats(1e-3, 1), eps=st.floats(1e-9, 1)),
)


@st.composite
def spaces_and_choices(draw):
    space = draw(SPACES)
    return space, [draw(st.integers(0, len(edge.candidates) - 1)) for edge in space.edges]


@given(SPACES)
def test_yaml_round_trip(tmp_path_factory, space):
    path = tmp_path_factory.getbasetemp() / "space.yaml"
    path.write_text(yaml.safe_dump(space.model_dump(mode="json")), encoding="utf-8")
    assert Space.load(path) == space


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cells: 2", "cels: 2", "the key 'stages.0.cells' is missing"),
        ("name: mine", "", "the key 'name' is missing"),
        ("dropout:", "drop_out:", "unknown key 'drop_out'.*known: name, resolution"),
        ("out_channels: 8,", "out: 8,", "unknown key 'stem.out'.*known: in_channels, out_channels"),
        ("channels: 6, cells", "channels: 6, kernel: 3, cells", "unknown key 'stages.0.kernel'"),
        ("resolution: 33", "resolution: 0", "'resolution' is 0: .*greater than or equal to 1"),
        ("resolution: 33", "resolution: 33.5", "'resolution' is 33.5: .*integer"),
        ("resolution: 33", "resolution: big", "'resolution' is 'big': .*integer"),
        ("num_classes: 4", "num_classes: 1", "'num_classes' is 1"),
        ("cells: 3", "cells: -1", "'stages.1.cells' is -1"),
        ("stride: 2, cand", "stride: 3, cand", "'stages.1.stride' is 3: .*1 or 2"),
        ("dropout: 0.25", "dropout: 1", "'dropout' is 1"),
        ("eps: 1e-5", "eps: 0", "'batch_norm.eps' is 0"),
        ("eps: 1e-5", "eps: .inf", "'batch_norm.eps' is inf"),
        ("momentum: 0.05", "momentum: .nan", "'batch_norm.momentum' is nan"),
        ("[zero, k3e2, identity]", "[]", r"edge 0 \(6 to 6 channels, .* has no candidate"),
        ("candidates: [zero, k3e2, identity]", "", "edge 0 .* has no candidate that fits"),
        ("[k7e1, zero]", "[]", "'stages.1.candidates' is .*at least 1 item"),
        (
            "feature_mix: 20",
            "feature_mix: 20\nactivation: silu",
            "'activation' is 'silu'.*'hswish'",
        ),
        ("feature_mix: 20", "feature_mix: 20\npooled_mix: 0", "'pooled_mix' is 0"),
        ("[zero, k3e2, identity]", "k3e2", "'candidates' is 'k3e2'"),
        ("[zero, k3e2, identity]", "[k4e2]", "'k4e2' is not an operation; write k3, k5"),
        ("[zero, k3e2, identity]", "[k3e7]", "'k3e7' is not an operation"),
        ("[zero, k3e2, identity]", "[K3E2]", "'K3E2' is not an operation"),
        ("[zero, k3e2, identity]", "[skip]", "'skip' is not an operation.*'zero' or 'identity'"),
        ("[zero, k3e2, identity]", "[k3e2, k3e2]", "candidates .* repeat; list each of them once"),
        ("[k7e1, zero]", "[k7e1, zero, zero]", "candidates .* repeat"),
        ("[k7e1, zero]", "[zero]", r"edge 2 \(6 to 12 channels, stride 2\) has no candidate.*k3e6"),
        ("operation: k5e2", "operation: k5", "'k5' is not an operation"),
        ("operation: k5e2", "operation: zero", "'zero' does not fit a block from 8 to 6 channels"),
        ("name: mine", "name: 12", "'name' is 12: .*string"),
        ("name: mine", "name: 2020", "'name' is .*2020.*string"),
        ("name: mine", "name: {2020", "is not valid YAML or JSON"),
        ("name: mine", "name: [mine", "is not valid YAML or JSON at line"),
        ("name: mine", "name: !!python/object:os.system x", "is not valid YAML or JSON at line 2"),
        ("name: mine", "name: mine\n7: 8", "'7'"),
    ],
)
def test_bad_space_is_one_sentence(load, old, new, message):
    assert old in MINE
    with pytest.raises(UserError, match=message) as error:
        load(MINE.replace(old, new, 1))
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_stages_is_an_error(load):
    with pytest.raises(UserError, match=r"'stages' is .*at least 1 item"):
        load(
            "{name: a, resolution: 8, num_classes: 2, candidates: [k3e1], stages: [], "
            "feature_mix: 1}"
        )


@pytest.mark.parametrize("text", ["", "# nothing", "[1, 2]", "text", "42"])
def test_file_without_keys_is_an_error(load, text):
    with pytest.raises(UserError, match=r"mine\.yaml must hold keys and values at its top level"):
        load(text)


def test_the_configuration_of_a_run_is_no_space():
    with pytest.raises(UserError, match=r"digits\.yaml configures a run and is no space; give"):
        Space.load(Path(__file__).parents[1] / "configs" / "digits.yaml")


@pytest.mark.parametrize("read", [Space.load, Architecture.load])
def test_unreadable_file_is_an_error(tmp_path, read):
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml: No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match=r"cannot read .*binary\.yaml: it is not text"):
        read(binary)


# Choices and layers.


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [0] * 20,
        [0] * 22,
        [6] + [0] * 20,  # The first edge has no zero.
        [0] * 20 + [6],
        [0] * 20 + [-1],
        [0, 7] + [0] * 19,
    ],
)
def test_choices_that_are_none_are_an_error(choices):
    with pytest.raises(UserError, match=r"choices .* each of the 21 edges of space 'imagenet'"):
        spaces.imagenet().architecture(choices)


@given(spaces_and_choices())
def test_architecture_takes_the_chosen_candidates(drawn):
    space, choices = drawn
    architecture = space.architecture(choices, name="chosen")
    assert architecture.name == "chosen"
    assert space.architecture(choices).name == space.name
    searched = architecture.blocks[len(space.fixed_blocks) :]
    for block, edge, choice in zip(searched, space.edges, choices, strict=True):
        assert block.operation == edge.candidates[choice]
        assert (block.in_channels, block.out_channels) == (edge.in_channels, edge.out_channels)
        assert block.shortcut == (block.stride == 1 and block.in_channels == block.out_channels)
    assert not any(block.shortcut for block in space.fixed_blocks)
    for field in ("resolution", "num_classes", "stem", "feature_mix", "dropout", "batch_norm"):
        assert getattr(architecture, field) == getattr(space, field)


@given(spaces_and_choices())
def test_layers_of_an_architecture_are_those_of_its_space(drawn):
    space, choices = drawn
    layers = space.architecture(choices).layers()
    fixed, by_edge = space.fixed_layers(), space.edge_layers()
    assert [len(row) for row in by_edge] == [len(edge.candidates) for edge in space.edges]
    chosen = [row[choice] for row, choice in zip(by_edge, choices, strict=True)]
    pooled = ["pool", "pooled_mix"] * (space.pooled_mix is not None)
    head = 2 + len(pooled)
    assert [*fixed[:-head], *chosen, *fixed[-head:]] == layers
    kinds = [layer.kind for layer in layers]
    blocks = ["block"] * (len(layers) - 1 - head)
    assert kinds == ["stem", *blocks, "feature_mix", *pooled, "classifier"]
    for before, after in itertools.pairwise(layers):
        assert (after.in_size, after.in_channels) == (before.out_size, before.out_channels)


def test_keys_of_layers_are_those_of_the_published_tables():
    space = spaces.imagenet()
    layers = space.architecture([1] + [5, 6, 0] + [2] * 17).layers()
    keys = [layer.key for layer in layers]
    assert keys[:5] == [
        "Conv-input:224x224x3-output:112x112x32",
        "expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0",
        "expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:7-stride:1-idskip:1",
        "zero-input:56x56x24-output:56x56x24-stride:1-idskip:1",
    ]
    assert keys[-2:] == [
        "Conv_1-input:7x7x320-output:7x7x1280",
        "Logits-input:7x7x1280-output:1000",
    ]
    assert [layer.is_skipped for layer in layers[:5]] == [False] * 4 + [True]


def test_keys_tell_all_layers_apart():
    features = itertools.product(("", "_se"), ("", "_relu", "_hswish"))
    operations = [f"k3e3{squeeze}{activation}" for squeeze, activation in features]
    names = {"block": operations, "trunk": ["tree_split2", "tree_copy2", "tree_copy2_copy2"]}
    layers = {
        Layer(kind, operation, channels, out, size, stride, shortcut)
        for kind in get_args(LayerKind)
        for operation in names.get(kind, ("",))
        for channels in (8, 16)
        for out in (8, 16)
        for size in (7, 8)
        for stride in ((1, 2) if kind in ("stem", "block", "trunk") else (1,))
        for shortcut in ((False, True) if kind == "block" else (False,))
    }
    assert len({layer.key for layer in layers}) == len(layers)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the published latency table")
def test_every_layer_of_imagenet_is_in_the_published_table():
    table = yaml.safe_load((REFERENCE / "mobile_trim.yaml").read_text())
    space = spaces.imagenet()
    layers = [*space.fixed_layers(), *(layer for row in space.edge_layers() for layer in row)]
    keys = {layer.key for layer in layers if not layer.is_skipped}
    assert keys <= set(table)
    assert len(keys) == 3 + 1 + 5 * (6 + 6) + 6  # Fixed layers, first and further cells, the last.


# Architectures as JSON.


@given(spaces_and_choices(), st.data())
def test_json_round_trip(tmp_path_factory, drawn, data):
    space, choices = drawn
    size = space.num_classes
    classes = data.draw(st.none() | st.lists(st.text(), min_size=size, max_size=size))
    architecture = space.architecture(choices).model_copy(
        update={"classes": None if classes is None else tuple(classes)}
    )
    path = tmp_path_factory.getbasetemp() / "architecture.json"
    architecture.save(path)
    assert Architecture.load(path) == architecture


def test_saved_json_is_readable_and_plain(tmp_path):
    path = tmp_path / "network.json"
    architecture = spaces.imagenet().architecture([0] * 21)
    architecture.save(path)
    text = path.read_text()
    unusual = {"pre_activation": True, "blocks": {"__all__": {"edges"}}}
    assert json.loads(text) == {  # json itself, so that other programs can read it too.
        **architecture.model_dump(mode="json", exclude_none=True, exclude=unusual),
        "format": "proxyless_ext/architecture/1",
    }
    assert sum('"operation"' in line for line in text.splitlines()) == len(architecture.blocks)
    assert max(map(len, text.splitlines())) <= 120


def small(**changes):
    """A small architecture as the JSON's content, with changes."""
    content = {
        "name": "small",
        "resolution": 16,
        "num_classes": 2,
        "stem": {"out_channels": 8},
        "blocks": [
            {"operation": "k3e1", "in_channels": 8, "out_channels": 8, "shortcut": True},
            {"operation": "k5e3", "in_channels": 8, "out_channels": 12, "stride": 2},
        ],
        "feature_mix": 16,
        **changes,
    }
    return json.dumps(content)


def one_block(**changes):
    block = {"operation": "k3e1", "in_channels": 8, "out_channels": 8, **changes}
    return small(blocks=[block])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (small(blocks=[]), "'blocks' is .*at least 1 item"),
        (
            small(format="proxyless_ext/architecture/2"),
            "'format' is 'proxyless_ext/architecture/2'",
        ),
        (small(stem={"out_channels": 9}), "block 0 takes 8 channels but is given 9"),
        (small(classes=["cat"]), "1 class names for 2 classes"),
        (small(weights="x.pt"), "unknown key 'weights'.*known: format, name"),
        (small(num_classes=0), "'num_classes' is 0"),
        (one_block(operation="k3"), "'k3' is not an operation"),
        (one_block(stride=3), "'blocks.0.stride' is 3: .*1 or 2"),
        (one_block(shortcut=True, stride=2), "a shortcut needs stride 1"),
        (one_block(shortcut=True, out_channels=9), "a shortcut needs stride 1 and as many"),
        (one_block(operation="zero", stride=2), "'zero' does not fit.*stride 2; use an MBConv"),
        (one_block(operation="identity", out_channels=9), "'identity' does not fit.*8 to 9"),
        (one_block(kernel=3), "unknown key 'blocks.0.kernel'"),
        (small()[:-1], "is not valid YAML or JSON"),
        ('"small"', "must hold keys and values"),
    ],
)
def test_bad_architecture_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "network.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Architecture.load(path)
    assert "network.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_architectures_and_spaces_are_immutable():
    space = spaces.imagenet()
    with pytest.raises(ValueError, match="frozen"):
        space.name = "other"
    with pytest.raises(ValueError, match="frozen"):
        space.architecture([0] * 21).blocks[0].stride = 2


def test_spaces_need_no_torch():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('proxyless_ext')\n"  # Stands for the one that imports torch.
        f"package.__path__ = {list(proxyless_ext.__path__)!r}\n"
        "sys.modules['proxyless_ext'] = package\n"
        "import proxyless_ext.spaces as spaces\n"
        "print(spaces.imagenet().num_networks, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["221502229807900608", "False"]
