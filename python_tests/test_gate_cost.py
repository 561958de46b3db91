from __future__ import annotations

import gc
from collections import Counter
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proxyless_ext import Edges, MBConv, MixedOp, Zero
from proxyless_ext.nn import GateMode


class Operations(TorchDispatchMode):
    """Counts tensor operations, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Counts reads of tensors that would lie on the alphas' device, each a wait for it.

    Those are the alphas and all that is computed from them, up to `Tensor.cpu`.
    """

    READS = frozenset(
        ("cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__")
    )

    def __init__(self, edges: Edges) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.on_device: dict[int, Tensor] = {id(alpha): alpha for alpha in edges.alphas}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(id(leaf) in self.on_device for leaf in tree_leaves((args, kwargs))):
            self.counts[func.__name__] += func.__name__ in self.READS
            if func is Tensor.cpu:
                return result.clone()
            self.on_device |= {
                id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)
            }
        return result


def bare_edges(num_edges: int, num_candidates: int) -> Edges:
    """Edges that cost nothing themselves, the last one with a candidate less."""
    nothing = nn.Identity()
    sizes = [num_candidates] * (num_edges - 1) + [num_candidates - 1]
    return Edges(nn.Sequential(*(MixedOp([nothing] * size) for size in sizes)))


def gate_step_without_model(edges: Edges, mode: GateMode) -> None:
    """All of a gate step but the model's own work."""
    with edges.gate_step(mode) as step:
        step.gates.grad = torch.ones_like(step.gates)
    for alpha in edges.alphas:
        alpha.grad = torch.zeros_like(alpha)
    step.update(lambda: None)


def count_operations(edges: Edges, mode: GateMode | None) -> int:
    with Operations() as operations:
        if mode:
            gate_step_without_model(edges, mode)
        else:
            edges.sample()
    return operations.counts.total()


# A loop over candidates, as the published code has it, takes 10,545 operations at 21 edges of 7.
@pytest.mark.parametrize(
    ("mode", "limit"), [(None, 100), ("full", 250), ("two_path", 400)], ids=str
)
def test_few_operations_an_edge_however_many_candidates(mode: GateMode | None, limit: int) -> None:
    assert count_operations(bare_edges(21, 7), mode) <= limit
    assert count_operations(bare_edges(21, 70), mode) == count_operations(bare_edges(21, 7), mode)


@pytest.mark.parametrize("mode", [None, "full", "two_path"])
@pytest.mark.parametrize("size", [(1, 3), (21, 7)])
def test_one_wait_for_the_device(mode: GateMode | None, size: tuple[int, int]) -> None:
    edges = bare_edges(*size)
    with Waits(edges) as waits:
        if mode:
            gate_step_without_model(edges, mode)
        else:
            edges.sample()
    assert +waits.counts == {"cpu": 1}


def candidates(channels: int, num_candidates: int) -> list[nn.Module]:
    sizes = [3, 5, 7, 3, 5]
    return [MBConv(channels, channels, size) for size in sizes[: num_candidates - 1]] + [Zero()]


def deep_model(num_candidates: int) -> nn.Module:
    """Two edges behind a layer with weights and before one; the first edge has a shortcut."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixed = MixedOp(candidates(8, num_candidates))

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = x + self.mixed(x)
            return output

    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Residual(), MixedOp(candidates(8, num_candidates)), nn.Conv2d(8, 4, 1)
    )


IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Saved:
    """A tensor that the graph keeps for backward."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class GraphMemory(saved_tensors_hooks):
    """Bytes of the activations, each storage once, that the graph keeps for backward."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {weight.data_ptr() for weight in model.parameters()}
        self.kept: WeakSet[Saved] = WeakSet()
        super().__init__(self._pack, lambda saved: saved.tensor)

    def _pack(self, tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        self.kept.add(saved)
        return saved

    @property
    def num_bytes(self) -> int:
        storages = [saved.tensor.untyped_storage() for saved in self.kept]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(size for address, size in sizes.items() if address not in self.weights)


@pytest.mark.parametrize("mode", ["full", "two_path"])
@pytest.mark.parametrize("paths", [(0, 1), (1, 4), (4, 0), (4, 4)])
def test_a_gate_step_needs_the_memory_of_one_path(mode: GateMode, paths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = deep_model(5)
    edges = Edges(model)
    for mixed, path in zip(edges.mixed_ops, paths, strict=True):
        mixed.alpha.data[path] = 50
    gate_step, backward, weight_step = (GraphMemory(model) for _ in range(3))
    with edges.gate_step(mode, torch.Generator().manual_seed(0)):
        with gate_step:
            loss = model(IMAGES).sum()
        gate_step_bytes = gate_step.num_bytes
        # Inactive candidates run in backward: nothing of them is kept.
        with backward:
            loss.backward()
        assert not backward.kept
    assert edges.active == list(paths)
    with weight_step:
        loss = model(IMAGES).sum()
    # Zero itself keeps nothing, but the other gates of its edge need the edge's input and output.
    zero_bytes = 2 * 4 * 2 * 8 * 10 * 10
    assert 0 < gate_step_bytes <= weight_step.num_bytes + paths.count(4) * zero_bytes


@pytest.mark.parametrize("mode", ["full", "two_path"])
def test_no_graph_outlives_its_step(mode: GateMode) -> None:
    model = deep_model(4)
    edges = Edges(model)
    memory = GraphMemory(model)
    gc.disable()  # Reference counts alone must free it, at once.
    try:
        with memory, edges.gate_step(mode) as step:
            loss = model(IMAGES).sum() + step.probabilities.sum()
        assert memory.kept
        loss.backward()
        step.update(lambda: None)
        del loss, step
        assert not memory.kept
    finally:
        gc.enable()
    assert all(alpha.grad is not None and not alpha.grad.requires_grad for alpha in edges.alphas)
