"""Phases: what a step does to weights and alphas, and what their driver promises."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SPACE, begin, exactly, tiny_config
from torch import Tensor, nn
from torch.utils.data import DataLoader

from proxyless_ext import SuperNet
from proxyless_ext.config import OptimizerConfig, load_config
from proxyless_ext.data import batches
from proxyless_ext.errors import DiskFullError, UserError
from proxyless_ext.nn import Network
from proxyless_ext.runs import (
    Epoch,
    Run,
    TrainEpoch,
    load_checkpoint,
    read_metrics,
)
from proxyless_ext.runs.checkpoint import Snapshot
from proxyless_ext.search import Task
from proxyless_ext.search.goals import make_goals
from proxyless_ext.search.path_scores import PathScores
from proxyless_ext.search.phases import Search, WarmUp, first_gate_step
from proxyless_ext.seeding import generator
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.optim import (
    cosine_rate,
    optimizer_state,
    scheduled_rate,
    weight_optimizer,
)
from proxyless_ext.training.phase import Phase
from proxyless_ext.training.running import run_phase
from proxyless_ext.training.stopping import SAME_SECONDS
from proxyless_ext.training.train import Train

MODES = ("full", "two_path", "reinforce")


class Bench:
    """The phases of a tiny search, outside a run."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = tiny_config(
            folder, {key.replace("__", "."): value for key, value in settings.items()}
        )
        task = Task.load(self.config, None)
        self.data, self.runtime = task.data, task.runtime
        run = Run(folder / "run")
        self.goals = make_goals(run, self.config, task.space, task.tables)
        torch.manual_seed(0)
        self.supernet = SuperNet(task.space)
        self.path_scores = PathScores([len(edge.candidates) for edge in task.space.edges])

    def warm_up(self) -> WarmUp:
        return WarmUp(self.supernet, self.path_scores, self.config, self.runtime, self.data)

    def search(self) -> Search:
        scores, data = self.path_scores, self.data
        return Search(self.supernet, scores, self.config, self.runtime, data, self.goals)

    def train(self) -> Train:
        torch.manual_seed(0)
        network = Network(SPACE.architecture([0, 1, 2, 0]))
        return Train(network, self.config, self.runtime, self.data)


def steps(phase: Phase) -> Iterator[tuple[int, Meter]]:
    """Take all steps of a phase; yields the number of each after it was taken."""
    for epoch in range(phase.epochs):
        meter = Meter()
        for batch, (pictures, labels) in enumerate(phase.batches(epoch, 0)):
            step = epoch * phase.num_batches + batch
            phase.step(step, pictures, labels, meter)
            yield step, meter


def alphas(supernet: SuperNet) -> Any:
    return exactly(list(supernet.edges.alphas))


def weights(supernet: SuperNet) -> Any:
    """Parameters and buffers other than alphas."""
    state = supernet.state_dict()
    return exactly({name: state[name] for name in state if not name.endswith("alpha")})


def candidates(supernet: SuperNet) -> list[list[Any]]:
    """Parameters and buffers of every candidate of every edge."""
    return [
        [exactly(candidate.state_dict()) for candidate in mixed.candidates]
        for mixed in supernet.edges.mixed_ops
    ]


def test_readers_live_on_from_one_epoch_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def loader(*args: Any, **kwargs: Any) -> DataLoader[Any]:
        made.append(kwargs["num_workers"])
        return DataLoader(*args, **kwargs)

    monkeypatch.setattr(sys.modules["proxyless_ext.data.batches"], "DataLoader", loader)
    bench = Bench(tmp_path, data__workers=1)
    phase = bench.warm_up()
    read = [exactly(batch) for epoch in range(2) for batch in phase.batches(epoch, 0)]
    assert made == [1]
    assert exactly(next(phase.batches(1, 2))) == read[phase.num_batches + 2]  # As after a kill.
    assert made == [1, 1]
    schedule = bench.config.warmup
    expected = [
        exactly(batch)
        for epoch in range(2)
        for batch in batches(phase.dataset, schedule.batch_size, 0, "warmup", epoch)
    ]
    assert read == expected


# Rates and optimizers.


