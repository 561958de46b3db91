"""Modules that run fused operators against the same modules in plain layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest
import torch
from explicit_gates import explicit_gates
from fused_steps import SIZE, assert_agree, disturb, generator, norms_of, picture, step
from mbconv_cases import relative_error
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from proxyless_ext import Edges, MBConv, MixedOp, Network, Space, SuperNet, UserError, Zero, ops
from proxyless_ext.export import to_onnx
from proxyless_ext.nn import ConvBNAct, count_macs
from proxyless_ext.nn.statistics import InputStatistics
from proxyless_ext.spaces import FirstBlock, Stage, Stem

# In and out channels, kernel, stride, expand ratio.
SHAPES = [(3, 5, 3, 1, 6), (4, 7, 5, 2, 3), (5, 6, 7, 1, 1), (6, 3, 3, 2, 1), (5, 5, 5, 1, 2)]


def twins(
    shape: tuple[int, ...] = SHAPES[0], dtype: torch.dtype = torch.float64
) -> tuple[MBConv, MBConv]:
    """A block that must run fused, and the same one that must not."""
    torch.manual_seed(0)
    fused = MBConv(*shape, fused=True).to(dtype)
    disturb(fused)
    plain = copy.deepcopy(fused)
    plain.fused = False
    return fused, plain


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each operator was called from here on."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        op = getattr(ops, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return op(*args, **kwargs)

        return call

    for name in ("mbconv", "mbconv_gate_probe", "mbconv_moments"):
        monkeypatch.setattr(ops, name, counted(name))
    return counts


# --- One block ---


def freeze(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.eval()


def leave_untracked(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.track_running_stats = False


def drop_statistics(module: nn.Module) -> None:
    """As BatchNorm2d(track_running_stats=False), which knows the batch's statistics alone."""
    leave_untracked(module)
    for norm in norms_of(module):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    module.eval()


def average_all(module: nn.Module) -> None:
    for norm in norms_of(module):
        norm.momentum = None


def vary_momentum(module: nn.Module) -> None:
    for norm, momentum in zip(norms_of(module), (0, 1, 0.3), strict=False):
        norm.momentum = momentum


def drop_affine(module: nn.Module) -> None:
    """As BatchNorm2d(affine=False), in the first layer only."""
    norm: Any = norms_of(module)[0]
    norm.weight = norm.bias = None


def freeze_weights(module: nn.Module) -> None:
    module.requires_grad_(False)


