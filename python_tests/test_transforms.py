"""MBConv under what takes models apart: torch.func, forward mode, fx, jit; against plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_runs import SPACE
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torchvision.models.feature_extraction import create_feature_extractor

from proxyless_ext import MBConv, MixedOp, Network, SuperNet, UserError, ops
from proxyless_ext.nn import Identity

torch.manual_seed(0)
X = torch.rand(2, 3, 5, 5, dtype=torch.float64)
DIRECTION = torch.rand_like(X)
FUSED = torch.ops.proxyless.mbconv_forward.default


def block(**settings: object) -> MBConv:
    """A block whose statistics are not those it was built with."""
    torch.manual_seed(1)
    module = MBConv(3, 3, 3, expand_ratio=2, **settings).double()
    module.train()
    module(X)
    return module.eval()


def plain(module: nn.Module) -> nn.Module:
    """The same with plain layers."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        if isinstance(part, MBConv):
            part.fused = False
    return twin


def dual(module: nn.Module) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(module(forward_ad.make_dual(X, DIRECTION))).tangent


def by_weights(module: nn.Module) -> Tensor:
    weights = dict(module.named_parameters())
    gradients = grad(lambda w: functional_call(module, w, (X,)).square().sum())(weights)
    return torch.cat([each.flatten() for each in gradients.values()])


TRANSFORMS: dict[str, Callable[[nn.Module], Tensor]] = {
    "jvp": lambda module: jvp(module, (X,), (DIRECTION,))[1],
    "jacfwd": lambda module: jacfwd(module)(X[:1, :, :2, :2]),
    "linearize": lambda module: linearize(module, X)[1](DIRECTION),
    "dual_level": dual,
    "vjp": lambda module: vjp(module, X)[1](DIRECTION)[0],
    "grad": lambda module: grad(lambda x: module(x).square().sum())(X),
    "grad of weights": by_weights,
    "vmap": lambda module: vmap(module)(X[None].expand(3, -1, -1, -1, -1)),
    "vmap of grad": lambda module: vmap(grad(lambda x: module(x[None]).square().sum()))(X),
    "jacrev": lambda module: jacrev(module)(X[:1, :, :2, :2]),
    "hessian": lambda module: hessian(lambda x: module(x).square().sum())(X[:1, :, :2, :2]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: MixedOp([m, Identity()])])
def test_transforms_give_what_plain_layers_give(
    name: str, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    module = wrap(block())
    if name == "linearize":  # Which needs that of plain layers, too.
        module.requires_grad_(False)
    found, expected = (TRANSFORMS[name](each) for each in (module, plain(module)))
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["jvp", "dual_level", "grad"])
def test_and_so_in_training(name: str) -> None:
    module = block().train()
    for norm in module.modules():  # Statistics that a transform could not change in place.
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = None
    found, expected = (TRANSFORMS[name](each) for each in (module, plain(module)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["jvp", "dual_level", "grad", "vmap"])
def test_what_is_to_be_fused_says_that_it_cannot(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot run as one operator, because (a transform|deriv)"):
        TRANSFORMS[name](block(fused=True))


@pytest.mark.parametrize("name", ["jvp", "dual_level", "vmap"])
def test_operators_themselves_say_so_instead_of_giving_zero(name: str) -> None:
    module = block()
    layers = (module.expand, module.depthwise, module.project)
    weights = [layer.conv.weight.detach() for layer in layers]

    def vector(attribute: str) -> Tensor:
        return torch.cat([getattr(layer.bn, attribute).detach() for layer in layers])

    vectors = [vector(each) for each in ("weight", "bias", "running_mean", "running_var")]
    with pytest.raises(UserError, match=r"mbconv has no rule for this: .*; use plain layers there"):
        TRANSFORMS[name](lambda x: ops.mbconv(x, *weights, *vectors, eps=1e-3).y)


def test_outside_transforms_blocks_are_fused() -> None:
    with forward_ad.dual_level():
        pass
    jvp(block(), (X,), (DIRECTION,))
    with torch.profiler.profile() as profile:
        block()(X)
    assert "proxyless::mbconv_forward" in {event.name for event in profile.events()}
    graphs: list[list[object]] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append([node.target for node in graph.graph.nodes])
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(block(), backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(X), block()(X))
    assert FUSED in graphs[0] or torch.ops.proxyless.mbconv_forward in graphs[0]


def test_compiled_transforms_are_right() -> None:
    module = block()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: TRANSFORMS["jvp"](module) + 0 * x.sum(), backend="eager")
    torch.testing.assert_close(compiled(X), TRANSFORMS["jvp"](plain(module)))


def network() -> Network:
    torch.manual_seed(2)
    return Network(SPACE.architecture([0, 1, 2, 3])).eval()


@pytest.mark.parametrize("make", [network, lambda: SuperNet(SPACE).eval()])
def test_models_are_traced_to_standard_operations(make: Callable[[], nn.Module]) -> None:
    model, pictures = make(), torch.rand(2, 3, 8, 8)
    expected = model(pictures)
    symbolic = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(symbolic(pictures), expected)
    assert not any("mbconv" in str(node.target) for node in symbolic.graph.nodes)
    traced = torch.jit.trace(model, pictures)
    torch.testing.assert_close(traced(pictures), expected)
    assert "proxyless::" not in str(traced.inlined_graph)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: MixedOp([m, Identity()])])
def test_a_block_alone_is_traced(wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = wrap(block())
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(X), module(X))


def test_features_are_extracted_by_name() -> None:
    model, pictures = network(), torch.rand(2, 3, 8, 8)
    name = "blocks.1.operation.depthwise.act"
    extractor = create_feature_extractor(model, [name, "feature_mix"])
    found = extractor(pictures)
    seen: dict[str, Tensor] = {}
    model.get_submodule(name).register_forward_hook(lambda _, __, y: seen.update({name: y.clone()}))
    model(pictures)
    torch.testing.assert_close(found[name], seen[name])
    assert found["feature_mix"].shape[1] == SPACE.feature_mix