@pytest.mark.parametrize(
    ("step", "part"),
    [(0, 1.0), (25, 0.5 + 0.125**0.5), (50, 0.5), (75, 0.5 - 0.125**0.5), (100, 0.0)],
)
def test_the_rate_is_half_a_cosine(step: int, part: float) -> None:
    assert cosine_rate(0.08, step, 100) == pytest.approx(0.08 * part, abs=1e-17)
    assert cosine_rate(0.08, 100, 100) == 0.0


def test_every_phase_runs_through_the_whole_cosine(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for phase in (bench.warm_up(), bench.search(), bench.train()):
        lr, total = phase.schedule.lr, phase.epochs * phase.num_batches
        for group in phase.optimizer.param_groups:
            group["lr"] = 7.0
        for step, meter in steps(phase):
            rate = lr / 2 * (1 + math.cos(math.pi * step / total))
            for group in phase.optimizer.param_groups:
                assert group["lr"] == pytest.approx(rate)
            if (step + 1) % phase.num_batches == 0:  # The record has the epoch's last rate.
                epoch = step // phase.num_batches
                (record,) = phase.end_epoch(epoch, meter)
                assert record.lr == pytest.approx(rate)


@pytest.mark.parametrize(
    ("step", "part"),
    [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (10, 0.5), (17, 0.0)],
)
def test_the_rate_rises_before(step: int, part: float) -> None:
    config = OptimizerConfig(epochs=8, lr=0.08, rise_epochs=1.5)
    assert scheduled_rate(config, step, 2) == pytest.approx(
        0.08 * (part if step <= 3 else 0.5 + 0.5 * math.cos(math.pi * (step - 3) / 13))
    )


def test_a_rise_must_end() -> None:
    with pytest.raises(UserError, match="rise_epochs is 5, and there are 5 epochs; lower it"):
        load_config(None, {"train.rise_epochs": 5, "train.epochs": 5})


def stepped(folder: Path, twice: bool = False, **settings: Any) -> tuple[Train, Meter]:
    """A training after a step, perhaps on a batch that has every picture twice."""
    phase = Bench(folder, train__batch_size=8, **settings).train()
    batch = next(phase.batches(0, 0))
    phase.step(0, *(torch.cat([each, each]) if twice else each for each in batch), meter := Meter())
    return phase, meter


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    def grads(phase: Train) -> Tensor:
        return torch.cat([w.grad.flatten() for w in phase.weights if w.grad is not None])

    free = grads(stepped(tmp_path)[0])
    clipped = grads(stepped(tmp_path, train__clip_norm=0.1)[0])
    assert free.norm() > 0.2
    torch.testing.assert_close(clipped, 0.1 * free / free.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(grads(stepped(tmp_path, train__clip_norm=1e6)[0]), free)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_parts_of_a_batch_add_up(tmp_path: Path, mixup: float) -> None:
    """Parts that are alike have the statistics of the whole; mixtures of them are alike, too."""
    whole, figures = stepped(tmp_path, twice=True, train__mixup=mixup)
    parted, others = stepped(tmp_path, twice=True, train__mixup=mixup, train__parts=2)
    assert others.means() == pytest.approx(figures.means(), rel=1e-5)
    for ours, theirs in zip(parted.weights, whole.weights, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_uneven_parts_weigh_as_many_pictures_as_they_have(tmp_path: Path) -> None:
    phase = Bench(tmp_path, train__batch_size=8, train__parts=3).train()
    given: list[Tensor] = []
    phase.model.register_forward_hook(lambda _, args, output: given.append(output.detach()))
    pictures, labels = next(phase.batches(0, 0))
    phase.step(0, pictures, labels, meter := Meter())
    assert [len(each) for each in given] == [3, 3, 2]
    loss = phase.criterion(torch.cat(given), labels)
    assert meter.means()["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_paths_of_a_step_train_on_their_parts_of_the_batch(tmp_path: Path) -> None:
    """And nothing else moves; both losses are learnt from."""
    bench = Bench(tmp_path, warmup__paths_per_step=2, warmup__batch_size=15)
    phase, supernet = bench.warm_up(), bench.supernet
    before = candidates(supernet)
    pictures, labels = next(phase.batches(0, 0))
    expected, means = dict[nn.Parameter, Tensor](), []
    paths = supernet.edges.draw_apart(2, generator(0, "warmup", "paths", 0))
    for path, rows in zip(paths, (slice(0, 8), slice(8, 15)), strict=True):
        supernet.edges.activate(path)
        loss = phase.criterion(supernet(pictures[rows]), labels[rows])
        weights = [each for each in phase.weights if each.grad is None]
        for weight, gradient in zip(
            weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
        ):
            if gradient is not None:
                part = len(labels[rows]) / 15 * gradient
                expected[weight] = expected.get(weight, torch.zeros_like(weight)) + part
        means.append(loss.item())
    phase.step(0, pictures, labels, meter := Meter())
    assert meter.means()["loss"] == pytest.approx((8 * means[0] + 7 * means[1]) / 15)
    for weight in phase.weights:
        assert (weight in expected) == (weight.grad is not None)
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, expected[weight])
    for edge, states in enumerate(candidates(supernet)):
        assert len({path[edge] for path in paths}) == min(2, len(states))
        for index, state in enumerate(states):
            if index not in [path[edge] for path in paths]:
                assert state == before[edge][index]
    taken = [(places, loss.item()) for places, loss in bench.path_scores._waiting]
    assert [loss for _, loss in taken] == pytest.approx(means)
    assert len({tuple(places) for places, _ in taken}) == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"search__paths_per_step": 17}, "of 16 pictures cannot be divided into 17 parts each"),
        ({"warmup__paths_per_step": 2, "warmup__parts": 2}, "both divide a batch; leave out one"),
        ({"search__paths_per_step": 2, "search__paths": "sampled"}, "is for uniform paths; set"),
    ],
)
def test_paths_that_no_step_can_take(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Bench(tmp_path, **settings)


def test_a_batch_has_pictures_for_all_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of 16 pictures cannot be divided into 17"):
        Bench(tmp_path, search__parts=17)


def test_optimizers_are_those_of_the_published_runs() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    config = OptimizerConfig(epochs=1, lr=0.3, momentum=0.8, weight_decay=0.01)
    (group,) = weight_optimizer(config, layer.parameters()).param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.8, True)
    assert group["weight_decay"] == 0.01
    plain = config.model_copy(update={"momentum": 0.0})
    assert not weight_optimizer(plain, layer.parameters()).param_groups[0]["nesterov"]


