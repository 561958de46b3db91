"""The short list and the finalists, against the same computed one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import begin, exactly, tiny_config
from torch.nn import functional

from proxyless_ext import SuperNet
from proxyless_ext.config import Config, DeriveConfig
from proxyless_ext.data import batches, endless
from proxyless_ext.errors import UserError
from proxyless_ext.nn import Network
from proxyless_ext.runs import (
    FinalistsEpoch,
    Run,
    ScoredNetwork,
    ShortListEpoch,
    read_metrics,
)
from proxyless_ext.search import Objective, Task
from proxyless_ext.search.candidates import Band, Choices
from proxyless_ext.search.derivation import share_finalists
from proxyless_ext.search.finalists import Contest, Finalists, rounds
from proxyless_ext.search.path_scores import PathScores
from proxyless_ext.search.short_list import Listing, ShortList, best_first
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.networks import train_network
from proxyless_ext.training.running import Begun, run_phase
from proxyless_ext.training.train import Train

FIRST = [(0, 1, 2, 0), (2, 3, 0, 1), (1, 1, 1, 1), (0, 0, 0, 3)]


class Bench:
    """What the phases of derivation are given, in a run."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        values = {key.replace("__", "."): value for key, value in settings.items()}
        self.config: Config = tiny_config(folder, {"checkpoint_seconds": 1e9, **values})
        self.task = Task.load(self.config, None)
        table = self.task.tables[""]
        self.objective = Objective.of_space(self.task.space, table, self.config.latency)
        torch.manual_seed(0)
        self.supernet = SuperNet(self.task.space)
        self.path_scores = PathScores([len(edge.candidates) for edge in self.task.space.edges])
        self.run: Run = begin(folder / "run", self.config)

    def short_list(self, first: Sequence[Choices] = FIRST) -> ShortList:
        log_probabilities = self.supernet.edges.log_probabilities()
        listing = Listing("shortlist", Band(self.objective), log_probabilities, list(first))
        task = self.task
        return ShortList(
            self.supernet, self.config, task.runtime, task.data, self.path_scores, [listing]
        )

    def finalists(self, *contests: Sequence[Choices]) -> Finalists:
        networks = {each: self.network(each) for choices in contests for each in choices}
        competing = [
            Contest(
                f"finalists@{number}",
                self.objective,
                list(choices),
                rounds(len(choices), self.config.derive.round),
            )
            for number, choices in enumerate(contests)
        ]
        return Finalists(networks, competing, self.config, self.task.runtime, self.task.data)

    def network(self, choices: Choices) -> Network:
        torch.manual_seed(sum(choices))
        architecture = self.task.space.architecture(choices)
        dropout = self.config.train.dropout
        return Network(architecture.model_copy(update={"dropout": dropout}))

    def finish(self, phase: ShortList | Finalists) -> None:
        run_phase(phase, self.run, self.config.seed, 1e9)


def test_scores_are_those_of_the_derived_networks(tmp_path: Path) -> None:
    bench = Bench(tmp_path, derive__generations=0)
    before = exactly(bench.supernet.state_dict())
    phase = bench.short_list()
    bench.finish(phase)
    assert exactly(bench.supernet.state_dict()) == before
    assert bench.supernet.training
    assert phase.num_batches == 2
    (listing,) = phase.listings
    for scored, choices in zip(listing.scored, FIRST, strict=True):
        assert scored.choices == choices
        losses, hits = [], []
        network = bench.supernet.derive(choices).train()
        for pictures, labels in list(batches(bench.task.data.train_gates, 16, 0, "shortlist", 0))[
            :2
        ]:
            logits = network(pictures).detach()
            losses.append(functional.cross_entropy(logits, labels).item())
            hits.append((logits.argmax(1) == labels).float().mean().item())
        assert scored.loss == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert scored.accuracy == pytest.approx(sum(hits) / 2)
        assert scored.predicted == pytest.approx(bench.objective.predicted(choices))
        rows = bench.supernet.edges.log_probabilities()
        assert scored.log_probability == pytest.approx(rows[range(4), choices].sum().item())
    (record,) = read_metrics(bench.run.metrics_path)
    assert isinstance(record, ShortListEpoch)
    assert list(record.networks) == listing.scored


def test_offspring_of_the_best_join_the_short_list(tmp_path: Path) -> None:
    bench = Bench(tmp_path, derive__generations=2, derive__networks=4)
    phase = bench.short_list()
    bench.finish(phase)
    (listing,) = phase.listings
    assert len(listing.scored) == len({each.choices for each in listing.scored}) == 12
    losses = [each.loss for each in listing.best_first]
    assert losses == sorted(losses)  # The path scores know nothing, and leave the order.


def test_both_opinions_count() -> None:
    figures = {"accuracy": 0.5, "log_probability": -1.0, "predicted": 1.0}
    scored = [
        ScoredNetwork(choices=(index,), loss=loss, path_loss=told, **figures)
        for index, (loss, told) in enumerate([(0.3, 0.9), (0.1, 0.8), (0.2, 0.1), (0.4, 0.2)])
    ]
    order = best_first(scored, lambda loss, _: loss)
    assert [network.choices for network in order] == [(2,), (1,), (3,), (0,)]


