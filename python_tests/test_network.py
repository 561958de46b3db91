"""Networks and supernets against their architectures, torchvision, and sums done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import mobilenet_v2

from proxyless_ext import Architecture, Network, Space, SuperNet, UserError, spaces, zoo
from proxyless_ext.nn import ConvBNAct, MBConv, MixedOp, Zero, count_macs, count_parameters
from proxyless_ext.spaces import BatchNorm, BlockConfig, FirstBlock, MBConvSpec, Stage, Stem


def small_space(**changes):
    """Twelve edges, so that an edge's number can have two digits; every kind of candidate."""
    fields = {
        "name": "small",
        "resolution": 19,
        "num_classes": 5,
        "stem": Stem(out_channels=6, stride=2),
        "first_block": FirstBlock(channels=4),
        "candidates": ("k3e1", "k5e2", "zero", "k7e3", "identity"),
        "stages": (
            Stage(channels=6, cells=3, stride=2),
            Stage(channels=8, cells=8, candidates=("k5e1", "zero", "k3e2")),
            Stage(channels=10, cells=1, stride=2),
        ),
        "feature_mix": 12,
    }
    return Space(**{**fields, **changes})


@st.composite
def small_architectures(draw):
    """Any choice of `small_space`, at any small resolution."""
    space = small_space(
        resolution=draw(st.integers(1, 45)),
        stem=Stem(
            in_channels=draw(st.integers(1, 3)),
            out_channels=6,
            stride=draw(st.sampled_from([1, 2])),
        ),
        activation=draw(st.sampled_from(["relu6", "relu", "hswish"])),
        pooled_mix=draw(st.none() | st.integers(1, 9)),
    )
    return space.architecture(draw(choices_of(space)))


def choices_of(space):
    return st.tuples(*(st.integers(0, len(edge.candidates) - 1) for edge in space.edges))


@pytest.fixture(scope="module")
def supernet():
    """A supernet whose BatchNorms have seen data and whose weights are no longer special."""
    torch.manual_seed(0)
    supernet = SuperNet(small_space())
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(3)
    return supernet


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


# Networks.


@settings(max_examples=40)
@given(small_architectures())
def test_modules_produce_the_shapes_the_layers_state(architecture):
    network = Network(architecture).eval()
    seen = []
    for module in network.layers:
        module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    size = architecture.resolution
    network(torch.randn(1, architecture.stem.in_channels, size, size))
    layers = architecture.layers()
    for layer, (given_, made) in zip(layers, seen, strict=True):
        assert given_.shape == (1, layer.in_channels, layer.in_size, layer.in_size)
        if layer.kind == "classifier":
            assert made.shape == (1, layer.out_channels)
        else:
            assert made.shape == (1, layer.out_channels, layer.out_size, layer.out_size)


def as_mobilenet_v2():
    """MobileNetV2 in our terms; torchvision's BatchNorm has another eps than the paper's."""
    stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
    ]
    blocks, channels = [], 32
    for expand_ratio, width, cells, stride in [*stages, (6, 320, 1, 1)]:
        for cell in range(cells):
            block = BlockConfig(
                operation=f"k3e{expand_ratio}",
                in_channels=channels,
                out_channels=width,
                stride=stride if cell == 0 else 1,
                shortcut=cell > 0,
            )
            blocks.append(block)
            channels = width
    return Architecture(
        name="mobilenet_v2",
        resolution=224,
        num_classes=10,
        stem=Stem(),
        blocks=tuple(blocks),
        feature_mix=1280,
        dropout=0.2,
        batch_norm=BatchNorm(eps=1e-5),
    )


