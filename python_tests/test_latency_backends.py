"""PyTorch as a device: torch.compile, other dtypes, and GPUs by stand-ins."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxyless_ext.compilers import cxx
from proxyless_ext.config import LatencyConfig
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Conditions, Remote, measure_network
from proxyless_ext.latency.backends import make_backend
from proxyless_ext.latency.backends.base import gpu_seconds, torch_threads
from proxyless_ext.latency.gpu import GpuState, read_gpu
from proxyless_ext.nn import MBConv

COMPILE = Conditions(backend="compile", warmup=0, repetitions=1)
PICTURES = torch.zeros(1, 3, 4, 4)


class Branching(nn.Module):
    """Does one thing or another with its input, which is no single graph."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.sum() > 0 else x


# torch.compile.


def test_each_module_is_compiled_once_as_it_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, torch.dtype]] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        (x,) = (each for each in inputs if each.ndim == 4 and len(each) == 1)
        compiled.append((torch.get_num_threads(), x.dtype))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    threads = torch.get_num_threads()
    conditions = Conditions(backend="compile", threads=threads + 1, dtype="bfloat16")
    backend = make_backend(conditions)
    many = 2 + torch._dynamo.config.recompile_limit
    runs = [backend.build(nn.Conv2d(3, 3, 1), PICTURES) for _ in range(many)]
    assert compiled == [(threads + 1, torch.bfloat16)] * many
    assert torch.get_num_threads() == threads
    with torch_threads(threads + 1), torch.compiler.set_stance("fail_on_recompile"):
        assert all(run() > 0 for run in runs)
    assert len(compiled) == many


def test_what_is_no_single_graph_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"torch\.compile fails on Branching: .* backend eager$"):
        measure_network(Branching(), 4, COMPILE)


def test_without_a_compiler_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "abacus++")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, .* program 'abacus\+\+'"):
        make_backend(COMPILE)
    monkeypatch.delenv("CXX")
    make_backend(COMPILE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no program '(g|clang)\+\+'"):
        make_backend(COMPILE)


def test_the_compiler_is_the_one_that_torch_takes() -> None:
    from torch._inductor import config  # Slow to import.

    assert config.cpp.cxx[-1] == cxx()


# Numbers of other types.


class Seeing(nn.Module):
    """Notes what it computes with."""

    seen: list[tuple[torch.dtype, torch.dtype]] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("places", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.places, Tensor)
        assert self.places.dtype == torch.int64
        self.seen.append((self.weight.dtype, x.dtype))
        return self.weight * x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_and_pictures_have_the_dtype(dtype: Any) -> None:
    module = Seeing()
    expected = getattr(torch, dtype)
    backend = make_backend(Conditions(dtype=dtype))
    for example, kind in (
        (PICTURES, expected),
        (torch.zeros(1, 4, dtype=torch.int64), torch.int64),
    ):
        Seeing.seen.clear()
        assert backend.build(module, example)() > 0
        assert Seeing.seen == [(expected, kind)]
    assert module.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_operation_that_comes_with_the_package_has_other_dtypes(dtype: Any) -> None:
    conditions = Conditions(dtype=dtype, warmup=0, repetitions=1)
    block = MBConv(8, 8, 3, activation="hswish", squeeze=True)
    assert measure_network(block, 4, conditions, in_channels=8).mean > 0


def test_other_dtypes_are_of_plain_blocks() -> None:
    for backend, dtype in itertools.product(("eager", "compile"), ("bfloat16", "float16")):
        for settings in (Conditions, LatencyConfig):
            assert settings.model_validate({"backend": backend, "dtype": dtype}).blocks == "plain"
    assert Conditions(dtype="float32").blocks == LatencyConfig(backend="eager").blocks == "fused"
    assert LatencyConfig(backend="eager", dtype="float16").conditions().dtype == "float16"


REMOTE: dict[str, Any] = {"processor": "toy", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"blocks": "fused", "dtype": "bfloat16"},
            "fused blocks are measured in float32, not in bfloat16; use blocks plain",
        ),
        (
            {"backend": "onnxruntime", "dtype": "float16"},
            "onnxruntime takes networks in float32, not in float16; use backend eager or compile, "
            "or a command",
        ),
        (
            {"backend": "command", "remote": Remote(command="perf {onnx}"), **REMOTE},
            r"the command 'perf {onnx}' is given networks in float32, not in bfloat16; leave the "
            "dtype out, and let it convert or quantise them itself",
        ),
        (
            {"backend": "toy", "remote": Remote(), **REMOTE},
            "the plug-in is given networks in float32, not in bfloat16; leave the dtype out",
        ),
        ({"backend": "compile", "blocks": "fused"}, "compile has no fused blocks"),
    ],
)
def test_what_has_no_such_dtype_says_so(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Conditions(**asked)


def test_a_table_that_does_not_say_its_dtype_is_of_float32() -> None:
    said = Conditions(dtype="bfloat16").model_dump(mode="json")
    assert Conditions.recorded(said, "table.yaml").dtype == "bfloat16"
    del said["dtype"]
    assert Conditions.recorded(said, "table.yaml").dtype == "float32"


# A GPU, of which there is none here.


def test_events_time_what_lies_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.name = f"event {log.count('made')}"
            log.append("made")

        def record(self) -> None:
            log.append(f"record {self.name}")

        def synchronize(self) -> None:
            log.append(f"wait for {self.name}")

        def elapsed_time(self, end: Event) -> float:
            log.append(f"{self.name} to {end.name}")
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert gpu_seconds(lambda: log.append("run")) == 0.0025
    order = ["record event 0", "run", "record event 1", "wait for event 1", "event 0 to event 1"]
    assert log == ["made", "made", *order]


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (
            "echo P0, 1980, 2619, 412.07, 700.00",
            GpuState(
                power_state="P0",
                clock_mhz=1980,
                memory_clock_mhz=2619,
                power_w=412.07,
                power_limit_w=700,
            ),
        ),
        (
            "echo 'P8, 300, [N/A], [Not Supported], [N/A]'",
            GpuState(
                power_state="P8",
                clock_mhz=300,
                memory_clock_mhz=None,
                power_w=None,
                power_limit_w=None,
            ),
        ),
        ("echo No devices were found; exit 6", None),
        ("echo P0, fast, 2619, 412.07, 700.00", None),
        ("echo P0", None),
        (None, None),
    ],
)
def test_a_gpus_clocks_and_power_are_read(
    says: str | None, expected: GpuState | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12ab-34cd")
    )
    path = str(tmp_path)
    if says is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n{says}\n')
        program.chmod(0o755)
        path += os.pathsep + os.environ["PATH"]
    monkeypatch.setenv("PATH", path)
    assert read_gpu("cuda") == expected
    if says is not None:
        asked = (tmp_path / "asked").read_text().split()
        assert asked[0] == "--id=GPU-12ab-34cd"
        assert asked[1] == "--query-gpu=pstate,clocks.sm,clocks.mem,power.draw,power.limit"


@pytest.mark.parametrize("device", ["cpu", "remote"])
def test_other_devices_have_no_state_of_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cuda, "get_device_properties")
    assert read_gpu(device) is None