def test_the_loss_counts_latency_where_the_search_does(tmp_path: Path) -> None:
    settings = {"latency__regularizer": "add#linear", "latency__trade_off": 1e3}
    bench = Bench(tmp_path, derive__generations=0, **settings)
    phase = bench.short_list()
    bench.finish(phase)
    latencies = [each.predicted for each in phase.listings[0].best_first]
    assert latencies == sorted(latencies)


def test_the_worse_half_drops_out_after_every_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path, train__epochs=4, train__batch_size=8, derive__round=0.2)
    choices = [*FIRST, (2, 2, 2, 2)]
    phase = bench.finalists(choices)
    steps = phase.num_batches
    assert (phase.epochs, steps) == (4, int(0.2 * 4 * (len(bench.task.data.train) // 8)))
    bench.finish(phase)

    # The same, each network on its own.
    trainings = [
        Train(bench.network(each), bench.config, bench.task.runtime, bench.task.data, "finalists")
        for each in choices
    ]
    stream = endless(bench.task.data.train, 8, 0, "train")
    left = list(range(5))
    losses: list[list[float]] = [[] for _ in choices]
    records = read_metrics(bench.run.metrics_path)
    for epoch, record in enumerate(records):
        assert isinstance(record, FinalistsEpoch)
        for step in range(epoch * steps, (epoch + 1) * steps):
            pictures, labels = next(stream)
            for index in left:
                trainings[index].step(step, pictures, labels, meter := Meter())
                losses[index].append(meter.means()["loss"])
        means = [sum(each) / max(len(each), 1) for each in losses]
        left.sort(key=means.__getitem__)
        assert [each.choices for each in record.finalists] == [choices[index] for index in left]
        assert [each.loss for each in record.finalists] == pytest.approx(
            [means[index] for index in left], rel=1e-4
        )
        assert phase.networks(epoch) == len(record.finalists)
        if epoch + 1 in (1, 2, 4):
            left = left[: math.ceil(len(left) / 2)]
            losses = [[] for _ in choices]
    assert len(records) == 4
    assert phase.contests[0].left == [choices[left[0]]]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_winner_goes_on_where_it_was_left(dropout: float, tmp_path: Path) -> None:
    """It ends as if it had been trained by itself from the beginning."""
    bench = Bench(tmp_path, train__epochs=3, derive__round=0.25, train__dropout=dropout)
    phase = bench.finalists(FIRST[:3])
    bench.finish(phase)
    ((winner,),) = (contest.left for contest in phase.contests)
    (training,) = phase.trainings.values()
    steps = phase.steps[winner]
    assert steps == 2 * phase.num_batches

    def trained(name: str, begun: Begun | None) -> Any:
        task = bench.task
        arguments = (bench.run, bench.config, task.runtime, task.data, name, begun)
        network, seconds = train_network(bench.network(winner), *arguments)
        assert (seconds > 5) == (name == "train@begun")
        return exactly(network.state_dict())

    before = len(read_metrics(bench.run.metrics_path))
    whole = trained("train@whole", None)
    assert trained("train@begun", Begun(steps, 5.0, training.state_dict())) == whole
    records = read_metrics(bench.run.metrics_path)[before:]
    first = steps // training.num_batches
    assert [record.epoch for record in records] == [0, 1, 2, *range(first, 3)]
    assert records[-1].loss == records[2].loss
    # What has got somewhere itself is not thrown back.
    assert trained("train@begun", Begun(0, 0.0, {})) == whole


@pytest.mark.parametrize(
    ("finalists", "part", "expected"),
    [
        (1, 0.1, []),
        (2, 1.0, [(2, 0, 1)]),
        (3, 0.1, [(3, 0, 1), (2, 1, 2)]),
        (8, 0.25, [(8, 0, 1), (4, 1, 2), (2, 2, 4)]),
        (48, 0.125, [(48, 0, 1), (24, 1, 2), (12, 2, 4), (6, 4, 8)]),
        (5, 0.4, [(5, 0, 1), (3, 1, 2)]),
        (9, 0.8, [(9, 0, 1)]),
    ],
)
def test_rounds(finalists: int, part: float, expected: list[tuple[int, int, int]]) -> None:
    assert rounds(finalists, part) == expected


def test_more_finalists_than_networks_are_refused() -> None:
    with pytest.raises(UserError, match="more than the short list has networks"):
        DeriveConfig(networks=2, generations=1, finalists=5)
    DeriveConfig(networks=0, finalists=5)


def test_goals_share_finalists() -> None:
    a, b, c, d, e, f, g = ((number,) for number in range(7))
    # The second and third have two guests when they choose, and so two of their own.
    orders = [[a, b, c, d, e], [e, f, g, c, a], [g, e, f, d]]
    assert share_finalists(orders, 4) == [[a, b, c, d, e], [e, f, a, c, g], [g, e, d, f]]
    assert share_finalists(orders[:1], 4) == [[a, b, c, d]]
    assert share_finalists([[a], [b, a]], 4) == [[a], [b, a]]
    assert share_finalists([[a, b, c], [b, c, a]], 1) == [[a, b], [b, a]]
