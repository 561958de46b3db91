"""Measuring: on a device whose latencies are known, and on this machine."""

import copy
import dataclasses
import itertools
import math
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from proxyless_ext import spaces
from proxyless_ext.errors import UserError
from proxyless_ext.latency import (
    Conditions,
    LatencyTable,
    Remote,
    bystanders,
    check_table,
    compare,
    measure,
    measure_layers,
    measure_network,
    measure_table,
)
from proxyless_ext.latency.backends import BACKENDS, make_backend
from proxyless_ext.latency.backends.base import cpu_clock
from proxyless_ext.latency.bystanders import Bystanders
from proxyless_ext.latency.check import Check
from proxyless_ext.latency.frames import Frame, chain, framed_layers
from proxyless_ext.latency.timing import summarise, time_chains
from proxyless_ext.nn import MBConv, Network, count_macs, count_parameters

SPACE = spaces.Space(
    name="small",
    resolution=8,
    num_classes=3,
    stem=spaces.Stem(in_channels=1, out_channels=8, stride=1),
    candidates=("k3e3", "k5e6", "zero"),
    stages=(
        spaces.Stage(channels=8, cells=2),
        spaces.Stage(channels=16, cells=2, stride=2),
    ),
    feature_mix=24,
)
QUICK = Conditions(repetitions=1, warmup=0)
CALL_MS = 0.7
MS_PER_MAC = 1e-5


class Device:
    """A backend whose latencies add up exactly: so much a call, and so much a multiply-accumulate.

    It fails on inputs of another batch size than asked for, and counts calls.
    """

    slowdown = 1.0
    interaction = 0.0
    calls = 0

    def __init__(self, conditions):
        self.batch_size = conditions.batch_size

    def build(self, module, example):
        assert len(example) == self.batch_size
        macs = count_macs(module, example.shape[-1], example.shape[1])
        layers = MS_PER_MAC * macs
        latency = CALL_MS + layers * (1 + self.interaction * layers)

        def run():
            type(self).calls += 1
            return latency * self.slowdown

        return run


@pytest.fixture
def device(monkeypatch):
    class Fresh(Device):
        pass

    monkeypatch.setitem(BACKENDS, "eager", Fresh)
    return Fresh


def all_architectures(space):
    choices = itertools.product(*(range(len(edge.candidates)) for edge in space.edges))
    return [space.architecture(each) for each in choices]


@pytest.mark.parametrize("pooled_mix", [None, 20])
def test_sums_over_layers_are_whole_networks_where_times_add_up(device, pooled_mix):
    space = SPACE.model_copy(update={"pooled_mix": pooled_mix})
    table = measure_table(space, QUICK)
    for architecture in random.Random(0).sample(all_architectures(space), 20):
        macs = count_macs(Network(architecture), 8, 1)
        assert table.predict(architecture) == pytest.approx(CALL_MS + MS_PER_MAC * macs, rel=1e-9)


def test_a_layer_that_keeps_its_shape_costs_what_it_computes(device):
    table = measure_table(SPACE, QUICK)
    layer = SPACE.edge_layers()[1][0]
    assert (layer.operation, layer.shortcut) == ("k3e3", True)
    macs = 8 * 8 * (8 * 24 + 24 * 9 + 24 * 8)
    assert table.latency(layer) == pytest.approx(MS_PER_MAC * macs, rel=1e-9)


def test_a_table_has_just_the_layers_of_its_space(device):
    table = measure_table(SPACE, QUICK)
    layers = itertools.chain(SPACE.fixed_layers(), *SPACE.edge_layers())
    assert set(table.entries) == {layer.key for layer in layers if not layer.is_skipped}
    assert table.conditions.backend == "eager"


def test_layers_of_given_networks(device):
    networks = [SPACE.architecture([0, 2, 0, 2]), SPACE.architecture([1, 2, 1, 2])]
    table = measure_layers(networks, QUICK)
    layers = itertools.chain(*(network.layers() for network in networks))
    assert set(table.entries) == {layer.key for layer in layers if not layer.is_skipped}
    for network in networks:
        macs = count_macs(Network(network), 8, 1)
        assert table.predict(network) == pytest.approx(CALL_MS + MS_PER_MAC * macs, rel=1e-9)


