"""Operations: the built-in ones beside others' layers, and a user's own in everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pages import blocks
from tiny_runs import SPACE, tiny_config
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from typer.testing import CliRunner

from proxyless_ext import Architecture, MBConv, Space, SuperNet, UserError, operation
from proxyless_ext.cli import app
from proxyless_ext.nn.network import Residual
from proxyless_ext.nn.operations import build_operation
from proxyless_ext.report.boxes import layer_box
from proxyless_ext.report.colours import operation_colour
from proxyless_ext.spaces import (
    BatchNorm,
    BlockConfig,
    Layer,
    load_plugins,
    parse_operation,
    registry,
)

PLUGIN = """
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from proxyless_ext import operation

class Counting(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.norm, self.drop = nn.BatchNorm2d(out_channels), nn.Dropout(0.1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.drop(self.norm(self.conv(x)))

@operation("counting", colour="#8a6d00")
def counting(in_channels, out_channels, stride):
    return Counting(in_channels, out_channels, stride)

@operation("basic{groups}", fits=lambda i, o, stride: i == o and stride == 1)
def basic(in_channels, out_channels, stride, groups):
    return BasicBlock(in_channels, out_channels, norm_layer=lambda c: nn.GroupNorm(groups, c))
"""

NAMES = (
    *("k3e6", "k5e1_se", "k7e2_hswish", "k3e4_se_hswish", "k7e3_relu", "k5e2_se_relu"),
    *("conv3", "conv5g2", "conv3d2"),
    *("sep3", "sep5", "sep7", "sep3d2"),
)


BUILT_IN = dict(registry._makers)


def forget() -> None:
    """As in another process, where nothing of one's own is registered."""
    registry._makers.clear()
    registry._makers.update(BUILT_IN)
    registry._plugins.clear()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers does not stay."""
    yield
    forget()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def block(name: str, in_channels: int = 8, out_channels: int = 12, stride: int = 2) -> BlockConfig:
    return BlockConfig(
        operation=name, in_channels=in_channels, out_channels=out_channels, stride=stride
    )


@pytest.mark.parametrize(
    "name", [*NAMES, "conv7g4d3", "projection", "zero", "identity", "avgpool3", "maxpool3"]
)
def test_names_are_read_and_written(name: str) -> None:
    assert parse_operation(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "k3e6_hswish_se",
        "k3e6_relu_hswish",
        "k3e6_relu6",
        "k3e7",
        "conv2",
        "conv3g0",
        "conv3d",
        "sep1",
        "sep5d2",
        "sep3d3",
        "avgpool5",
        "",
        "Zero",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not an operation; write k3, k5 or k7"):
        parse_operation(name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [*NAMES, "projection"])
def test_shapes(name: str, stride: int) -> None:
    module = build_operation(block(name, stride=stride), BatchNorm())
    size = -(-9 // stride)
    assert module(torch.randn(2, 8, 9, 9)).shape == (2, 12, size, size)


@pytest.mark.parametrize(("squeeze", "activation"), [(True, "RE"), (False, "HS"), (True, "HS")])
@pytest.mark.parametrize("stride", [1, 2])
def test_mobilenet_v3_blocks_are_those_of_torchvision(
    squeeze: bool, activation: str, stride: int
) -> None:
    torch.manual_seed(0)
    config = InvertedResidualConfig(8, 5, 32, 16, squeeze, activation, stride, 1, 1.0)
    theirs = InvertedResidual(config, partial(nn.BatchNorm2d, eps=1e-3)).double()
    ours = MBConv(
        8,
        16,
        5,
        stride,
        4,
        squeeze=squeeze,
        activation="hswish" if activation == "HS" else "relu",
    ).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(3, 8, 9, 9, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))


def test_blocks_with_other_layers_are_not_fused() -> None:
    x = torch.randn(2, 8, 6, 6)
    for settings in ({"squeeze": True}, {"activation": "hswish"}, {"activation": "relu"}):
        assert MBConv(8, 8, 3, **settings)(x).shape == x.shape
        with pytest.raises(UserError, match="cannot run as one operator, because"):
            MBConv(8, 8, 3, fused=True, **settings)(x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7, "3d2"])
def test_separable_convolutions_are_pre_activated(kernel: int | str, stride: int) -> None:
    module = build_operation(block(f"sep{kernel}", stride=stride), BatchNorm(eps=1e-5)).double()
    depthwise, pointwise = (p for p in module.parameters() if p.dim() == 4)
    scale, shift = (nn.init.normal_(p) for p in module.parameters() if p.dim() == 1)
    x = torch.randn(3, 8, 9, 9, dtype=torch.float64)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    active = (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
    size, dilation = depthwise.shape[-1], 2 if kernel == "3d2" else 1
    padding = dilation * (size // 2)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 8}
    expected = F.conv2d(F.conv2d(active.relu(), depthwise, **settings), pointwise)
    given = x.clone()
    torch.testing.assert_close(module(given), expected)
    assert torch.equal(given, x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["avgpool3", "maxpool3"])
def test_pooling_leaves_out_what_lies_beyond_the_picture(name: str, stride: int) -> None:
    module = build_operation(block(name, 4, 4, stride), BatchNorm())
    x = torch.randn(2, 4, 5, 6)
    take = {"avgpool3": torch.mean, "maxpool3": torch.amax}[name]
    expected = [
        [
            take(x[..., max(0, i - 1) : i + 2, max(0, j - 1) : j + 2], (2, 3))
            for j in range(0, 6, stride)
        ]
        for i in range(0, 5, stride)
    ]
    found = module(x).permute(2, 3, 0, 1)
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in expected]))
    assert not parse_operation(name).fits(4, 8, stride)


@pytest.mark.parametrize(("name", "fits"), [("conv3g4", False), ("conv3g2", True)])
def test_groups_have_to_divide_channels(name: str, fits: bool) -> None:
    assert parse_operation(name).fits(8, 6, 1) is fits


def test_projections_stand_where_the_shape_changes() -> None:
    fits = parse_operation("projection").fits
    assert (fits(8, 8, 1), fits(8, 8, 2), fits(8, 12, 1)) == (False, True, True)


def test_keys_and_colours_tell_operations_apart() -> None:
    names = [*NAMES, "k5e1", "k7e2", "k3e4", "projection", "avgpool3", "maxpool3"]
    keys = {Layer("block", name, 8, 12, 16, 2).key for name in names}
    assert len(keys) == len({operation_colour(name) for name in names}) == len(names)
    # Keys of published tables stay theirs.
    assert Layer("block", "k3e6", 8, 12, 16, 2).key == (
        "expanded_conv-input:16x16x8-output:8x8x12-expand:6-kernel:3-stride:2-idskip:0"
    )


def test_a_users_operations_take_part_in_everything(
    tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugins([plugin])
    names = ("counting", "basic2", "k3e1")
    space = Space(**{**SPACE.model_dump(), "name": "mine", "candidates": names})
    # Wide, since what is measured so shortly may leave one network alone in a narrow band.
    latency = {"latency.repetitions": 1, "latency.tolerance": 0.5}
    config = tiny_config(tmp_path, {"plugins": [str(plugin)], **latency})
    space.save(tmp_path / "space.yaml")
    run, file = tmp_path / "run", tmp_path / "settings.yaml"
    file.write_text(config.model_dump_json())
    table = tmp_path / "table.yaml"
    measured = ("--plugin", plugin, "--repetitions", 1, "--out", table)
    forget()
    invoke("latency", "measure", tmp_path / "space.yaml", *measured)
    assert "counting-input:" in table.read_text()
    with monkeypatch.context() as patch:  # The command for it comes below, and it takes long.
        patch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
        invoke("search", "--config", file, "--out", run)
    architecture = Architecture.load(run / "architecture.json")
    assert {each.operation for each in architecture.blocks} <= set(names)
    assert "counting" in (run / "report.html").read_text()
    forget()
    invoke("evaluate", run)
    invoke("export", run, "--out", tmp_path / "network.onnx")
    training = ("--data", "digits", "--plugin", plugin, "--out", tmp_path / "training")
    forget()
    short = ("--set", "train.epochs=1", "--set", "data.limit=50", "--set", "train.batch_size=25")
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
    invoke("train", run / "architecture.json", *training, *short)


def test_the_guides_example(tmp_path: Path) -> None:
    (example,) = blocks("python", "docs/operations.md")
    (tmp_path / "ops.py").write_text(example.code)
    load_plugins([tmp_path / "ops.py"])
    for name in ("bottleneck2", "resnet"):
        assert parse_operation(name).fits(8, 8, 1)
        build_operation(block(name, 8, 8, 1), BatchNorm())
    assert not parse_operation("resnet").fits(8, 12, 1)


def test_derived_networks_have_the_state_of_a_users_operation(plugin: Path) -> None:
    load_plugins([plugin])
    names = ("counting", "k3e1", "basic2")
    space = Space(**{**SPACE.model_dump(), "candidates": names, "weights": "shared"})
    supernet = SuperNet(space)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        supernet.edges.activate([0, 2, 0, 2])
        supernet(x)
    network = supernet.derive([0, 2, 0, 2])
    assert network.blocks[0].operation.calls == 3
    assert isinstance(network.blocks[0], Residual)
    torch.testing.assert_close(network.eval()(x), supernet.eval()(x))
    with supernet.train().edges.gate_step() as step:
        supernet(x).square().sum().backward()
    assert step.gates.grad is not None
    assert step.gates.grad[: len(space.edges), :2].ne(0).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nothing_of_this_name", "cannot be imported .ModuleNotFoundError: No module"),
        ("from proxyless_ext import operation\noperation('a b')", "'a b' cannot name an operation"),
        ("from proxyless_ext import operation\noperation('a', colour='red')", "colour 'red' of"),
    ],
)
def test_plugins_that_cannot_be_imported(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_plugins([path])


def test_operations_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(load: Callable[[], object]) -> None:
        registry._load_installed.cache_clear()
        point = SimpleNamespace(name="theirs", value="their.module", load=load)
        groups = {registry.ENTRY_POINTS: [point]}
        monkeypatch.setattr(registry, "entry_points", lambda group: groups[group])

    install(lambda: operation("installed")(lambda *_: nn.Identity()))
    assert parse_operation("installed").name == "installed"
    forget()
    install(lambda: 1 / 0)
    with pytest.raises(UserError, match=r"'theirs' of their\.module cannot be imported \(ZeroDiv"):
        parse_operation("installed")
    registry._load_installed.cache_clear()


def test_missing_plugins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.py cannot be imported \(FileNotFoundError"):
        load_plugins([tmp_path / "gone.py"])
    (tmp_path / "ops.txt").touch()
    with pytest.raises(UserError, match=r"ops\.txt is no Python file; give one that ends in \.py"):
        load_plugins([tmp_path / "ops.txt"])


def test_plugins_are_imported_once_and_as_a_whole(plugin: Path, tmp_path: Path) -> None:
    load_plugins([plugin, plugin])
    other = tmp_path / "other.py"
    other.write_text(PLUGIN.replace('"counting"', '"first"'))
    with pytest.raises(UserError, match=r"operation 'basic.*' is registered twice"):
        load_plugins([other])
    with pytest.raises(UserError, match="'first' is not an operation"):
        parse_operation("first")


def test_names_that_several_operations_have() -> None:
    operation("twin{a}")(lambda *_: nn.Identity())
    operation("twi{a}")(lambda *_: nn.Identity())
    operation("twin1")(lambda *_: nn.Identity())
    with pytest.raises(UserError, match="'twin1' is the name of 2 operations; rename one"):
        parse_operation("twin1")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda i, o, s: None, "operation 'own' makes a NoneType; let it make an nn.Module"),
        (lambda i, o: None, r"operation 'own' cannot be made for .* \(8, 12, 2\): .*argument"),
        (lambda i, o, s: nn.Conv2d(5, o, 1), r"operation 'own' cannot take \[2, 8, 16, 16\]"),
        (
            lambda i, o, s: nn.Conv2d(i, o, 1),
            r"'own' gives \[2, 12, 16, 16\] of \[2, 8, 16, 16\] where others give "
            r"\[2, 12, 8, 8\] \(stride 2\); correct it",
        ),
        (lambda i, o, s: nn.LSTM(16, 4), "operation 'own' cannot take|'own' gives tuple"),
    ],
)
def test_operations_that_do_not_fit_are_named(build: Any, sentence: str) -> None:
    operation("own")(build)
    with pytest.raises(UserError, match=sentence):
        build_operation(block("own"), BatchNorm())


def test_trying_an_operation_leaves_no_trace(plugin: Path) -> None:
    load_plugins([plugin])
    state = torch.random.get_rng_state()
    module = build_operation(block("counting"), BatchNorm())
    assert module.training
    assert module.calls == 0
    assert module.norm.num_batches_tracked == 0
    torch.random.set_rng_state(state)
    assert torch.equal(nn.Conv2d(8, 12, 3, 2, 1).weight, module.conv.weight)


def test_parameters_and_colours(plugin: Path) -> None:
    load_plugins([plugin])
    seen = {}
    operation("many{first}_{second}")(lambda i, o, s, **given: seen.update(given) or nn.Identity())
    build_operation(BlockConfig(operation="many12_3", in_channels=4, out_channels=4), BatchNorm())
    assert seen == {"first": 12, "second": 3}
    assert operation_colour("counting") == "#8a6d00"
    assert operation_colour("many1_1") != operation_colour("many1_2")


def test_long_names_are_written_upwards() -> None:
    operation("own")(lambda *_: nn.Identity())
    operation("extraordinary")(lambda *_: nn.Identity())
    short = layer_box(Layer("block", "own", 8, 8, 16))
    long = layer_box(Layer("block", "extraordinary", 8, 8, 16))
    assert (short.turned, long.turned) == (False, True)


def invoke(*arguments: object) -> None:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