def test_training_decays_weights_but_neither_norms_nor_biases(tmp_path: Path) -> None:
    phase = Bench(tmp_path, train__weight_decay=0.1, train__lr=0.5).train()
    before = {name: value.clone() for name, value in phase.model.named_parameters()}
    for value in phase.model.parameters():
        value.grad = torch.zeros_like(value)
    phase.optimizer.step()
    norms = [m for m in phase.model.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = {id(p) for norm in norms for p in norm.parameters()}
    kept.add(id(phase.model.classifier.linear.bias))
    for name, value in phase.model.named_parameters():
        # Nesterov's first step along the decay is 1 + momentum long.
        shrunk = before[name] * (1 - 0.5 * 0.1 * 1.9)
        torch.testing.assert_close(value.data, before[name] if id(value) in kept else shrunk)
    assert len(kept) == 2 * len(norms) + 1 < len(before)


def test_searching_decays_all_weights_and_no_alphas(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for phase in (bench.warm_up(), bench.search()):
        (group,) = phase.optimizer.param_groups
        assert group["weight_decay"] == 4e-5
        assert {id(p) for p in group["params"]} == {id(p) for p in bench.supernet.edges.weights}
        assert not {id(p) for p in group["params"]} & {id(p) for p in bench.supernet.edges.alphas}
    (group,) = bench.search().learners[0].optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.0, 0.999), 0.0)
    assert [id(p) for p in group["params"]] == [id(p) for p in bench.supernet.edges.alphas]