def test_whole_networks_correct_what_layers_alone_do_not_know(device, monkeypatch):
    device.interaction = 0.1  # Large networks suffer more than the sum of their layers says.

    def mean_error():
        table = measure_table(SPACE, QUICK)
        assert all(entry.mean >= 0 for entry in table.entries.values())
        errors = []
        for architecture in all_architectures(SPACE):
            layers = MS_PER_MAC * count_macs(Network(architecture), 8, 1)
            truth = CALL_MS + layers * (1 + 0.1 * layers)
            errors.append(abs(table.predict(architecture) - truth) / truth)
        return sum(errors) / len(errors)

    corrected = mean_error()
    monkeypatch.setattr(measure, "_correct", lambda entries, *_: entries)
    assert corrected < mean_error() / 3  # No sum over layers can follow such a device wholly.


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_input_has_the_batch_size(device, batch_size):
    measure_table(SPACE, Conditions(repetitions=1, batch_size=batch_size))
    measure_network(nn.Identity(), 8, Conditions(repetitions=1, batch_size=batch_size))


def test_a_check_of_an_exact_table(device):
    table = measure_table(SPACE, QUICK)
    result = check_table(table, SPACE, networks=10)
    assert len(result.predicted) == len(result.measured) == 10
    assert result.slowdown == pytest.approx(1)
    assert result.r2 == pytest.approx(1)
    assert result.max_error < 1e-9


def test_a_check_near_a_target_measures_twice(device):
    table = measure_table(SPACE, QUICK)
    cheapest, dearest = table.bounds(SPACE)
    within = (0.5 * (cheapest + dearest), dearest)
    device.calls = 0
    result = check_table(table, SPACE, networks=4, within=within)
    assert device.calls >= 3 * 2 * 4
    rounding = 1e-9
    for times in (result.predicted, result.measured, result.again):
        assert len(times) == 4
        assert within[0] - rounding <= times.min() <= times.max() <= within[1] + rounding
    with pytest.raises(
        UserError, match=r"fewer than two networks of 'small' take 1e\+09 to 2e\+09"
    ):
        check_table(table, SPACE, within=(1e9, 2e9))
    assert check_table(table, SPACE, networks=1).again is None


@given(st.data())
def test_rank_correlation_counts_pairs(data):
    numbers = st.lists(st.integers(1, 50), min_size=2, max_size=12, unique=True)
    predicted = data.draw(numbers)
    measured, again = (data.draw(st.permutations(predicted)) for _ in range(2))

    def tau(first, second):
        pairs = list(itertools.combinations(range(len(first)), 2))
        agree = [(first[a] < first[b]) == (second[a] < second[b]) for a, b in pairs]
        return (2 * sum(agree) - len(pairs)) / len(pairs)

    check = Check(*(torch.tensor(each).double() for each in (predicted, measured)), 1.3)
    assert check.rank_correlation == pytest.approx(tau(predicted, measured))
    assert check.repeatability is None
    twice = dataclasses.replace(check, again=torch.tensor(again).double())
    assert twice.repeatability == pytest.approx(tau(measured, again))


def test_a_check_tells_a_slower_machine_from_a_wrong_table(device):
    table = measure_table(SPACE, QUICK)
    device.slowdown = 1.3
    slower = check_table(table, SPACE)
    assert slower.slowdown == pytest.approx(1.3)
    assert slower.r2 == pytest.approx(1)
    torch.testing.assert_close(slower.measured, 1.3 * slower.predicted)
    assert slower.max_error < 1e-9
    device.slowdown = 1.0
    key = SPACE.edge_layers()[0][1].key
    wrong = table.entries[key].model_copy(update={"mean": 3 * table.entries[key].mean})
    table.entries[key] = wrong
    result = check_table(table, SPACE)
    assert result.slowdown == pytest.approx(1)
    assert result.r2 < 0.9


def test_a_check_of_a_saved_table(device, tmp_path):
    measure_table(SPACE, QUICK).save(tmp_path / "table.yaml")
    assert check_table(LatencyTable.load(tmp_path / "table.yaml"), SPACE).r2 == pytest.approx(1)


def test_figures_of_a_check_are_about_the_identity_line():
    predicted, measured = torch.tensor([1.0, 2, 3, 6]), torch.tensor([2.0, 2, 4, 4])
    check = Check(predicted, measured, 1.0)
    assert check.r2 == pytest.approx(1 - (1 + 0 + 1 + 4) / (1 + 1 + 1 + 1))
    assert check.median_error == pytest.approx((0.25 + 0.5) / 2)
    assert check.max_error == pytest.approx(0.5)
    assert Check(measured / 2, measured, 2.0).r2 == pytest.approx(1)


def test_a_table_is_checked_only_where_and_for_what_it_was_measured(device):
    table = measure_table(SPACE, QUICK)
    imported = LatencyTable(table.entries, None, "phone.yaml")
    with pytest.raises(UserError, match=r"phone\.yaml was not measured"):
        check_table(imported, SPACE)
    elsewhere = table.conditions.model_copy(update={"processor": "abacus"})
    with pytest.raises(UserError, match="latencies of abacus"):
        check_table(LatencyTable(table.entries, elsewhere), SPACE)
    references = table.conditions.reference.model_copy(update={"networks": ("k7e6 zero",)})
    other = table.conditions.model_copy(update={"reference": references})
    with pytest.raises(UserError, match="for another space than 'small'"):
        check_table(LatencyTable(table.entries, other), SPACE)


