"""What runs on a GPU, told without one by fake tensors: they have a device, but no values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from operator_calls import OperatorCalls
from torch import nn
from torch._subclasses import FakeTensorMode

from proxyless_ext import MBConv, UserError, gates, ops
from proxyless_ext.nn.statistics import InputStatistics

LACKING = [
    (torch.float64, 3, "there are no kernels for float64 on GPUs"),
    (torch.float32, 9, "there are no kernels for a kernel_size of 9 on GPUs"),
]


@pytest.fixture
def gpu() -> Iterator[None]:
    """New tensors are on it, and fake."""
    with FakeTensorMode(), torch.device("cuda"):
        yield


@pytest.fixture
def calls(gpu: None) -> Iterator[OperatorCalls]:
    with OperatorCalls() as calls:
        yield calls


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "cuda_ops_loaded", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.fixture
def old(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that kernels were not built for."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "cuda_ops_loaded", lambda: False)


def mbconv(
    kernel: int = 3, dtype: torch.dtype = torch.float32, fused: bool | None = None
) -> MBConv:
    """Made in its type, since a fake one cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return MBConv(4, 6, kernel, fused=fused)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_run_fused(calls: OperatorCalls, dtype: torch.dtype, kernel: int) -> None:
    block = mbconv(kernel, dtype, fused=True)
    x = torch.empty(2, 4, 8, 8, dtype=dtype)
    y = block(x)
    probe = block.gate_probe(torch.empty_like(y), x, InputStatistics(x))
    assert calls.names == ["mbconv_forward", "mbconv_moments", "mbconv_gate_probe"]
    assert y.device == x.device
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert probe is not None
    assert probe.device == x.device


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("dtype", "kernel", "reason"), LACKING)
def test_blocks_without_kernels_run_as_plain_layers(
    calls: OperatorCalls, dtype: torch.dtype, kernel: int, reason: str
) -> None:
    x = torch.empty(2, 4, 8, 8, dtype=dtype)
    assert mbconv(kernel, dtype)(x).device == x.device
    assert not calls.made
    with pytest.raises(UserError, match=f"because {reason}; build it with fused=None"):
        mbconv(kernel, dtype, fused=True)(x)


@pytest.mark.usefixtures("not_built")
def test_without_operators_for_gpus_plain_layers_run_and_say_so(calls: OperatorCalls) -> None:
    x = torch.empty(2, 4, 8, 8)
    with pytest.warns(UserWarning, match="operators for GPUs are not built"):
        assert mbconv()(x).device == x.device
    assert not calls.made
    with (
        pytest.warns(UserWarning, match="operators for GPUs are not built"),
        pytest.raises(UserError, match="because the operators for GPUs are not built"),
    ):
        mbconv(fused=True)(x)


def compiles_whole(block: nn.Module) -> bool:
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend="eager")
        return compiled(torch.empty(2, 4, 8, 8)).is_cuda


@pytest.mark.usefixtures("old")
def test_on_old_gpus_plain_layers_run_and_say_so(calls: OperatorCalls) -> None:
    reason = r"the GPU's compute capability is 7\.5, and kernels need 8\.0"
    with pytest.warns(UserWarning, match=f"No fused operators here: {reason}. So fused blocks run"):
        mbconv()(torch.empty(2, 4, 7, 7))
    assert not any("mbconv" in name for name, _ in calls.made)
    with (
        pytest.warns(UserWarning, match="No fused operators here"),
        pytest.raises(UserError, match=f"because {reason}; build it with fused=None"),
    ):
        mbconv(fused=True)(torch.empty(2, 4, 7, 7))
    assert not ops.has_kernels(torch.device("cuda"))


@pytest.mark.usefixtures("built", "gpu")
def test_compiles_into_one_graph() -> None:
    assert compiles_whole(mbconv(fused=True))


@pytest.mark.usefixtures("not_built", "gpu")
def test_compiles_into_one_graph_without_operators_for_gpus() -> None:
    with pytest.warns(UserWarning, match="operators for GPUs are not built"):
        assert compiles_whole(mbconv())


@pytest.mark.usefixtures("built")
def test_gates_stay_on_the_gpu(calls: OperatorCalls) -> None:
    alpha = torch.empty(3, 5)
    assert gates.alpha_gradient(alpha, torch.empty(3, 5)).device == alpha.device
    [(name, arguments)] = calls.made
    assert name == "alpha_gradient"
    assert {tensor.device for tensor in arguments.values()} == {alpha.device}


@pytest.mark.usefixtures("not_built")
def test_gates_go_to_the_cpu_and_back_without_operators_for_gpus(calls: OperatorCalls) -> None:
    alpha = torch.empty(3, 5)
    assert gates.alpha_gradient(alpha, torch.empty(3, 5)).device == alpha.device
    [(_, arguments)] = calls.made
    assert {tensor.device.type for tensor in arguments.values()} == {"cpu"}
