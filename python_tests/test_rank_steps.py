"""Steps of several ranks, each on its slices of the batches: those of one rank on all of them."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import on_ranks
from test_phase import Bench
from tiny_runs import exactly
from torch import Tensor, distributed, nn

from proxyless_ext import ranks
from proxyless_ext.errors import UserError
from proxyless_ext.nn import SynchronisedBatchNorm, synchronise
from proxyless_ext.search.phases import Search
from proxyless_ext.training.evaluation import recalibrate
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.running import seed_step

# 24 weight steps; a gate step follows all but the first three.
SETTINGS = {"search__epochs": 8, "gates__every": 1, "runtime__sync_batch_norm": True}
MODES = {
    "full": {"latency__regularizer": "mul#log", "search__batch_size": 15},
    "two_path": {"gates__mode": "two_path", "gates__batch_size": 7},
    "reinforce": {"gates__mode": "reinforce", "search__paths": "sampled"},
}


def bench(**settings: Any) -> Bench:
    with tempfile.TemporaryDirectory() as folder:
        return Bench(Path(folder), **settings)


def losses(mode: str, dtype: torch.dtype, plain: bool = False) -> Tensor:
    """Of every weight step and every gate step [24 + 21]."""
    made = bench(**SETTINGS, **MODES[mode])
    made.supernet.to(dtype)
    if plain or made.runtime.sync_batch_norm:
        synchronise(made.supernet)
    search = made.search()
    found: dict[str, list[float]] = {"loss": [], "gate_loss": []}
    for step, (pictures, labels) in enumerate(all_batches(search)):
        if search.gate_batch:
            search.gate_batch = (search.gate_batch[0].to(dtype), search.gate_batch[1])
        search.step(step, pictures.to(dtype), labels, meter := Meter())
        for name, mean in meter.means().items():
            if name in found:
                found[name].append(mean)
    return torch.tensor([*found["loss"], *found["gate_loss"]], dtype=torch.float64)


def all_batches(search: Search) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(search.epochs):
        yield from search.batches(epoch, 0)


def all_losses() -> dict[str, Tensor]:
    found = {mode: losses(mode, torch.float64) for mode in MODES}
    return {**found, "float32": losses("full", torch.float32)}


@pytest.fixture(scope="module")
def of_two() -> list[dict[str, Tensor]]:
    return on_ranks(all_losses)


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_learn_what_one_does(of_two: list[dict[str, Tensor]], mode: str) -> None:
    expected = losses(mode, torch.float64)
    assert len(expected) == 24 + 21
    for found in of_two:
        torch.testing.assert_close(found[mode], expected, rtol=0, atol=1e-9)


def test_in_float32_they_differ_as_two_orders_of_summation(of_two: list[dict[str, Tensor]]) -> None:
    first, second = (found["float32"] for found in of_two)
    assert torch.equal(first, second)
    fused, plain = (losses("full", torch.float32, plain=plain) for plain in (False, True))
    rounding = (fused - plain).abs().max()
    assert (first - plain).abs().max() < 10 * rounding < 1e-2


def sent_and_sampled() -> list[tuple[float, int, int]]:
    """Bytes by the record, bytes that went over the wire, and those of the sampled path."""
    found = []
    made = bench(search__paths="sampled", space__weights="shared")
    warm_up, supernet = made.warm_up(), made.supernet
    sent: list[int] = []
    reduce = distributed.all_reduce

    def counting(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent.append(tensor.nbytes)
        return reduce(tensor, *args, **options)

    distributed.all_reduce = counting
    for step, (pictures, labels) in enumerate(warm_up.batches(0, 0)):
        sent.clear()
        warm_up.step(step, pictures, labels, meter := Meter())
        sampled = supernet.derive(supernet.edges.active)
        size = sum(weight.nbytes for weight in sampled.parameters())
        found.append((meter.means()["reduced_bytes"], sum(sent), size))
    return found


def test_only_gradients_of_the_sampled_paths_are_sent() -> None:
    """Of shared weights the slices that were used; beside gradients, four numbers."""
    found = on_ranks(sent_and_sampled)
    assert found[0] == found[1]
    for told, sent, sampled in found[0]:
        assert told == sampled + 24
        assert sent == sampled + 32
    assert len({sampled for _, _, sampled in found[0]}) > 1


def apart(paths: int, weights: str) -> dict[str, Any]:
    """What steps of several paths come to, in float64, and what they send."""
    made = bench(
        warmup__paths_per_step=paths,
        warmup__clip_norm=0.5,
        warmup__epochs=2,
        space__weights=weights,
    )
    warm_up, supernet = made.warm_up(), made.supernet.double()
    found: list[float] = []
    for epoch in range(2):
        for step, (pictures, labels) in enumerate(warm_up.batches(epoch, 0)):
            warm_up.step(step, pictures.double(), labels, meter := Meter())
            found.append(meter.means()["loss"])
    used = supernet.edges.used(warm_up._paths)
    return {
        "losses": torch.tensor(found, dtype=torch.float64),
        "weights": {name: each.detach() for name, each in supernet.named_parameters()},
        "sent": warm_up.gradients.num_bytes,
        "used": sum(weight[part].nbytes for weight, part in used.items()),
        "scores": made.path_scores.state_dict()["moment"],
    }


@pytest.mark.parametrize("weights", ["separate", "shared"])
@pytest.mark.parametrize("paths", [2, 4])
def test_ranks_on_paths_of_their_own_learn_what_one_rank_does(paths: int, weights: str) -> None:
    """Without synchronised BatchNorms, since these normalise by a path's part."""
    expected = apart(paths, weights)
    assert len(expected["losses"]) > 4
    for found in on_ranks(apart, paths, weights):
        assert found["sent"] == expected["used"] + 24 * paths
        for name in ("losses", "weights", "scores"):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9)