def test_a_tables_command_runs_only_if_it_may(tmp_path):
    remote = Remote(command="sh -c 'echo 2' {onnx}")
    conditions = Conditions(backend="command", processor="toy", repetitions=1, remote=remote)
    measure_table(SPACE, conditions).save(tmp_path / "toy.yaml")
    table = LatencyTable.load(tmp_path / "toy.yaml")
    with pytest.raises(UserError, match=r"by the command 'sh .*'; read that, .* --reach-device"):
        check_table(table, SPACE)
    check = check_table(table, SPACE, networks=2, reaches_device=True)
    assert check.measured.tolist() == [2, 2]


def test_comparison_rows(device):
    models = {"large": nn.Conv2d(3, 8, 3, padding=1), "small": nn.Conv2d(3, 2, 1)}
    rows = compare(models, 8, Conditions(repetitions=1, batch_size=2))
    assert [row.name for row in rows] == ["large", "small"]
    for row, model in zip(rows, models.values(), strict=True):
        assert (row.parameters, row.macs) == (count_parameters(model), count_macs(model, 8))
        assert row.latency.mean == pytest.approx(CALL_MS + MS_PER_MAC * row.macs)


def test_no_random_state_is_touched(device):
    torch.manual_seed(7)
    random.seed(7)
    before, python = torch.get_rng_state(), random.getstate()
    check_table(measure_table(SPACE, QUICK), SPACE, networks=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


def test_a_chain_runs_each_layer_once_behind_the_frame_of_its_input():
    first, *_, mix, classifier = SPACE.architecture([0, 0, 1, 2]).layers()
    (edge, *_), _, (_, down), _ = SPACE.edge_layers()
    assert chain(SPACE.architecture([0, 0, 1, 2]).layers()) == [
        first.key,
        Frame(8, 8),
        edge.key,  # Once, though two edges of the network have chosen it.
        down.key,
        Frame(16, 4),
        mix.key,
        Frame(24, 4),
        classifier.key,
    ]


def test_framed_layers_run_and_cover_their_chains():
    networks = [SPACE.architecture([0, 1, 0, 2]), SPACE.architecture([2, 2, 1, 0])]
    modules = framed_layers(networks, batch_size=2)
    assert {key for network in networks for key in chain(network.layers())} == set(modules)
    for module, example in modules.values():
        assert len(module.eval()(example)) == 2


def test_time_chains_warms_up_then_times_every_pass():
    log = []

    def run(key):
        return lambda: log.append(key) or 1.0

    runs = {key: run(key) for key in "ab"}
    conditions = Conditions(warmup=2, repetitions=1)
    entries = time_chains(runs, [[["a", "b"]]], conditions, random.Random(0))
    assert log == ["a", "b"] * (2 + 3)
    assert {key: entry.mean for key, entry in entries.items()} == {"a": 1.0, "b": 1.0}


def test_every_layer_gets_its_repetitions(device):
    table = measure_table(SPACE, Conditions(repetitions=10, warmup=0))
    assert all(entry.count >= 5 for entry in table.entries.values())  # The fastest half of them.


@pytest.mark.parametrize("fails", [False, True])
def test_torch_threads_are_set_and_restored(fails):
    before = torch.get_num_threads()
    seen = []

    def run():
        seen.append(torch.get_num_threads())
        if fails:
            raise KeyboardInterrupt
        return 1.0

    conditions = Conditions(threads=before + 1, repetitions=1)
    try:
        time_chains({"a": run}, [[["a"]]], conditions, random.Random(0))
    except KeyboardInterrupt:
        assert fails
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_disturbed_runs_do_not_count():
    entry = summarise([5.0, 100.0, 1.0, 3.0, 2.0, 90.0])
    assert (entry.count, entry.mean) == (3, 2.0)
    assert entry.var == pytest.approx(2 / 3)
    assert summarise([4.0]).model_dump() == {"count": 1, "mean": 4.0, "var": 0.0}


def test_one_thread_is_timed_without_what_others_take():
    clock, wall = cpu_clock(1), cpu_clock(2)
    start, wall_start = clock(), wall()
    time.sleep(0.05)
    assert clock() - start < 0.02
    assert wall() - wall_start >= 0.05


class Counting(nn.Module):
    """Doubles; counts its calls over all of its copies, and the modes they are made in."""

    calls: list[tuple[bool, bool, int]] = []  # noqa: RUF012

    def forward(self, x):
        self.calls.append((self.training, torch.is_inference_mode_enabled(), len(x)))
        return 2 * x


def test_eager_runs_once_in_eval_and_inference_mode():
    module = Counting().train()
    Counting.calls.clear()
    run = make_backend(QUICK).build(module, torch.zeros(2, 1, 4, 4))
    assert Counting.calls == []
    assert run() > 0
    assert Counting.calls == [(False, True, 2)]
    assert module.training


def test_onnxruntime_runs_with_the_threads_asked_for(monkeypatch):
    import onnxruntime

    sessions = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, graph, options, providers):
            sessions.append((options.intra_op_num_threads, providers))
            super().__init__(graph, options, providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout()).train()
    state = copy.deepcopy(module.state_dict())
    conditions = Conditions(backend="onnxruntime", threads=2)
    assert make_backend(conditions).build(module, torch.zeros(3, 1, 4, 4))() > 0
    assert sessions == [(2, ["CPUExecutionProvider"])]
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_what_has_no_onnx_is_a_sentence():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x)[0]

    with pytest.raises(UserError, match="Odd cannot be exported to ONNX; measure it with backend"):
        measure_network(Odd(), 4, Conditions(backend="onnxruntime", repetitions=1))


