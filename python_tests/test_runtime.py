"""Where a run runs: precisions, threads, and how often the host waits for a device."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_calls import OperatorCalls
from test_phase import Bench, steps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from proxyless_ext.config import RuntimeConfig
from proxyless_ext.errors import UserError
from proxyless_ext.runtime import Runtime
from proxyless_ext.training.evaluation import evaluate
from proxyless_ext.training.meter import Meter

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["full", "reinforce"])
def test_a_runs_precision_reaches_the_kernels(tmp_path: Path, precision: str, mode: str) -> None:
    bench = Bench(tmp_path, runtime__precision=precision, gates__mode=mode)
    with OperatorCalls() as calls:
        for phase in (bench.warm_up(), bench.search(), bench.train()):
            for _ in steps(phase):
                pass
    inputs = {arguments["x"].dtype for name, arguments in calls.made if name.startswith("mbconv_f")}
    assert inputs == {PRECISIONS[precision]}
    probes = {name for name, _ in calls.made if "probe" in name}
    assert bool(probes) == (mode == "full")
    for parameter in bench.supernet.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()
    # What is handed over is float32, and judged in it.
    with OperatorCalls() as calls:
        evaluate(bench.train().result, bench.data.val, 20, bench.runtime.exact())
    assert {arguments["x"].dtype for _, arguments in calls.made} == {torch.float32}


def test_losses_are_near_those_of_float32(tmp_path: Path) -> None:
    def losses(precision: str) -> Tensor:
        (tmp_path / precision).mkdir()
        bench = Bench(tmp_path / precision, runtime__precision=precision)
        means = [meter.means() for _, meter in steps(bench.search())]
        return torch.tensor([mean["loss"] for mean in means] + [means[-1]["gate_loss"]])

    exact = losses("float32")
    for precision in ("bf16", "fp16"):
        found = losses(precision)
        assert not torch.equal(found, exact)
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0)


def run_model(model: nn.Module, pictures: Tensor) -> tuple[Tensor, float, None]:
    return functional.cross_entropy(model(pictures), torch.arange(len(pictures))), 0.0, None


def test_scaled_gradients_of_gates_are_those_without_scale(tmp_path: Path) -> None:
    """In float32 with a scale as in fp16, which is a power of two."""
    moved = []
    for is_scaled in (False, True):
        bench = Bench(tmp_path, latency__regularizer="add#linear", gates__mode="two_path")
        learner = bench.search().learners[0]
        if is_scaled:
            learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        pictures = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        run = partial(run_model, bench.supernet, pictures)
        learner.step(run, torch.Generator().manual_seed(0))
        moved.append(bench.supernet.edges.alpha_matrix().detach())
    torch.testing.assert_close(moved[0], moved[1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "tf32"}, "runtime.precision tf32 is one of GPUs; on a CPU use float32 or b"),
        ({"device": "cuda"}, "this machine has no usable CUDA device; set runtime.device to cpu"),
    ],
)
def test_what_this_machine_has_not(settings: dict[str, Any], sentence: str) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UserError, match=sentence):
        Runtime.set_up(RuntimeConfig(**settings))


def test_a_process_alone_synchronises_nothing() -> None:
    runtime = Runtime.set_up(RuntimeConfig(sync_batch_norm=True))
    assert (runtime.rank, runtime.world, runtime.sync_batch_norm) == (0, 1, False)


class Waits(TorchDispatchMode):
    """Counts what a host reads from tensors: on a device, it would wait for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_waits_for_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy a weight step stays: that of the alphas which paths are drawn from."""
    bench = Bench(tmp_path)
    copies = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: copies.append(self.shape) or to_host(self))
    phase, meter = bench.warm_up(), Meter()
    (pictures, labels), *_ = phase.batches(0, 0)
    phase.step(0, pictures, labels, meter)  # The first has things to set up.
    copies.clear()
    with Waits() as waits:
        phase.step(1, pictures, labels, meter)
    assert waits.count == 0
    assert copies == [bench.supernet.edges.alpha_matrix().shape]
    assert meter.means()["loss"] > 0


def test_copies_can_overlap_where_they_may() -> None:
    assert not Runtime().is_asynchronous
    assert Runtime(torch.device("cuda")).is_asynchronous
    moved = Runtime(torch.device("meta")).put(torch.ones(2))
    assert moved.is_meta