def shared_paths(paths: int) -> Tensor:
    """Losses of steps of two paths, in float64; where there are more, each comes twice."""
    made = bench(warmup__paths_per_step=paths)
    warm_up, edges = made.warm_up(), made.supernet.double().edges
    draw = edges.draw_apart

    def twice(number: int, generator: torch.Generator) -> list[list[int]]:
        first, second = draw(2, generator)
        return [first, first, second, second][:: 4 // number]

    edges.draw_apart = twice  # type: ignore[method-assign]
    found = []
    for step, (pictures, labels) in enumerate(warm_up.batches(0, 0)):
        warm_up.step(step, pictures.double(), labels, meter := Meter())
        found.append(meter.means()["loss"])
    return torch.tensor(found, dtype=torch.float64)


def test_ranks_share_paths_where_there_are_fewer() -> None:
    expected = shared_paths(4)
    for found in on_ranks(shared_paths, 2, world=4):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def refused() -> list[str]:
    found = []
    for settings in (
        {"warmup__paths_per_step": 3},
        {"warmup__paths_per_step": 2, "runtime__sync_batch_norm": True},
    ):
        try:
            bench(**settings)
        except UserError as error:
            found.append(str(error))
    return found


def test_paths_that_ranks_cannot_share() -> None:
    for uneven, synchronised in on_ranks(refused):
        assert uneven.startswith("paths_per_step is 3 and there are 2 ranks; give a multiple")
        assert "sync_batch_norm is for ranks that run one path; leave one of" in synchronised


class Uneven(nn.Module):
    """BatchNorms of every kind behind each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.planes = nn.BatchNorm2d(3, momentum=None)
        self.bare = nn.BatchNorm2d(3, affine=False, eps=0.1)
        self.untracked = nn.BatchNorm2d(3, track_running_stats=False)
        self.rows = nn.BatchNorm1d(3)
        nn.init.normal_(self.planes.weight), nn.init.normal_(self.rows.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.untracked(self.bare(self.planes(x).sin()) ** 3)
        rows: Tensor = self.rows(x.mean(dim=(2, 3)))
        return rows


def normalised(rows: slice, weight: float = 1.0) -> dict[str, Tensor]:
    """Outputs, gradients and statistics after two steps on rows of eight pictures."""
    model = Uneven().double()
    if ranks.are_several():
        synchronise(model)
    x = torch.randn(8, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[rows].clone().requires_grad_()
    factors = torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3)[rows]
    for _ in range(2):
        y = model(x)
        (weight * (y * factors).square().mean()).backward()
    found = {"y": y.detach(), "dx": x.grad} | dict(model.state_dict())
    for name, parameter in model.named_parameters():
        found[f"d{name}"] = ranks.mean(parameter.grad)
    found["judged"] = model.eval()(x).detach()
    return found


def normalised_slice() -> dict[str, Tensor]:
    rows = [slice(0, 3), slice(3, 8)][ranks.place()[0]]
    return normalised(rows, ranks.share(rows.stop - rows.start).weight)


def test_synchronised_batch_norms_are_those_of_the_whole_batch() -> None:
    first, second = on_ranks(normalised_slice)
    expected = normalised(slice(0, 8))
    for name, value in expected.items():
        found = first[name]
        if name in ("y", "judged"):
            found = torch.cat([first[name], second[name]])
        elif name == "dx":  # Of the mean over the ranks.
            found = torch.cat([first[name], second[name]]) / 2
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12, msg=name)


def test_alone_they_are_ordinary_ones() -> None:
    model, expected = Uneven(), Uneven()
    synchronise(model)
    assert all(type(norm) is SynchronisedBatchNorm for norm in model.children())
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(model(x), expected(x))
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()))


def statistics() -> dict[str, Any]:
    """What becomes of running statistics that ranks have of their own."""
    regularised = {"train__dropout": 0.5, "train__drop_path": 0.3, "train__mixup": 0.4}
    made = bench(**regularised, train__parts=2, train__clip_norm=0.5)
    train = made.train()
    for step, (pictures, labels) in enumerate(train.batches(0, 0)):
        seed_step(0, "train", 0, step)
        train.step(step, pictures, labels, meter := Meter())
    own = exactly(dict(train.result.named_buffers()))
    weights = exactly(list(train.model.parameters()) + list(train.result.parameters()))
    record = train.end_epoch(0, meter)
    judged = exactly(dict(train.result.named_buffers()))
    recalibrate(train.model, made.data.train, 20, 0, made.runtime)
    fitted = {name: each.clone() for name, each in train.model.named_buffers()}
    return {
        "own": own,
        "weights": weights,
        "record": [each.model_dump(exclude={"time"}) for each in record],
        "judged": judged,
        "fitted": fitted,
    }


def test_running_statistics_of_the_first_rank_are_judged() -> None:
    first, second = on_ranks(statistics)
    assert first["weights"] == second["weights"]
    assert first["record"] == second["record"]
    assert first["own"] != second["own"]
    assert first["judged"] == second["judged"] == first["own"]
    for name, value in first["fitted"].items():
        assert torch.equal(value, second["fitted"][name]), name


def draws() -> Tensor:
    seed_step(3, "train", 1, 2)
    return torch.randn(5)


def test_dropout_differs_between_ranks() -> None:
    first, second = on_ranks(draws)
    assert torch.equal(first, draws())
    assert not torch.equal(first, second)


def agreements() -> dict[str, Any]:
    rank, _ = ranks.place()

    def alone() -> list[Any]:
        return [ranks.place(), ranks.totals(2.0), ranks.of_first(lambda: "nested")]

    return {
        "place": ranks.place(),
        "any": ranks.any_of(rank == 1, False),
        "totals": ranks.totals(1.5, rank),
        "nothing": ranks.mean(torch.zeros(0, 2)).shape,
        "share": tuple(ranks.share(3 + rank)),
        "alone": ranks.of_first(alone),
        "gathered": ranks.gathered(rank),
    }


def test_what_ranks_agree_on() -> None:
    found = on_ranks(agreements, world=3)
    assert [each.pop("place") for each in found] == [(0, 3), (1, 3), (2, 3)]
    assert [each.pop("share") for each in found] == [(12, 9 / 12), (12, 1.0), (12, 15 / 12)]
    for each in found:
        assert each == {
            "any": [True, False],
            "nothing": (0, 2),
            "totals": [4.5, 3.0],
            "alone": [(0, 1), [2.0], "nested"],
            "gathered": [0, 1, 2],
        }


@pytest.mark.parametrize(
    ("rank", "port", "at"), [("1", "9", "127.0.0.1:9"), ("0", "0", "127.0.0.1:0")]
)
def test_ranks_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch, rank: str, port: str, at: str
) -> None:
    """The first cannot be reached, or waits for the other in vain."""
    monkeypatch.setattr(ranks, "MEETING", timedelta(seconds=1))
    place = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    says = rf"rank {rank} has not met all 2 ranks at {at} within \d seconds; see to it that all are"
    with pytest.raises(UserError, match=says), ranks.group():
        pass


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"RANK": "abc"}, "RANK is 'abc' instead of a whole number"),
        ({"RANK": "5"}, "RANK is 5 and WORLD_SIZE is 2, but ranks count from 0"),
        ({"WORLD_SIZE": "0"}, "RANK is 0 and WORLD_SIZE is 0"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1' instead of"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "WORLD_SIZE is 2, but MASTER_PORT is not set"),
        ({"MASTER_PORT": "xyz"}, "MASTER_PORT is 'xyz' instead of"),
        ({"MASTER_ADDR": "no.such.host.invalid"}, "MASTER_ADDR 'no.such.host.invalid' with"),
    ],
)
def test_places_that_no_launcher_gives(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], says: str
) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    for name, value in {**place, **changed}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(says)), ranks.group():
        pass


def test_a_port_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(UserError, match=f"port {port} of this machine is in use"),
            ranks.group(),
        ):
            pass


def test_who_waits_for_others_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranks, "MEETING", timedelta(seconds=1))
    monkeypatch.setattr(ranks, "PATIENCE", 0.1)
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="has not met"), ranks.group():
        pass
    assert capsys.readouterr().err == "rank 0 waits for the other ranks at 127.0.0.1:0\n"
