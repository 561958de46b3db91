"""Candidates that are slices of one set of weights, against blocks with the same weights."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from tiny_runs import SPACE
from torch import Tensor, nn

from proxyless_ext import Edges, MBConv, MixedOp, SuperNet
from proxyless_ext.data import DataConfig, endless, load_pictures
from proxyless_ext.errors import UserError
from proxyless_ext.nn import share_weights
from proxyless_ext.spaces import Space
from proxyless_ext.training.optim import cosine_rate, set_rate

ROOT = Path(__file__).parent.parent

KINDS = [(3, 1), (3, 3), (5, 6), (7, 2)]
HIDDEN, KERNEL = 24, 7


def blocks(stride: int = 1, out_channels: int = 4, fused: bool | None = None) -> list[MBConv]:
    return [
        MBConv(4, out_channels, kernel, stride, expand, fused=fused) for kernel, expand in KINDS
    ]


def materialised(block: MBConv, kernel: int, expand: int, stride: int, out: int) -> MBConv:
    """A block of its own with the same weights and statistics, in float64 on plain layers."""
    own = MBConv(4, out, kernel, stride, expand, fused=False)
    state = block.state_dict()
    for name in ("expand", "depthwise", "project"):
        layer = getattr(block, name)
        if not isinstance(layer, nn.Identity):
            state[f"{name}.conv.weight"] = layer.conv.weight
    own.load_state_dict(state)
    return own.double()


@pytest.mark.parametrize(("stride", "out"), [(1, 4), (2, 6)])
@pytest.mark.parametrize("index", range(len(KINDS)))
def test_a_slice_is_the_block_with_its_weights(index: int, stride: int, out: int) -> None:
    torch.manual_seed(index)
    candidates = blocks(stride, out)
    shared = share_weights(candidates)
    kernel, expand = KINDS[index]
    block, twin = candidates[index], materialised(candidates[index], kernel, expand, stride, out)
    x = torch.randn(5, 4, 7, 9, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    y, y64 = block(x), twin(x64)
    torch.testing.assert_close(y, y64.float(), rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(y)
    (y * grad).sum().backward()
    (y64 * grad.double()).sum().backward()
    assert x.grad is not None
    assert x64.grad is not None
    torch.testing.assert_close(x.grad, x64.grad.float(), rtol=1e-3, atol=1e-4)

    hidden, border = 4 * expand, (KERNEL - kernel) // 2
    inner = slice(border, border + kernel)
    expected = {
        "depthwise": torch.zeros(HIDDEN, 1, KERNEL, KERNEL),
        "project": torch.zeros(out, HIDDEN, 1, 1),
    }
    expected["depthwise"][:hidden, :, inner, inner] = twin.depthwise.conv.weight.grad
    expected["project"][:, :hidden] = twin.project.conv.weight.grad
    if expand > 1:
        expected["expand"] = torch.zeros(HIDDEN, 4, 1, 1)
        expected["expand"][:hidden] = twin.expand.conv.weight.grad
    for name, weight in shared.named_parameters():
        if name not in expected:
            assert weight.grad is None
            continue
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-3, atol=1e-4)


def test_gate_gradients_are_those_of_separate_weights() -> None:
    torch.manual_seed(0)
    mixed = MixedOp(blocks(), share=True)
    twins = [
        materialised(block, kernel, expand, 1, 4).float()
        for block, (kernel, expand) in zip(mixed.candidates, KINDS, strict=True)
    ]
    separate = MixedOp(twins)
    separate.load_state_dict({**separate.state_dict(), "alpha": mixed.alpha.detach()})
    x = torch.randn(6, 4, 8, 8)
    target = torch.randn(6, 4, 8, 8)
    gradients = []
    for model in (mixed, separate):
        with Edges(model).gate_step("full", torch.Generator().manual_seed(3)) as step:
            (model(x) * target).sum().backward()
        assert step.gates.grad is not None
        gradients.append(step.gates.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def supernet() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(SPACE.model_copy(update={"weights": "shared"}))


def test_a_supernet_with_shared_weights() -> None:
    shared, separate = supernet(), SuperNet(SPACE)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (shared, separate)]
    assert sizes[0] < sizes[1]
    assert {id(p) for p in shared.edges.weights} >= {
        id(weight) for mixed in shared.edges.mixed_ops for weight in mixed.shared.parameters()
    }
    x = torch.randn(4, 3, 8, 8)
    for choices in ([0, 1, 2, 0], [2, 3, 0, 2], [1, 1, 1, 1]):
        shared.edges.activate(choices)
        shared.train()(x)
        torch.testing.assert_close(shared.derive(choices).eval()(x), shared.eval()(x))


def test_it_can_be_kept_copied_and_moved() -> None:
    net, x = supernet(), torch.randn(2, 3, 8, 8)
    net.edges.activate([2, 1, 1, 0])
    expected: Tensor = net.eval()(x)
    other = SuperNet(net.space)
    other.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    pickled = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for each in (other, copied, pickled):
        each.edges.activate([2, 1, 1, 0])
        torch.testing.assert_close(each.eval()(x), expected)
        assert each.double()(x.double()).dtype == torch.float64


def test_bad_input() -> None:
    with pytest.raises(UserError, match="no candidate is an MBConv"):
        share_weights([nn.Identity()])
    with pytest.raises(UserError, match="need the same channels and stride"):
        share_weights([MBConv(4, 4, 3), MBConv(4, 8, 3)])
    shared = blocks()
    share_weights(shared)
    with pytest.raises(UserError, match="before anything in them is changed"):
        share_weights(shared)


@pytest.mark.slow
def test_edges_that_change_the_shape_learn() -> None:
    """480 steps on digits, uniform paths, six candidates at each of three such edges."""
    data = load_pictures(DataConfig(source="digits", gate_fraction=0.3), 32, 0)
    space = Space.load(ROOT / "configs" / "spaces" / "small.yaml").with_classes(10)
    assert sum(not edge.shortcut for edge in space.edges) == 3
    torch.manual_seed(0)
    net = SuperNet(space).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.edges.weights, 0.1, momentum=0.9, nesterov=True)
    stream, draw = endless(data.train_weights, 32, 0, "train"), torch.Generator().manual_seed(0)
    hits = []
    for step in range(480):
        set_rate(optimizer, cosine_rate(0.1, step, 480))
        pictures, labels = next(stream)
        net.edges.sample(draw, uniformly=True)
        optimizer.zero_grad()
        logits = net(pictures)
        nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        optimizer.step()
        hits.append((logits.argmax(1) == labels).float().mean().item())
    assert sum(hits[-48:]) / 48 > 0.85