@pytest.mark.parametrize("training", [False, True])
def test_mobilenet_v2_computes_what_torchvision_computes(training):
    torch.manual_seed(0)
    theirs, ours = mobilenet_v2(num_classes=10), Network(as_mobilenet_v2())
    transplant = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(transplant)
    for network in (theirs, ours):
        network.double().train(training)
    x = torch.randn(3, 3, 65, 65, dtype=torch.float64)
    outputs, gradients = [], []
    for network in (theirs, ours):
        torch.manual_seed(1)  # The same dropout.
        outputs.append(network(x))
        outputs[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    statistics = [list(network.buffers()) for network in (theirs, ours)]
    torch.testing.assert_close(statistics[1], statistics[0])


@settings(max_examples=10)
@given(small_architectures())
def test_network_built_from_json_takes_the_weights(tmp_path_factory, architecture):
    path = tmp_path_factory.getbasetemp() / "network.json"
    architecture.save(path)
    original, again = Network(architecture), Network(Architecture.load(path))
    assert original.state_dict().keys() == again.state_dict().keys()
    again.load_state_dict(original.state_dict())
    size = architecture.resolution
    x = torch.randn(2, architecture.stem.in_channels, size, size)
    assert torch.equal(original.eval()(x), again.eval()(x))


def test_skipped_block_has_no_part_in_the_network():
    space = small_space()
    zero = [edge.candidates.index("zero") if edge.shortcut else 0 for edge in space.edges]
    identity = [4 if edge.shortcut and len(edge.candidates) > 3 else 0 for edge in space.edges]
    network = Network(space.architecture(zero)).eval()
    first = len(space.fixed_blocks)
    x = torch.randn(2, 6, 5, 5)
    for block, edge in zip(network.blocks[first:], space.edges, strict=True):
        if edge.shortcut:
            assert not list(block.parameters())
            assert block(x) is x
    # Beside a shortcut an identity doubles its input, where zero leaves it alone.
    doubled = Network(space.architecture(identity)).blocks[first + 1]
    assert torch.equal(doubled(x), 2 * x)


def test_dropout_is_that_of_the_architecture():
    architecture = small_space(dropout=0.4).architecture([0] * 12)
    (dropout,) = (m for m in Network(architecture).modules() if isinstance(m, nn.Dropout))
    assert dropout.p == 0.4


# Initial values.


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return zoo.build("proxyless_mobile")


def test_convolutions_start_normal_with_the_published_deviation(fresh):
    """The sample's mean and deviation lie within 5 standard errors."""
    convolutions = [module for module in fresh.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 2 + 2 + 19 * 3  # Stem, feature mix, first block, 19 blocks.
    for conv in convolutions:
        assert conv.bias is None
        std = math.sqrt(2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels))
        z, n = conv.weight / std, conv.weight.numel()
        assert abs(z.mean().item()) < 5 / math.sqrt(n)
        assert abs(z.std().item() - 1) < 5 / math.sqrt(2 * n)
        assert abs(z.pow(4).mean().item() - 3) < 5 * math.sqrt(96 / n)  # 1.8 if it were uniform.


def test_classifier_starts_uniform_in_the_published_bound(fresh):
    linear = fresh.classifier.linear
    bound = 1 / math.sqrt(1280)
    assert 0.999 * bound < linear.weight.abs().max() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not linear.bias.any()


def test_batch_norms_start_and_move_as_published(fresh):
    for model in (fresh, SuperNet(small_space())):
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert len(norms) == len(convolutions)
        for norm in norms:
            assert (norm.momentum, norm.eps) == (0.1, 1e-3)
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))
            assert not norm.bias.any()


@pytest.mark.parametrize("build", [SuperNet, lambda space: Network(space.architecture([1] * 12))])
def test_batch_norm_of_the_space_reaches_every_layer(build):
    model = build(small_space(batch_norm=BatchNorm(momentum=0.03, eps=1e-4)))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.03, 1e-4)}


# Supernets.


def test_imagenet_supernet_has_the_published_size():
    supernet = SuperNet(spaces.imagenet())
    alphas = sum(alpha.numel() for alpha in supernet.edges.alphas)
    assert alphas == 6 * 6 + 15 * 7
    assert count_parameters(supernet) - alphas == 16_034_168
    assert len(supernet.edges.mixed_ops) == 21


def test_supernet_has_the_candidates_of_its_space(supernet):
    mixed_ops = [module for module in supernet.modules() if isinstance(module, MixedOp)]
    for mixed, edge in zip(mixed_ops, supernet.space.edges, strict=True):
        for module, name in zip(mixed.candidates, edge.candidates, strict=True):
            spec = spaces.parse_operation(name)
            if isinstance(spec, MBConvSpec):
                assert isinstance(module, MBConv)
                conv = module.depthwise.conv
                assert conv.kernel_size == (spec.kernel_size,) * 2
                assert conv.stride == (edge.stride,) * 2
                assert conv.groups == conv.in_channels == edge.in_channels * spec.expand_ratio
            else:
                assert isinstance(module, {"zero": Zero, "identity": nn.Identity}[name])


@settings(max_examples=20)
@given(st.data())
def test_derived_network_inherits_and_computes_the_same(supernet, data):
    supernet.eval()
    choices = data.draw(choices_of(supernet.space))
    network = supernet.derive(choices, name="mine").eval()
    assert network.architecture == supernet.space.architecture(choices, name="mine")

    first = len(supernet.space.fixed_blocks)
    for part in ("stem", "feature_mix", "classifier"):
        assert_same(getattr(supernet, part).state_dict(), getattr(network, part).state_dict())
    assert_same(supernet.blocks[:first].state_dict(), network.blocks[:first].state_dict())
    pairs = zip(supernet.blocks[first:], network.blocks[first:], choices, strict=True)
    for searched, derived, choice in pairs:
        chosen = searched.operation.candidates[choice]
        operation = getattr(derived, "operation", nn.Identity())
        assert_same(chosen.state_dict(), operation.state_dict())

    supernet.edges.activate(choices)
    x = torch.randn(2, 3, 19, 19)
    assert torch.equal(network(x), supernet(x))