def test_resumed_optimizers_keep_their_momenta_but_obey_the_configuration(tmp_path: Path) -> None:
    before = Bench(tmp_path).search()
    for _ in steps(before):
        pass
    after = Bench(tmp_path, search__weight_decay=0.5, gates__lr=0.7).search()
    after.load_state_dict(before.state_dict())
    assert after.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert after.learners[0].optimizer.param_groups[0]["lr"] == 0.7
    assert (
        exactly(optimizer_state(after.optimizer))
        == exactly(optimizer_state(before.optimizer))
        != {}
    )
    gates = [optimizer_state(phase.learners[0].optimizer) for phase in (before, after)]
    assert exactly(gates[0]) == exactly(gates[1]) != {}


# Steps.


@pytest.mark.parametrize("mode", ["warmup", *MODES])
def test_what_was_not_sampled_does_not_move_by_one_bit(tmp_path: Path, mode: str) -> None:
    decay = {"search__weight_decay": 0.01, "warmup__weight_decay": 0.01}
    bench = Bench(tmp_path, gates__mode="full" if mode == "warmup" else mode, **decay)
    supernet = bench.supernet
    phase = bench.warm_up() if mode == "warmup" else bench.search()
    sampled: list[list[int]] = []
    sample = supernet.edges.sample

    def spy(generator: torch.Generator, uniformly: bool) -> None:
        sample(generator, uniformly)
        sampled.append(supernet.edges.active)

    supernet.edges.sample = spy  # type: ignore[method-assign]
    before = candidates(supernet)
    trained: set[tuple[int, int]] = set()
    rested_with_momentum = 0
    for _ in steps(phase):
        after = candidates(supernet)
        for edge, active in enumerate(sampled[-1]):
            for index, state in enumerate(after[edge]):
                if index != active:
                    assert state == before[edge][index]
                    rested_with_momentum += (edge, index) in trained
                elif state:  # Zero has none.
                    assert state != before[edge][index]
                    trained.add((edge, index))
        before = after
    assert len(sampled) == phase.epochs * phase.num_batches
    assert rested_with_momentum > 5


def test_warm_up_leaves_alphas_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before = alphas(bench.supernet)
    for _ in steps(bench.warm_up()):
        assert alphas(bench.supernet) == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(3, 1, [3, 4, 5, 6, 7, 8]), (3, 2, [4, 6, 8]), (3, 4, [6]), (1, 1, [0, 1, 2]), (1, 3, [2])],
)
def test_gate_steps_come_when_they_are_due(
    tmp_path: Path, mode: str, epochs: int, every: int, expected: list[int]
) -> None:
    bench = Bench(tmp_path, gates__mode=mode, gates__every=every, search__epochs=epochs)
    phase = bench.search()
    assert phase.num_batches == 3
    learn = phase.learners[0].step

    def spy(*args: Any) -> list[Any]:
        before = weights(bench.supernet)
        told = learn(*args)
        assert weights(bench.supernet) == before
        return told

    phase.learners[0].step = spy  # type: ignore[method-assign]
    before, moved = alphas(bench.supernet), []
    for step, meter in steps(phase):
        after = alphas(bench.supernet)
        if after != before:
            moved.append(step)
        assert ("gate_loss" in meter.means()) == any(
            step // 3 == due // 3 and due <= step for due in expected
        )
        before = after
    assert moved == expected


def test_a_search_without_a_gate_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gate step every 7 weight steps and only 6 of these"):
        Bench(tmp_path, gates__every=7)
    config = tiny_config(tmp_path, {"gates.every": 3, "search.epochs": 1})
    assert first_gate_step(config, 50) == 0


def graphs() -> int:
    """Tensors that a graph hangs on."""
    gc.collect()
    return sum(
        issubclass(type(thing), Tensor) and thing.grad_fn is not None for thing in gc.get_objects()
    )


@pytest.mark.parametrize(
    ("mode", "regularizer"),
    [("full", "add#linear"), ("two_path", "target"), ("reinforce", "mul#log")],
)
def test_nothing_keeps_a_graph(tmp_path: Path, mode: str, regularizer: str) -> None:
    bench = Bench(tmp_path, gates__mode=mode, latency__regularizer=regularizer)
    phase = bench.search()
    before = graphs()
    for _, meter in steps(phase):
        assert all(type(part) in (float, int) for sums in meter.state.values() for part in sums)
    phase.end_epoch(2, meter)
    assert graphs() == before


