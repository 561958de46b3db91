from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loader, mbconv, separable, supernet_step
from proxyless_ext.bench import plain
from proxyless_ext.bench.agreement import DisagreementError, check_block, relative_difference
from proxyless_ext.bench.blocks import Edge
from proxyless_ext.bench.cases import cases
from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.bench.steps import check_steps
from proxyless_ext.bench.supernets import TREES, Batch, build
from proxyless_ext.bench.timing import Timing, alternate
from proxyless_ext.spaces import BatchNorm, BlockConfig, cifar_tree, imagenet

SMALL = imagenet(width_mult=0.25, resolution=32)

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a benchmark at tiny sizes into `tmp_path`; gives its results."""

    def run(benchmark: ModuleType, *options: str) -> dict[str, Any]:
        name = benchmark.__name__.removeprefix("benchmarks.")
        command = [name, "--quick", "--threads=1", f"--out={tmp_path}", *options]
        monkeypatch.setattr(sys, "argv", command)
        benchmark.main()
        results: dict[str, Any] = json.loads((tmp_path / f"{name}.json").read_text())
        return results

    return run


def test_edges_are_checked_timed_judged_and_drawn(run: Run, tmp_path: Path) -> None:
    results = run(mbconv)
    assert [edge["edges"] for edge in results["edges"]] == [[0], [2]]
    assert all(0 <= edge["differences"]["fused"]["output"] < 1e-5 for edge in results["edges"])
    for edge in results["edges"]:
        assert edge["saved_bytes"]["fused"] < edge["saved_bytes"]["plain"] / 4
    totals = results["totals"]
    assert totals["fused"] > totals["floor"] > 0
    bars = {bar["measure"]: bar["value"] for bar in results["bars"]}
    assert bars["plain / fused, sum"] == pytest.approx(totals["plain"] / totals["fused"])
    assert "plain / fused, sum" in (tmp_path / "mbconv.md").read_text()
    for figure in ("mbconv_times", "mbconv_roofline"):
        assert (tmp_path / f"{figure}.svg").stat().st_size > 0


def test_separable_shapes_are_checked_timed_and_judged(run: Run, tmp_path: Path) -> None:
    results = run(separable)
    shapes = results["shapes"]
    assert [shape["name"] for shape in shapes[:5]] == [
        *(f"{name} 32 8" for name in ("sep3", "sep5", "sep7", "sep3d2")),
        "sep3 60 4",
    ]
    bars = {bar["measure"]: bar["value"] for bar in results["bars"]}
    sums = [sum(s["seconds"][name]["median"] for s in shapes) for name in ("plain", "fused")]
    assert bars["plain / fused, sum"] == pytest.approx(sums[0] / sums[1])
    assert bars["saved tensors, plain / fused"] > 2.5
    assert "sep7 88 2" in (tmp_path / "separable.md").read_text()


def test_supernets_of_trees_do_the_same_and_keep_less() -> None:
    space = cifar_tree(blocks=1, width_mult=0.5, resolution=16)
    batch = Batch(space, 4, 16)
    trainees = build(TREES, space, batch)
    check_steps(trainees, space, batch, ["recompute"])
    saved = {name: trainee.saved_bytes(seed=0) for name, trainee in trainees.items()}
    assert saved["plain"] > 2.5 * saved["fused"]


@pytest.mark.slow
def test_compiled_edges_agree_with_the_others(run: Run) -> None:
    assert run(mbconv, "--peers", "fused", "compiled")["totals"]["compiled"] > 0


@pytest.mark.slow
def test_whole_steps_are_checked_timed_judged_and_drawn(run: Run, tmp_path: Path) -> None:
    results = run(supernet_step)
    assert set(results["seconds"]) == {"weight", "recompute", "two_path"}
    assert results["peak_bytes"]["weight"]["fused"] >= results["saved_bytes"]["fused"]
    assert {"weight step, plain / fused", "peak of fused, gate step / weight step"} <= {
        bar["measure"] for bar in results["bars"]
    }
    assert (tmp_path / "supernet_step.svg").stat().st_size > 0


def test_every_edge_of_the_space_is_one_of_the_cases() -> None:
    found = cases(imagenet(), "k5e6", batch=1)
    assert sorted(edge for case in found for edge in case.edges) == list(range(21))
    assert len({case.name for case in found}) == len(found) == 11


@pytest.mark.parametrize("operation", ["k5e6", "k3e3"])
@pytest.mark.parametrize("index", [0, 1])
def test_flops_are_three_times_those_of_a_forward(operation: str, index: int) -> None:
    case = cases(SMALL, operation, batch=2)[index]
    block = plain.build_block(case.block, SMALL.batch_norm)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(Edge(case).x)
    assert case.flops == 3 * counter.get_total_flops()


def test_a_wrong_result_is_not_timed() -> None:
    case = cases(SMALL, "k5e6", batch=2)[0]
    result = Edge(case).peer("plain")()
    wrong = [*result[:-1], result[-1] * 1.1]
    with pytest.raises(DisagreementError, match="a gradient by 1"):
        check_block("fused", wrong, result)
    with pytest.raises(DisagreementError, match="differ"):
        check_block("fused", [each * math.nan for each in result], result)


def test_layers_save_their_inputs_and_a_copy_where_relu6_works_in_place() -> None:
    case = cases(SMALL, "k5e6", batch=2)[0]
    layer, hidden = case.layer, 6 * case.layer.in_channels
    x, y = 2 * layer.in_size**2 * layer.in_channels, 2 * layer.out_size**2 * layer.out_channels
    inner = 2 * (layer.in_size**2 + layer.out_size**2) * hidden
    maps = 4 * (x + 3 * inner + y)
    statistics = 4 * 4 * (2 * hidden + layer.out_channels)
    assert Edge(case).peer("plain").saved_bytes() == maps + statistics


def test_checkpointed_blocks_save_their_input_and_compute_the_same() -> None:
    block = BlockConfig(operation="k3e6", in_channels=4, out_channels=4, shortcut=True)
    module = plain.build_block(block, BatchNorm())
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weights = list(module.parameters())
    expected = torch.autograd.grad(module(x).square().sum(), [x, *weights])
    module.checkpointed = True
    with SavedTensors(module) as saved:
        y = module(x)
    assert saved.bytes == 4 * x.numel()
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), [x, *weights]), expected, strict=True
    ):
        assert torch.equal(one, other)


def test_gate_modes_are_the_same_function() -> None:
    norm = BatchNorm()
    block = BlockConfig(operation="k3e3", in_channels=3, out_channels=3, shortcut=True)
    names = ("k3e3", "k5e3", "zero")
    blocks = [block.model_copy(update={"operation": name}) for name in names]
    mixed = plain.MixedOp([plain.build_operation(each, norm) for each in blocks]).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    mixed.active, mixed.other = 1, 0

    def gradients(mode: plain.GateMode) -> tuple[Tensor, ...]:
        mixed.mode = mode
        mixed.gates = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(mixed(x).pow(3).sum(), [x, mixed.gates])

    dx, gates = gradients("full")
    assert gates[:2].abs().min() > 0
    for mode in ("recompute", "two_path"):
        other_dx, other_gates = gradients(mode)
        torch.testing.assert_close(other_dx, dx)
        torch.testing.assert_close(other_gates, gates)


def test_runs_take_turns_and_all_come_first_once() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = alternate(runs, rounds=3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(time.low <= time.median <= time.high for time in times.values())
    assert Timing.of([3, 1, 2, 5, 4]) == Timing(median=3, low=2, high=4, rounds=5)


def test_no_round_begins_after_the_limit_but_the_second() -> None:
    times = alternate({"a": lambda: None}, rounds=9, limit=0)
    assert times["a"].rounds == 2
    assert alternate({"a": lambda: None}, rounds=9)["a"].rounds == 9


def test_relative_difference_is_over_all_tensors_together() -> None:
    expected = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert relative_difference([expected[0], torch.tensor([4.5])], expected) == pytest.approx(0.1)


@pytest.mark.parametrize(("fused", "is_met"), [(0.1, True), (0.9, False)])
def test_bars_say_whether_they_are_met(fused: float, is_met: bool) -> None:
    def by_peer(**values: float) -> dict[str, Any]:
        return {name: {"median": value} for name, value in values.items()}

    seconds = by_peer(fused=fused, plain=1.0, channels_last=0.5, checkpointed=1.5)
    sizes = {"fused": fused, "plain": 1.0, "checkpointed": 0.5}
    bars = supernet_step.judge(
        {
            "settings": {"space": "imagenet"},
            "seconds": {"weight": seconds, "recompute": seconds},
            "saved_bytes": sizes,
            "peak_bytes": {"weight": sizes, "gate": {"fused": 2 * fused if not is_met else fused}},
        }
    )
    assert [bar.is_met for bar in bars] == [is_met] * 7


def test_reading_is_judged_beside_torchvision(run: Run, tmp_path: Path) -> None:
    for part, name, index in itertools.product(("train", "val"), "ab", range(8)):
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 80), (index, 0, 0)).save(folder / f"{index}.png")
    results = run(loader, str(tmp_path / "pictures"), "--decoding", "cpu")
    speeds = results["pictures_per_second"]
    assert speeds.keys() == {"folder", "shards", "decoding", "torchvision"}
    for bar, name in zip(results["bars"], ("folder", "shards"), strict=True):
        assert bar["value"] == pytest.approx(speeds[name] / speeds["torchvision"])