def test_deriving_leaves_the_supernet_as_it_is(supernet):
    supernet.train()
    supernet.edges.activate([1] * 12)
    before = snapshot(supernet)
    network = supernet.derive([0] * 12)
    assert supernet.training
    assert supernet.edges.active == [1] * 12
    assert_same(before, supernet.state_dict())
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(7)
    assert_same(before, supernet.state_dict())


def test_derived_network_can_be_trained(supernet):
    for weight in supernet.edges.weights:
        weight.requires_grad_(False)
    try:
        network = supernet.derive([0] * 12)
    finally:
        for weight in supernet.edges.weights:
            weight.requires_grad_(True)
    network(torch.randn(4, 3, 19, 19)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.is_leaf, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_deriving_keeps_float64():
    supernet = SuperNet(small_space()).double()
    network = supernet.derive([0] * 12)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert_same(supernet.stem.state_dict(), network.stem.state_dict())


@pytest.mark.parametrize("choices", [[0] * 11, [0] * 13, [5] + [0] * 11, [-1] * 12])
def test_deriving_choices_that_are_none_is_an_error(supernet, choices):
    with pytest.raises(UserError, match="each of the 12 edges of space 'small'"):
        supernet.derive(choices)


# Size and cost.


@pytest.mark.parametrize(
    ("model", "channels", "resolution", "parameters", "macs"),
    [
        (ConvBNAct(3, 8, 3, stride=2), 3, 15, 9 * 3 * 8 + 16, 8 * 8 * 9 * 3 * 8),
        (
            MBConv(4, 6, 5, stride=2, expand_ratio=3),
            4,
            7,
            4 * 12 + 25 * 12 + 12 * 6 + 2 * (12 + 12 + 6),
            7 * 7 * 4 * 12 + 4 * 4 * 25 * 12 + 4 * 4 * 12 * 6,
        ),
        (MBConv(4, 4, 3, expand_ratio=1), 4, 6, 36 + 16 + 16, 6 * 6 * (36 + 16)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7)), 5, 9, 42, 35),
        (Zero(), 3, 9, 0, 0),
    ],
    ids=["stem", "mbconv", "mbconv without expansion", "linear", "zero"],
)
def test_size_and_cost_of_single_layers(model, channels, resolution, parameters, macs):
    assert count_parameters(model) == parameters
    assert count_macs(model, resolution, in_channels=channels) == macs


def macs_by_hand(layer):
    """Multiply-accumulates of one layer, from its shapes."""
    into, out = layer.in_channels, layer.out_channels
    pixels_in, pixels_out = layer.in_size**2, layer.out_size**2
    if layer.kind == "stem":
        return pixels_out * 9 * into * out
    if layer.kind == "feature_mix":
        return pixels_out * into * out
    if layer.kind == "pool":
        return 0
    if layer.kind in ("pooled_mix", "classifier"):
        return into * out
    if not isinstance(layer.spec, MBConvSpec):
        return 0
    hidden = into * layer.spec.expand_ratio
    expand = pixels_in * into * hidden if layer.spec.expand_ratio > 1 else 0
    return expand + pixels_out * hidden * (layer.spec.kernel_size**2 + out)


@settings(max_examples=10)
@given(small_architectures())
def test_cost_of_a_network_is_the_sum_of_its_layers(architecture):
    macs = count_macs(Network(architecture), architecture.resolution, architecture.stem.in_channels)
    assert macs == sum(macs_by_hand(layer) for layer in architecture.layers())


def test_cost_of_a_supernet_is_that_of_its_active_path(supernet):
    choices = [2, 2, 4, 1, 0, 1, 2, 0, 1, 2, 0, 1]
    supernet.edges.activate(choices)
    derived = Network(supernet.space.architecture(choices))
    assert count_macs(supernet, 19) == count_macs(derived, 19) > 0


@pytest.mark.parametrize("training", [False, True])
def test_counting_leaves_the_model_as_it_is(supernet, training):
    supernet.train(training)
    supernet.edges.activate([1] * 12)
    before = snapshot(supernet)
    random_state = torch.get_rng_state()
    tensors = [id(tensor) for tensor in (*supernet.parameters(), *supernet.buffers())]
    count_macs(supernet, 19)
    count_parameters(supernet)
    assert_same(before, supernet.state_dict())
    assert [id(tensor) for tensor in (*supernet.parameters(), *supernet.buffers())] == tensors
    assert all(module.training is training for module in supernet.modules())
    assert all(parameter.requires_grad for parameter in supernet.parameters())
    assert supernet.edges.active == [1] * 12
    assert torch.equal(torch.get_rng_state(), random_state)