def test_meters_are_means_over_samples() -> None:
    meter = Meter()
    meter.add(3, loss=1.0, accuracy=0.0)
    meter.add(1, loss=5.0)
    assert meter.means() == {"loss": 2.0, "accuracy": 0.0}
    resumed = Meter(meter.state)
    resumed.add(4, accuracy=0.5)
    assert resumed.means() == {"loss": 2.0, "accuracy": 2 / 7}


# The driver.


class Walk(Phase):
    """A random walk of one number, three steps an epoch."""

    name, section, epochs, num_batches = "walk", "train", 2, 3

    def __init__(self) -> None:
        self.position = torch.zeros(1)
        self.taken: list[int] = []
        self.on_step: dict[int, Any] = {}
        self.on_end: dict[int, Any] = {}

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in range(start, self.num_batches):
            yield torch.tensor([epoch, batch]), torch.zeros(1)

    def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
        assert pictures.tolist() == [step // 3, step % 3]
        self.taken.append(step)
        self.position = self.position + torch.randn(1)
        self.on_step.get(step, lambda: None)()
        meter.add(1, loss=self.position[0], accuracy=float(step))

    def end_epoch(self, epoch: int, meter: Meter) -> list[TrainEpoch]:
        self.on_end.get(epoch, lambda: None)()
        done = {"phase": self.name, "step": 3 * epoch + 3, "epoch": epoch}
        return [TrainEpoch(**done, **meter.means(), val_loss=self.position.item())]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(tmp_path / "run", tiny_config(tmp_path))


def records(run: Run) -> list[Epoch]:
    return [record.model_copy(update={"time": None}) for record in read_metrics(run.metrics_path)]


@pytest.fixture
def expected(tmp_path: Path) -> list[Epoch]:
    """The records of a walk that nothing interrupts."""
    run = begin(tmp_path / "uninterrupted", tiny_config(tmp_path))
    run_phase(Walk(), run, seed=3, checkpoint_seconds=1e9)
    return records(run)


def test_records_and_checkpoint_of_a_whole_phase(run: Run) -> None:
    walk = Walk()
    seconds = run_phase(walk, run, seed=3, checkpoint_seconds=1e9)
    assert walk.taken == [0, 1, 2, 3, 4, 5]
    first, second = records(run)
    assert (first.phase, first.epoch, first.step, first.accuracy) == ("walk", 0, 3, 1.0)
    assert (second.epoch, second.step, second.accuracy) == (1, 6, 4.0)
    saved = load_checkpoint(run.checkpoint("walk"))
    assert (saved["epoch"], saved["batch"], saved["records"]) == (2, 0, 2)
    assert 0 < saved["seconds"] <= seconds
    again = Walk()
    run_phase(again, run, seed=3, checkpoint_seconds=1e9)
    assert again.taken == []
    assert again.position == walk.position
    assert records(run) == [first, second]


def strike(number: int) -> None:
    """Send a signal to this process, and wait until it has been noticed."""
    handler = signal.getsignal(number)
    os.kill(os.getpid(), number)
    while signal.getsignal(number) is handler:
        time.sleep(0.001)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_saves_after_it(
    run: Run, expected: list[Epoch], step: int, number: int
) -> None:
    walk, handlers = Walk(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    walk.on_step[step] = lambda: strike(number)
    with pytest.raises(UserError, match=rf"stopped in walk after .*--resume {run.folder}"):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = Walk()
    run_phase(resumed, run, seed=3, checkpoint_seconds=1e9)
    assert walk.taken + resumed.taken == [0, 1, 2, 3, 4, 5]
    assert records(run) == expected


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_signal_at_the_end_of_an_epoch_is_not_forgotten(
    run: Run, expected: list[Epoch], epoch: int
) -> None:
    walk = Walk()
    walk.on_end[epoch] = lambda: strike(signal.SIGINT)
    with pytest.raises(UserError, match="stopped in walk"):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)
    resumed = Walk()
    run_phase(resumed, run, seed=3, checkpoint_seconds=1e9)
    assert walk.taken + resumed.taken == [0, 1, 2, 3, 4, 5]
    assert records(run) == expected


def test_a_second_signal_does_not_wait(run: Run) -> None:
    def twice() -> None:
        strike(signal.SIGINT)
        time.sleep(1.1 * SAME_SECONDS)
        strike(signal.SIGINT)

    walk = Walk()
    walk.on_step[1] = twice
    with pytest.raises(KeyboardInterrupt):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)