SLOW = pytest.param("compile", marks=pytest.mark.slow)


@pytest.mark.parametrize("backend", ["eager", SLOW, "onnxruntime"])
def test_measuring_this_machine(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "WHOLE_NETWORKS", 3)
    conditions = Conditions(backend=backend, batch_size=2, repetitions=3)
    table = measure_table(SPACE, conditions)
    cheapest, dearest = table.bounds(SPACE)
    assert 0 < table.costs(SPACE).fixed <= cheapest < dearest
    table.save(tmp_path / "table.yaml")
    check = check_table(LatencyTable.load(tmp_path / "table.yaml"), SPACE, networks=3)
    assert check.measured.min() > 0
    assert math.isfinite(check.slowdown)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_sums_over_layers_predict_whole_networks(backend):
    space = spaces.cifar_mbconv(width_mult=0.5)
    check = check_table(measure_table(space, Conditions(backend=backend)), space)
    assert check.median_error <= 0.1
    assert check.r2 >= 0.9  # Other programs cost some of the 0.95 that an idle machine gives.


# A busy machine.


@pytest.fixture
def clock(monkeypatch):
    """Times that a system says: of the clock, of all cores, of this process."""
    times = [(0.0, 50.0, 10.0)]
    monkeypatch.setattr(bystanders, "_now", lambda: times[-1])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return times


def test_what_others_take_is_what_this_process_does_not(clock):
    others = Bystanders()
    clock.append((0.9, 55.0, 10.0))
    assert others.cores() is None  # Too little time has passed.
    clock.append((10.0, 65.0, 20.0))
    assert others.cores() == pytest.approx(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        others.warn(threads=1)
    with pytest.warns(UserWarning, match=r"other programs kept 0\.5 of the 2 cores busy meanwhile"):
        others.warn(threads=2)
    clock.append(None)
    assert others.cores() is None
    others.warn(threads=2)


def test_a_table_says_how_busy_the_machine_was(device, clock, monkeypatch):
    clock.append((1e-9, 50.0, 10.0))
    assert measure_table(SPACE, QUICK).conditions.busy_cores is None
    times = iter([(0.0, 0.0, 0.0)])
    monkeypatch.setattr(bystanders, "_now", lambda: next(times, (10.0, 25.0, 10.0)))
    with pytest.warns(UserWarning, match="not to be trusted; measure again when the machine is"):
        table = measure_table(SPACE, QUICK)
    assert table.conditions.busy_cores == pytest.approx(1.5)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads /proc/stat")
def test_busy_processes_are_noticed():
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        with pytest.warns(UserWarning, match="busy meanwhile"):
            measure_network(nn.Conv2d(3, 3, 3), 64, Conditions(repetitions=2000))
    finally:
        for process in processes:
            process.kill()


def test_plain_blocks_are_measured_plain(monkeypatch):
    seen = []
    forward = MBConv.forward
    monkeypatch.setattr(MBConv, "forward", lambda s, *a: seen.append(s.fused) or forward(s, *a))
    block = MBConv(3, 3, 3)
    measure_network(block, 4, Conditions(repetitions=1, warmup=0))
    measure_network(block, 4, Conditions(repetitions=1, warmup=0, blocks="plain"))
    assert set(seen) == {None, False}
    assert seen[-1] is False
    assert block.fused is None