SETTINGS: list[Callable[[nn.Module], Any]] = [
    nn.Module.train,
    nn.Module.eval,
    freeze,
    leave_untracked,
    drop_statistics,
    average_all,
    vary_momentum,
    drop_affine,
    freeze_weights,
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_does_what_plain_layers_do(shape: tuple[int, ...], setting: Callable[..., Any]) -> None:
    fused, plain = twins(shape)
    for block in (fused, plain):
        setting(block)
    for seed in range(3):  # Running statistics depend on the step.
        x = picture(shape[0], seed=seed)
        assert_agree(step(fused, x), step(plain, x), 1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_does_what_plain_layers_do_in_float32(shape: tuple[int, ...], training: bool) -> None:
    fused, plain = (block.float().train(training) for block in twins(shape))
    x = picture(shape[0], torch.float32)
    assert_agree(step(fused, x), step(plain, x), 3e-5)


@pytest.mark.parametrize("shape", [(5, 5, 3, 1, 4), (5, 5, 5, 1, 1)], ids=str)
def test_adds_its_input_on_request(shape: tuple[int, ...]) -> None:
    fused, plain = twins(shape)
    x = picture(shape[0])
    found = step(fused, x, residual=True)
    assert_agree(found, step(plain, x, residual=True), 1e-11)
    assert relative_error(found["y"] - x, step(plain, x)["y"]) < 1e-11


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_the_layout_of_the_input_does_not_matter(shape: tuple[int, ...]) -> None:
    x = picture(shape[0], torch.float32)
    layouts = [x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT]
    results = [step(twins(shape, torch.float32)[0], each) for each in layouts]
    for result in results:
        assert result["y"].is_contiguous(memory_format=torch.channels_last)
        assert_agree(result, results[0], 1e-30)


@pytest.mark.parametrize("training", [True, False])
def test_rounds_no_more_than_plain_layers_under_autocast(training: bool) -> None:
    fused, plain = (block.float().train(training) for block in twins(SHAPES[4]))
    exact = step(copy.deepcopy(plain).double(), picture(5))
    x = picture(5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = step(fused, x), step(plain, x)
    assert found["y"].dtype == torch.bfloat16
    errors = [0.0, 0.0]
    for name, value in found.items():
        assert value.dtype == rounded[name].dtype, name
        size = exact[name].double().norm().clamp(min=1)
        for each, tensor in enumerate((value, rounded[name])):
            errors[each] += float((tensor.double() - exact[name].double()).norm() / size)
    assert errors[0] < 1.3 * errors[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_stay_so(dtype: torch.dtype) -> None:
    fused, plain = twins(SHAPES[4])
    expected = step(plain, picture(5).to(dtype).double())
    found = step(fused.to(dtype), picture(5, dtype))
    for name, value in found.items():
        if value.is_floating_point():
            assert value.dtype == dtype
        assert relative_error(value.double(), expected[name].double()) < 0.1, name


def test_an_empty_batch_moves_no_statistics() -> None:
    fused, plain = twins()
    x = picture(3)[:0]
    for block in (fused, plain):
        assert block(x).shape == (0, 5, 9, 7)
    state = plain.state_dict()
    assert all(value.equal(state[name]) for name, value in fused.state_dict().items())


def test_state_goes_both_ways() -> None:
    fused, plain = twins()
    names = list(MBConv(3, 5, 3).state_dict())
    assert list(fused.state_dict()) == list(plain.state_dict()) == names
    for source, target in ((fused, plain), (plain, fused)):
        disturb(source, seed=5)
        step(source, picture(3, seed=3))
        target.load_state_dict(source.state_dict())
        assert relative_error(target(picture(3)), source(picture(3))) < 1e-11


def test_tells_how_it_was_built() -> None:
    for fused in (None, True, False):
        assert f"fused={fused}" in repr(MBConv(3, 5, 3, fused=fused))


def test_keeps_neither_the_expanded_tensor_nor_a_copy_of_its_input() -> None:
    N, H, W = SIZE
    fused, plain = twins((8, 8, 3, 1, 6), torch.float32)
    x = picture(8, torch.float32).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    sizes = []
    for block in (fused, plain):
        kept: list[Tensor] = []
        with saved_tensors_hooks(lambda tensor, kept=kept: kept.append(tensor), lambda _: None):
            block(x)
        weights = {weight.data_ptr() for weight in block.parameters()}
        bytes_of = {t.data_ptr(): t.untyped_storage().nbytes() for t in kept}
        sizes.append(sum(n for address, n in bytes_of.items() if address not in weights))
    # x, the output of project, and vectors.
    assert sizes[0] < 4 * (N * H * W * (8 + 8) + 1000) + 8 * 9 * 8
    assert sizes[0] < sizes[1] / 8


# --- When plain layers run ---


def add_hook(block: Any) -> None:
    block.depthwise.bn.register_forward_hook(lambda module, args, output: 2 * output)


def add_pre_hook(block: Any) -> None:
    block.depthwise.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def prune_weights(block: Any) -> None:
    prune.l1_unstructured(block.project.conv, "weight", amount=0.5)


def parametrise(block: Any) -> None:
    parametrize.register_parametrization(block.expand.conv, "weight", nn.Tanh())


def add_bias(block: Any) -> None:
    block.project.conv.bias = nn.Parameter(torch.ones(5, dtype=torch.float64))


def replace_activation(block: Any) -> None:
    block.expand.act = nn.SiLU()


def replace_norm(block: Any) -> None:
    block.project.bn = nn.GroupNorm(1, 5).double()


def append_layer(block: Any) -> None:
    block.depthwise.append(nn.Tanh())


def replace_forward(block: Any) -> None:
    block.project.conv.forward = lambda x: F.conv2d(x, block.project.conv.weight) ** 2


def pad_by_reflection(block: Any) -> None:
    block.depthwise.conv.padding_mode = "reflect"


def dilate(block: Any) -> None:
    block.depthwise.conv.dilation = block.depthwise.conv.padding = (2, 2)


def stride_by_three(block: Any) -> None:
    block.depthwise.conv.stride = (3, 3)


CHANGES = [
    add_hook,
    add_pre_hook,
    prune_weights,
    parametrise,
    add_bias,
    replace_activation,
    replace_norm,
    append_layer,
    replace_forward,
    pad_by_reflection,
    dilate,
    stride_by_three,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_layers_run_themselves(change: Callable[[Any], None], calls: Counter[str]) -> None:
    block = twins()[0].eval()  # Batch statistics would undo a bias.
    unchanged = copy.deepcopy(block)(picture(3))
    change(block)
    with pytest.raises(UserError, match=r"replaced, changed or hooked.*use plain layers"):
        block(picture(3))
    calls.clear()
    block.fused = None
    x = picture(3)
    y = block(x)
    assert not calls
    assert y.equal(block.project(block.depthwise(block.expand(x))))
    assert y.shape != unchanged.shape or not y.allclose(unchanged)
    grad = torch.ones_like(y)
    assert block.gate_probe(grad, x, InputStatistics(x)) is None


def test_hooks_where_an_expand_layer_would_be_run() -> None:
    block = MBConv(3, 5, 3, expand_ratio=1)
    block.expand.register_forward_hook(lambda module, args, output: 0 * output)
    y = block(picture(3, torch.float32))
    assert y.allclose(y[:, :, :1, :1])


def test_devices_without_kernels_use_plain_layers(
    monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    fused, plain = twins()
    monkeypatch.setattr(ops, "unsupported", lambda x, kernel_size: "there are no kernels for cpu")
    with pytest.raises(UserError, match="no kernels for cpu; build it with fused=None"):
        fused(picture(3))
    fused.fused = None
    assert fused(picture(3)).equal(plain(picture(3)))
    assert not calls


def test_missing_operators_are_no_reason_for_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_missing", "build it")
    with pytest.raises(UserError, match="build it"):
        MBConv(3, 5, 3)(picture(3, torch.float32))
    MBConv(3, 5, 3, fused=False)(picture(3, torch.float32))


# --- Errors ---


def test_norms_that_disagree_are_refused() -> None:
    for fused in (None, True):
        block: Any = MBConv(3, 5, 3, fused=fused)
        block.depthwise.eval()
        with pytest.raises(UserError, match="make them alike, or build the block with fused=False"):
            block(picture(3, torch.float32))
        block.train()
        block.project.bn.eps = 1e-5
        before = copy.deepcopy(block.state_dict())
        with pytest.raises(UserError, match="differ in eps"):
            block(picture(3, torch.float32))
        assert all(value.equal(before[name]) for name, value in block.state_dict().items())
        block.fused = False
        block(picture(3, torch.float32))


@pytest.mark.parametrize(("size", "stride"), [((1, 3, 1, 1), 1), ((1, 3, 2, 2), 2)])
def test_a_single_value_has_no_statistics(size: tuple[int, ...], stride: int) -> None:
    for block in twins((3, 5, 3, stride, 2)):
        x = torch.ones(size, dtype=torch.float64)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            block(x)
        block.eval()(x)


# --- Tools that look into modules ---


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_cost_is_that_of_plain_layers(shape: tuple[int, ...]) -> None:
    counts = {count_macs(MBConv(*shape, fused=f), 9, shape[0]) for f in (None, True, False)}
    assert len(counts) == 1
    assert min(counts) > 0


def test_exports_have_standard_operations_only() -> None:
    network = Network(SPACE.architecture([0, 1, 2])).eval()
    x = torch.randn(2, 3, 12, 12)
    model = onnx.load_from_string(to_onnx(network, x))
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert {"Conv", "Clip"} <= {node.op_type for node in model.graph.node}
    for block in twins(dtype=torch.float32):
        for training in (False, True):
            program = torch.export.export(block.train(training), (x,))
            assert "proxyless" not in str(program.graph)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiles_into_one_graph(momentum: float | None) -> None:
    torch.compiler.reset()
    fused, plain = twins(SHAPES[4])
    for norm in (*norms_of(fused), *norms_of(plain)):
        norm.momentum = momentum
    compiled: Any = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        for block in (compiled, plain):
            block.train(training)
        for seed in range(2):
            x = picture(5, seed=seed)
            found = step(compiled, x, residual=True)
            expected = step(plain, x, residual=True)
            found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
            assert_agree(found, expected, 1e-11)


# --- Gates ---


class Edge(nn.Module):
    """An edge between layers with weights, so that its input has a gradient and its output one."""

    def __init__(self, candidates: list[nn.Module]) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)
        self.mixed = MixedOp(candidates)
        self.tail = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tail(self.mixed(self.head(x)).tanh()).sin().sum()
        return y


def edge(dtype: torch.dtype = torch.float64) -> Edge:
    torch.manual_seed(0)
    candidates = [
        *(MBConv(4, 4, kernel, 1, ratio) for kernel, ratio in ((3, 2), (5, 3), (3, 1), (7, 6))),
        MBConv(4, 4, 5, fused=False),
        Zero(),
        nn.Identity(),
    ]
    edge = Edge(candidates).to(dtype)
    disturb(edge)
    return edge


def gate_gradients(model: Edge, x: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """As gate steps find them, and by autograd through all candidates in float64 plain layers."""
    with torch.no_grad():
        model.mixed.alpha.zero_()[active] = 50
    with Edges(model).gate_step("full", generator(0)) as gate_step:
        model(x).backward()
    reference = without_fusion(model).double()
    with explicit_gates(reference, [active]) as gates:
        expected = torch.autograd.grad(reference(x.double()), gates)
    assert gate_step.gates.grad is not None
    return gate_step.gates.grad[0], expected[0]


def without_fusion(model: nn.Module) -> Any:
    """A copy of a model in plain layers."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MBConv):
            module.fused = False
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)], ids=str
)
def test_gates_get_their_gradients_without_instantiated_candidates(
    dtype: torch.dtype, tolerance: float, training: bool, calls: Counter[str]
) -> None:
    model = edge(dtype).train(training)
    x = picture(3, dtype)
    for active in (0, 2, 6):
        state = copy.deepcopy(model.state_dict())
        calls.clear()
        found, expected = gate_gradients(model, x, active)
        assert calls["mbconv_gate_probe"] == 4 - (active < 4)
        assert calls["mbconv"] == (active < 4)
        assert calls["mbconv_moments"] == training
        scale = expected.abs().clamp(min=1)
        assert ((found.double() - expected).abs() / scale).max() < tolerance
        del state["mixed.alpha"]
        assert all(value.equal(model.state_dict()[name]) for name, value in state.items())


def test_moments_are_only_made_for_candidates_that_expand(calls: Counter[str]) -> None:
    model = Edge([MBConv(4, 4, 3, expand_ratio=1), MBConv(4, 4, 5, expand_ratio=1), Zero()])
    with Edges(model).gate_step():
        model(picture(3, torch.float32)).backward()
    assert calls["mbconv_gate_probe"] > 0
    assert calls["mbconv_moments"] == 0


def test_probes_round_no_more_than_plain_layers_under_autocast() -> None:
    model, x = edge(torch.float32), picture(3, torch.float32)
    errors = []
    for candidate in (model, without_fusion(model)):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = gate_gradients(candidate, x, 0)
        errors.append((found.double() - expected).norm())
    assert errors[0] < 2 * errors[1]


def test_probed_candidates_of_another_shape_are_refused() -> None:
    model = Edge([MBConv(4, 4, 3), MBConv(4, 1, 3)])
    model.mixed.alpha.data[0] = 50
    with Edges(model).gate_step(), pytest.raises(UserError, match="grad must have the shape"):
        model(picture(3, torch.float32)).backward()


def test_hooks_and_methods_of_candidates_count_in_gate_steps() -> None:
    class Doubled(MBConv):
        def forward(self, x: Tensor, residual: bool = False) -> Tensor:
            return 2 * super().forward(x, residual)

    model = Edge([nn.Identity(), MBConv(4, 4, 3), MBConv(4, 4, 3), Doubled(4, 4, 3)]).double()
    hooked, plain, doubled = model.mixed.candidates[1:]
    plain.load_state_dict(hooked.state_dict())
    doubled.load_state_dict(hooked.state_dict())
    hooked.register_forward_hook(lambda module, args, output: 3 * output)
    found, expected = gate_gradients(model, picture(3), active=0)
    torch.testing.assert_close(found[1:], found[2] * torch.tensor([3, 1, 2]))
    torch.testing.assert_close(found, expected)


# --- Whole networks ---

SPACE = Space(
    name="tiny",
    resolution=12,
    num_classes=4,
    stem=Stem(out_channels=6, stride=2),
    first_block=FirstBlock(channels=4),
    candidates=("k3e3", "k5e2", "k3e1", "zero"),
    stages=(Stage(channels=4, cells=2), Stage(channels=6, cells=1, stride=2)),
    feature_mix=12,
)
PICTURES = torch.randn(8, 3, 12, 12, dtype=torch.float64, generator=generator(7))
LABELS = torch.randint(4, (8,), generator=generator(8))


def search(supernet: SuperNet) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of 20 steps, each of weights and then of gates, and the state they end in."""
    edges = supernet.edges
    pictures = PICTURES.to(edges.alphas[0].dtype)
    weights = torch.optim.SGD(edges.weights, lr=0.05, momentum=0.9, weight_decay=1e-4)
    alphas = torch.optim.Adam(edges.alphas, lr=0.01, betas=(0.0, 0.999))
    losses = []
    for seed in range(20):
        edges.sample(generator(seed))
        losses.append(F.cross_entropy(supernet(pictures), LABELS))
        weights.zero_grad()
        losses[-1].backward()
        weights.step()
        alphas.zero_grad()
        with edges.gate_step("full", generator(seed)) as gate_step:
            losses.append(F.cross_entropy(supernet(pictures), LABELS))
            losses[-1].backward()
        gate_step.update(alphas.step)
    return torch.stack(losses).detach().double(), supernet.state_dict()


def test_a_search_goes_as_in_plain_layers(calls: Counter[str]) -> None:
    torch.manual_seed(0)
    supernet = SuperNet(SPACE)
    double = copy.deepcopy(supernet).double()
    exact, exact_state = search(without_fusion(double))
    assert not calls
    assert exact[-2:].mean() < 0.8 * exact[:2].mean()

    losses, state = search(double)
    assert calls["mbconv"] > 40
    assert calls["mbconv_gate_probe"] > 40
    torch.testing.assert_close(losses, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(state, exact_state, rtol=1e-8, atol=1e-9)

    # Rounding moves a search in float32; the operators do not move it further.
    plain, plain_state = search(without_fusion(supernet))
    losses, state = search(supernet)
    assert (losses - exact).abs().max() < 3 * (plain - exact).abs().max() + 1e-5
    for name, value in state.items():
        expected = exact_state[name].double()
        errors = [relative_error(v.double(), expected) for v in (value, plain_state[name])]
        assert errors[0] < 3 * errors[1] + 1e-4, name


@pytest.fixture
def network() -> Network:
    """Without skipped blocks."""
    torch.manual_seed(0)
    network = Network(SPACE.architecture([0, 1, 2]))
    disturb(network)
    return network.double()


@pytest.mark.parametrize("training", [True, False])
def test_networks_do_what_plain_layers_do(
    network: Network, training: bool, calls: Counter[str]
) -> None:
    plain = without_fusion(network).train(training)
    expected = step(plain, PICTURES)
    assert not calls
    assert_agree(step(network.train(training), PICTURES), expected, 1e-10)
    assert calls["mbconv"] == 4


def kept_shapes(network: nn.Module) -> set[tuple[int, ...]]:
    """Of what the graph of a step keeps for backward."""
    kept: set[tuple[int, ...]] = set()
    with saved_tensors_hooks(lambda tensor: kept.add(tuple(tensor.shape)), lambda _: None):
        network(PICTURES)
    return kept


def test_the_output_of_the_stem_is_not_kept(network: Network) -> None:
    stem_output = (8, 6, 6, 6)
    assert stem_output in kept_shapes(without_fusion(network))
    assert stem_output not in kept_shapes(network)


def parts_of(network: Any) -> Iterator[nn.Module]:
    """Those whose calls the fused ways around them would skip."""
    yield network.stem
    yield network.stem.conv
    yield network.blocks
    yield network.blocks[0]
    yield network.blocks[0].operation
    yield network.blocks[1].operation


@pytest.mark.parametrize("index", range(6))
def test_hooks_see_what_they_see_in_plain_layers(network: Network, index: int) -> None:
    outputs = []
    for model in (network, without_fusion(network)):
        part = list(parts_of(model))[index]
        part.register_forward_hook(lambda module, args, output: 2 * output)
        seen: list[Tensor] = []
        part.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
        outputs.append([model(PICTURES), *seen])
        assert len(seen) == 1
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.stem.eval(),
        lambda network: setattr(network.stem.bn, "eps", 1e-5),
        lambda network: setattr(network.stem, "act", nn.SiLU()),
        lambda network: setattr(network, "stem", nn.Conv2d(3, 6, 3).double()),
        lambda network: setattr(network, "stem", ConvBNAct(3, 6, 5, 1).double()),
        lambda network: network.stem.requires_grad_(False),
    ],
    ids=["eval", "eps", "activation", "convolution", "5x5", "frozen weights"],
)
def test_any_stem_will_do(network: Network, change: Callable[[Network], Any]) -> None:
    change(network)
    plain = without_fusion(network)
    assert_agree(step(network, PICTURES), step(plain, PICTURES), 1e-10)