def test_a_signal_that_a_launcher_passes_on_is_the_same(run: Run) -> None:
    def twice() -> None:
        strike(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    walk = Walk()
    walk.on_step[1] = twice
    with pytest.raises(UserError, match="stopped in walk"):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)
    assert load_checkpoint(run.checkpoint("walk"))["batch"] == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 4, 5])
def test_weights_that_are_not_finite_are_never_saved(run: Run, step: int, value: float) -> None:
    def diverge() -> None:
        walk.position = torch.tensor([value])

    walk = Walk()
    walk.on_step[step] = diverge
    with pytest.raises(UserError, match=r"loss of walk .* lower train\.lr in .*config\.yaml"):
        run_phase(walk, run, seed=3, checkpoint_seconds=0)
    assert load_checkpoint(run.checkpoint("walk"))["phase"]["position"].isfinite()


@pytest.mark.parametrize("step", [0, 4, 5])
def test_nor_when_the_loss_has_not_noticed_yet(run: Run, step: int) -> None:
    class Late(Walk):
        def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
            super().step(step, pictures, labels, meter)
            if step == fatal:
                self.position = torch.tensor([math.nan])

    fatal = step
    with pytest.raises(UserError, match="weights of walk became infinite or NaN"):
        run_phase(Late(), run, seed=3, checkpoint_seconds=0)
    saved = load_checkpoint(run.checkpoint("walk"))
    assert saved["phase"]["position"].isfinite()
    assert saved["epoch"] * 3 + saved["batch"] == step


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60), lambda: bytearray(2**60)])
@pytest.mark.parametrize(
    ("room", "says"), [(40, "25 would fit"), (5, "3 would fit"), (0, "fewer may fit")]
)
def test_too_little_memory_is_a_sentence(
    run: Run, room: int, says: str, allocate: Callable[[], object]
) -> None:
    class Large(Walk):
        def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for pictures, _ in super().batches(epoch, start):
                yield pictures.expand(50, 2), torch.zeros(50)

        def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
            if len(pictures) > room:
                allocate()

    with pytest.raises(
        UserError,
        match=rf"of walk with 50 pictures .*; {says}, so start a new run with a lower train\.",
    ):
        run_phase(Large(), run, seed=3, checkpoint_seconds=1e9)
    assert load_checkpoint(run.checkpoint("walk"))["batch"] == 0


def test_a_full_disk_costs_checkpoints_and_nothing_else(
    run: Run, expected: list[Epoch], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Snapshot.write

    def write_if_there_is_room(snapshot: Snapshot, path: Path) -> None:
        state = dict(json.loads(snapshot.tree)["dict"])
        if is_full and state["batch"] + 3 * state["epoch"] >= 2:
            raise DiskFullError("cannot write it; free some disk space")
        write(snapshot, path)

    monkeypatch.setattr(Snapshot, "write", write_if_there_is_room)
    is_full, walk = True, Walk()
    with (
        pytest.warns(UserWarning, match="free some disk space; until then a kill costs more"),
        pytest.raises(DiskFullError),  # Of the last checkpoint, which is the result.
    ):
        run_phase(walk, run, seed=3, checkpoint_seconds=0)
    assert walk.taken == [0, 1, 2, 3, 4, 5]
    is_full, resumed = False, Walk()
    run_phase(resumed, run, seed=3, checkpoint_seconds=0)
    assert resumed.taken == [1, 2, 3, 4, 5]
    assert records(run) == expected


def full(*_: object) -> None:
    raise DiskFullError("cannot write it; free some disk space")


def test_a_full_disk_costs_no_steps_for_the_sake_of_the_position(
    run: Run, expected: list[Epoch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyless_ext.training.sitting.POSITION_SECONDS", 0.0)
    monkeypatch.setattr("proxyless_ext.training.sitting.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(run, "write_position", full)
    run_phase(Walk(), run, seed=3, checkpoint_seconds=1e9)
    assert records(run) == expected


def test_a_stop_after_an_epoch_says_so_if_it_could_not_be_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_without_room() -> None:
        monkeypatch.setattr(Snapshot, "write", full)
        strike(signal.SIGINT)

    walk = Walk()
    walk.on_end[0] = stop_without_room
    with pytest.raises(DiskFullError):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)


@pytest.mark.parametrize("has_room", [True, False])
def test_pictures_that_cannot_be_read_cost_no_steps(
    run: Run, expected: list[Epoch], has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of a batch nor those of a validation; what is wrong with them is said."""

    def fail(epoch: int) -> None:
        while load_checkpoint(run.checkpoint("walk"))["epoch"] < epoch:
            time.sleep(0.01)  # It is written meanwhile.
        if not has_room:
            monkeypatch.setattr(Snapshot, "write", full)
        raise UserError("this picture cannot be read")

    class Unlucky(Walk):
        def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step, batch in enumerate(super().batches(epoch, start), 3 * epoch + start):
                if step == 5:
                    fail(epoch)
                yield batch

    says = f"^this picture cannot be read; then go on with --resume {run.folder}$"
    unlucky, unvalidated, resumed = Unlucky(), Unlucky(), Walk()
    unvalidated.on_end[0] = lambda: fail(0)
    with pytest.raises(UserError, match=says):
        run_phase(unvalidated, run, seed=3, checkpoint_seconds=1e9)
    monkeypatch.undo()
    with pytest.raises(UserError, match=says):
        run_phase(unlucky, run, seed=3, checkpoint_seconds=1e9)
    monkeypatch.undo()
    run_phase(resumed, run, seed=3, checkpoint_seconds=1e9)
    again = [0, 1, 2] if has_room else [0, 1, 2, 0, 1, 2]
    end = [3, 4, 5] if has_room else [3, 4, 3, 4, 5]
    assert records(run) == expected
    assert unvalidated.taken + unlucky.taken + resumed.taken == again + end


def test_a_damaged_checkpoint_costs_one_interval(run: Run, expected: list[Epoch]) -> None:
    class Tired(Walk):
        def step(self, step: int, pictures: Tensor, labels: Tensor, meter: Meter) -> None:
            if step == 4:
                raise KeyboardInterrupt
            super().step(step, pictures, labels, meter)

    with pytest.raises(KeyboardInterrupt):
        run_phase(Tired(), run, seed=3, checkpoint_seconds=0)
    run.checkpoint("walk").write_text("half of it")
    resumed = Walk()
    with pytest.warns(UserWarning, match=r"is damaged, so the run goes on from walk-1\."):
        run_phase(resumed, run, seed=3, checkpoint_seconds=0)
    assert resumed.taken == [3, 4, 5]
    assert records(run) == expected


def test_a_checkpoint_of_something_else_is_one_sentence(run: Run) -> None:
    class Other(Walk):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            nn.Linear(2, 2).load_state_dict(state)

    run_phase(Walk(), run, seed=3, checkpoint_seconds=1e9)
    with pytest.raises(UserError, match=r"checkpoint of walk in .* another network or config"):
        run_phase(Other(), run, seed=3, checkpoint_seconds=1e9)


def test_fewer_epochs_than_are_done_keep_the_records(run: Run) -> None:
    run_phase(Walk(), run, seed=3, checkpoint_seconds=1e9)
    run.log(Epoch(phase="later", step=1, epoch=0))
    shorter = Walk()
    shorter.epochs = 1
    run_phase(shorter, run, seed=3, checkpoint_seconds=1e9)
    assert shorter.taken == []
    assert run.num_records == 3


def test_no_epochs_at_all(run: Run) -> None:
    walk = Walk()
    walk.epochs = 0
    for _ in range(2):
        run_phase(walk, run, seed=3, checkpoint_seconds=1e9)
    assert (walk.taken, run.num_records) == ([], 0)
    assert run.checkpoint("walk").exists()
