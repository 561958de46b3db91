"""Search over models that are nobody's Space, against brute force, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from planted import LATENCY, PLANTED, PlantedSearch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

import proxyless_ext
from proxyless_ext import Costs, Edges, MBConv, MixedOp, Search, UserError, Zero, derive, wrap
from proxyless_ext.latency import Conditions, MeasuredCosts, StandingCandidates

QUICK = Conditions(repetitions=3)
WARM_UP, SEARCH_STEPS = 60, 100
MODES = ("full", "two_path", "reinforce")


class Branching(nn.Module):
    """Two inputs, one edge used twice, one that is only reached by `deep`, a buffer of its own."""

    def __init__(self, deep: bool = True) -> None:
        super().__init__()
        self.deep = deep
        self.twice = MixedOp([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), Zero()])
        self.last = MixedOp([nn.Linear(4, 3), nn.Linear(4, 3, bias=False)])
        self.register_buffer("shift", torch.ones(4, 1, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.twice(x) + self.shift
        x = functional.avg_pool2d(x, 2) + y
        x = x + self.twice(x)
        pooled = x.mean((2, 3))
        result: Tensor = self.last(pooled) if self.deep else pooled
        return result


class Listing(nn.Module):
    """Gives its MixedOp a list, as torchvision's DenseNet gives its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp([nn.Identity()])

    def forward(self, x: Tensor) -> Any:
        return self.edge([x])


LAYER = nn.Linear(2, 2)
INPUTS = (torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4))


def all_choices(model: nn.Module) -> Iterable[tuple[int, ...]]:
    counts = [len(mixed.candidates) for mixed in Edges(model).mixed_ops]
    return itertools.product(*map(range, counts))


def test_macs_and_parameters_are_those_of_the_derived_networks() -> None:
    model = Branching()
    macs, parameters = (Search(model, INPUTS, cost=cost) for cost in ("macs", "parameters"))
    for choices in all_choices(model):
        network = macs.derive(choices)
        assert parameters.cost(choices) == sum(each.numel() for each in network.parameters())
        convolution = {0: 9, 1: 1, 2: 0}[choices[0]] * 4 * 4 * (64 + 16) * 2
        assert macs.cost(choices) == convolution + 2 * 4 * 3


def test_derived_networks_are_the_model_with_its_choices() -> None:
    model = Branching().double()
    inputs = [each.double() for each in INPUTS]
    edges = Edges(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for choices in all_choices(model):
        network = derive(model, choices)
        edges.activate(choices)
        torch.testing.assert_close(network(*inputs), model(*inputs))
        assert not any(isinstance(module, MixedOp) for module in network.modules())
        assert len(list(network.modules())) == 3
        network(*inputs).sum().backward()
    assert all(each.grad is None for each in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_slices_of_shared_weights_become_weights() -> None:
    torch.manual_seed(0)
    candidates = [MBConv(4, 4, 3, 1, 2), MBConv(4, 4, 5, 1, 3)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), MixedOp(candidates, share=True)).eval()
    x = torch.randn(2, 3, 8, 8)
    for choice in range(2):
        Edges(model).activate([choice])
        network = derive(model, [choice])
        torch.testing.assert_close(network(x), model(x))
        assert set(network.state_dict()) == {
            *(f"0.{name}" for name in ("weight", "bias")),
            *(f"1.{name}" for name in MBConv(4, 4, 3, 1, 2).state_dict()),
        }


def test_limits_are_kept_beside_the_target() -> None:
    """By all networks' costs, of which `choices` is the most probable that keeps both."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(MixedOp([nn.Conv2d(4, 4, 3, padding=1, groups=g) for g in (1, 2, 4)]) for _ in range(4)),
        *(MixedOp([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]) for _ in range(2)),
    )
    x = torch.randn(2, 4, 8, 8)
    limits: dict[str, str | float] = {"parameters": "45%", "macs": 90_000}
    search = Search(model, x, target="40%", cost="macs", limits=limits, tolerance=0.2)
    parameters = Search(model, x, cost="parameters")
    kept = {each.name: each.most for each in search.objective.limits}
    assert kept["macs"] == 90_000
    for _ in range(3):
        search.gate_step(lambda: model(x).square().mean())
    expected = [
        each.costs.expected(search.edges.probabilities()) for each in search.objective.limits
    ]
    assert all(cost <= 1.0001 * most for cost, most in zip(expected, kept.values(), strict=True))

    def score(choices: tuple[int, ...]) -> float:
        log_probabilities = search.edges.log_probabilities()
        return log_probabilities[range(len(choices)), choices].sum().item()

    target = search.objective.target
    assert target is not None
    near = [each for each in all_choices(model) if abs(search.cost(each) / target - 1) <= 0.2]
    members = [
        choices
        for choices in near
        if search.cost(choices) <= kept["macs"] and parameters.cost(choices) <= kept["parameters"]
    ]
    assert 1 < len(members) < len(near)
    assert score(search.choices) == pytest.approx(max(map(score, members)), abs=1e-6)
    again = Search(model, x, target="40%", cost="macs", limits=limits, tolerance=0.2)
    again.load_state_dict(search.state_dict())
    with pytest.raises(UserError, match="limited parameters, limited macs"):
        Search(model, x, target="40%", cost="macs").load_state_dict(search.state_dict())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"latency": "5ms"}, "'latency' cannot be limited here; limit macs or parameters"),
        ({"parameters": 1}, r"limit of 1 params \(parameters\) is out of reach"),
        ({"macs": "1%"}, "and the target conflict"),
        ({"macs": "5ms"}, "is in ms, and networks here cost MACs"),
    ],
)
def test_limits_that_cannot_be_kept(limits: dict[str, str | float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Search(Branching(), INPUTS, target="90%", cost="macs", limits=limits)


@pytest.mark.filterwarnings("ignore:whole models deviate", "ignore:other programs kept")
def test_latencies_are_measured_where_candidates_stand() -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(60):
                x = torch.sin(x) + x.mean()
            return x

    model = nn.Sequential(
        MixedOp([nn.Identity(), Slow()]), nn.AvgPool2d(8), MixedOp([Slow(), nn.Identity()])
    )
    x = torch.randn(1, 32, 128, 128)
    search = Search(model, x, conditions=QUICK)
    (first, slow), (small, last) = search.costs.edges.tolist()
    assert slow > 5 * max(first, last)
    assert slow > 5 * small  # The same on an input that is a 64th.
    assert search.cost((1, 0)) == pytest.approx(search.costs.fixed + slow + small)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_planted_network_is_found_at_its_latency(mode: Any) -> None:
    found = [planted(seed, mode) == tuple(PLANTED) for seed in range(10)]
    assert sum(found) >= 9


def planted(seed: int, mode: Any) -> tuple[int, ...]:
    """What a search ends at when the latency of the planted network is the target."""
    task = PlantedSearch(seed)
    costs = Costs.of([LATENCY.tolist()] * len(PLANTED), 0.0)
    target = float(LATENCY[PLANTED].sum())
    example, _ = task.batch("example")
    sign = -1 if mode == "reinforce" else 1
    search = Search(task.student, example, target, costs=costs, mode=mode, lr=0.1, seed=seed)
    for step in range(WARM_UP + SEARCH_STEPS):
        search.weight_step()
        task.weight_step(step)
        if step >= WARM_UP:
            batch = task.batch("gates", step)
            search.gate_step(lambda batch=batch: sign * task.loss(batch))
    assert search.cost() == pytest.approx(target, rel=0.05)
    return search.choices


def test_a_search_goes_on_where_its_state_says() -> None:
    def begin(seed: int) -> tuple[PlantedSearch, Search]:
        task = PlantedSearch(0)
        costs = Costs.of([LATENCY.tolist()] * len(PLANTED), 0.0)
        example, _ = task.batch("example")
        return task, Search(task.student, example, "40%", costs=costs, lr=0.1, seed=seed)

    def go(task: PlantedSearch, search: Search, steps: range) -> None:
        for step in steps:
            search.weight_step()
            task.weight_step(step)
            search.gate_step(lambda step=step: task.loss(task.batch("gates", step)))

    whole, search = begin(0)
    go(whole, search, range(6))
    first, stopped = begin(0)
    go(first, stopped, range(3))
    then, resumed = begin(1)
    then.student.load_state_dict(first.student.state_dict())
    then.weight_optimizer.load_state_dict(first.weight_optimizer.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    go(then, resumed, range(3, 6))
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, then.student.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore:no network of 'Branching'")
def test_expected_cost_stays_on_the_target() -> None:
    model = Branching()
    search = Search(model, INPUTS, "30%", cost="parameters", lr=0.5)
    cheapest, dearest = search.costs.bounds
    for _ in range(5):
        search.gate_step(lambda: model(*INPUTS).square().sum())
        expected = search.costs.expected(search.edges.probabilities()).item()
        assert expected == pytest.approx(cheapest + 0.3 * (dearest - cheapest))


def test_torchvisions_resnet_is_wrapped() -> None:
    def rule(name: str, module: nn.Module) -> list[nn.Module] | None:
        if isinstance(module, BasicBlock) and module.downsample is None:
            channels = module.conv1.in_channels
            return [module, MBConv(channels, channels, 3), nn.Identity()]
        return None

    model = resnet18(num_classes=10).eval()
    wrapped = wrap(model, rule).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(wrapped(x), model(x))  # The first candidates are its own blocks.
    weights = {id(each) for each in model.parameters()}
    assert not weights & {id(each) for each in wrapped.parameters()}
    search = Search(wrapped, x, "50%", cost="macs")
    assert len(search.edges.mixed_ops) == 5
    network = search.derive()
    cheapest, dearest = search.costs.bounds
    assert search.cost() == pytest.approx((cheapest + dearest) / 2, rel=0.05)
    assert network(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "given", "sentence"),
    [
        (nn.Linear(2, 2), torch.ones(1, 2), "the model has no MixedOp"),
        (Branching(), INPUTS[0], "the model cannot take the example input: .*missing"),
        (Branching(), "pictures", "the example input is str; give a tensor, or several in a tuple"),
        (Branching(), (), "the example input is nothing; give a tensor"),
        (Branching(deep=False), INPUTS, "does not reach its MixedOp 'last' with the example"),
        (
            nn.Sequential(MixedOp([nn.Linear(2, 3), nn.Linear(2, 4)])),
            torch.ones(1, 2),
            r"candidate 1 of MixedOp '0' gives \[1, 4\] where candidate 0 gives \[1, 3\]; make",
        ),
        (
            nn.Sequential(MixedOp([nn.ReLU(), nn.ReLU(inplace=True)])),
            torch.ones(1, 2),
            "candidate 1 of a MixedOp changes its input in place",
        ),
        (
            nn.Sequential(MixedOp([nn.Sequential(MixedOp([nn.ReLU()])), nn.Identity()])),
            torch.ones(1, 2),
            "MixedOp '0.candidates.0.0' is within a candidate of MixedOp '0'",
        ),
        (Listing(), torch.ones(1, 2), "MixedOp 'edge' is given list, and it takes one tensor"),
        (
            nn.Sequential(MixedOp([LAYER, nn.Identity()]), MixedOp([LAYER, nn.Identity()])),
            torch.ones(1, 2),
            "MixedOps '0' and '1' share weights, so that parameters do not add up",
        ),
        (
            nn.Sequential(MixedOp([nn.ReLU(), nn.Identity()])).half(),
            torch.ones(1, 2),
            "the alphas are float16",
        ),
    ],
)
def test_models_that_cannot_be_searched(model: nn.Module, given: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Search(model, given, cost="parameters")


def test_macs_of_attention_are_counted_and_of_recurrent_layers_refused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    candidates = [layer, nn.Linear(8, 8)]
    search = Search(nn.Sequential(MixedOp(candidates)), torch.randn(1, 5, 8), cost="macs")
    # Queries, keys, values and output; two layers behind; and what attention itself multiplies.
    assert search.costs.edges.tolist() == [[5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8, 5 * 64]]

    class Recurrent(nn.LSTM):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[0]

    model = nn.Sequential(MixedOp([Recurrent(8, 8), nn.Identity()]))
    with pytest.raises(UserError, match="nobody counts the MACs of recurrent layers"):
        Search(model, torch.randn(1, 5, 8), cost="macs")


@pytest.mark.parametrize("mode", ["full", "reinforce"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, None, "good", torch.ones(2)])
def test_what_is_no_loss_leaves_the_alphas_alone(mode: Any, value: Any) -> None:
    model = Branching()
    search = Search(model, INPUTS, cost="macs", mode=mode)
    before = search.edges.alpha_matrix().clone()

    def run() -> Any:
        total = model(*INPUTS).sum()
        return value * total if isinstance(value, float) else value

    with pytest.raises(UserError, match="a gate step"):
        search.gate_step(run)
    assert torch.equal(search.edges.alpha_matrix(), before)
    search.gate_step(lambda: model(*INPUTS).sum() if mode == "full" else 1.0)
    assert search.edges.alpha_matrix()[0].isfinite().all()


def test_the_state_of_another_search_is_refused() -> None:
    search = Search(Branching(), INPUTS, cost="macs")
    for settings in ({"cost": "parameters"}, {"cost": "macs", "mode": "two_path"}):
        other = Search(Branching(), INPUTS, **settings)
        with pytest.raises(UserError, match=r"the state is of a search over \[3, 2\] candidates"):
            search.load_state_dict(other.state_dict())
    with pytest.raises(UserError, match="the state is of a search over None"):
        search.load_state_dict({})


def test_a_target_that_no_network_is_near_is_warned_of() -> None:
    costs = Costs.of([[1.0, 5.0, 9.0], [0.0, 0.0]], 0.0)
    with pytest.warns(UserWarning, match="no network of 'Branching' is within 5% of the target"):
        Search(Branching(), INPUTS, 3.0, costs=costs)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"target": 1e9},
            r"the target of 1 Gparams is out of reach: networks of 'Branching'",
        ),
        ({"target": "soon"}, "target 'soon' is no amount; write for example"),
        (
            {"target": "3ms"},
            "target '3ms' is in ms, and networks here cost params; write it in params",
        ),
        ({"target": "many%"}, "target 'many%' is no amount"),
        ({"cost": "joule"}, "'joule' is no cost; use one of latency, macs, parameters"),
        ({"mode": "darts"}, "'mode' is 'darts'"),
        ({"lr": 0}, "'lr' is 0"),
        (
            {"costs": Costs.of([[1.0, 2.0]], 0.0)},
            r"the costs are of \[2\] candidates and .* \[3, 2\]",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Search(Branching(), INPUTS, **{"cost": "parameters", **settings})


def test_derivations_and_rules_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"choices \[0\] do not pick .* have \[3, 2\] of them"):
        derive(Branching(), [0])
    with pytest.raises(UserError, match=r"choices \[0, 2\] do not pick"):
        derive(Branching(), [0, 2])
    with pytest.raises(UserError, match="the rule gives candidates for no module"):
        wrap(nn.Linear(2, 2), lambda name, module: None)
    with pytest.raises(UserError, match="the rule replaces the whole model"):
        wrap(nn.Linear(2, 2), lambda name, module: [module])
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(UserError, match="the rule gives one Identity for '0'; give a list"):
        wrap(model, lambda name, module: nn.Identity() if name else None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="candidate 1 of a MixedOp is no module but of type int"):
        wrap(model, lambda name, module: [module, 3] if name else None)  # type: ignore[list-item]


def test_public_names() -> None:
    for name in proxyless_ext.__all__:
        assert getattr(proxyless_ext, name) is not None
    assert proxyless_ext.__version__[0].isdigit()


def test_whole_models_correct_what_candidates_take_alone() -> None:
    truth = Costs.of([[2.0, 4.0, 0.0], [3.0, 1.0], [6.0, 2.0, 5.0]], 4.0)
    alone = [[1.0, 2.2, 0.0], [1.6, 0.5], [3.0, 1.1, 2.4]]  # About half, unevenly.
    networks = list(itertools.product(range(3), range(2), range(3)))
    seen, others = networks[::2], networks[1::2]
    costs = MeasuredCosts(alone, [(each, truth.network(each)) for each in seen]).costs
    for each in others:
        assert costs.network(each) == pytest.approx(truth.network(each), rel=0.03)
    assert costs.edges[0, 2] == 0  # What takes no time alone takes none.


@pytest.mark.parametrize("error", [-0.2, 0.15])
def test_what_is_derived_meets_the_target_as_a_whole(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the target, models take less or more than the sums that fit all others."""
    sums = Costs.of([[1.0, 2.0, 3.0], [1.5, 1.0, 0.5]], 2.0)
    seen = [(each, sums.network(each)) for each in [(0, 0), (0, 2), (2, 0), (2, 1), (1, 2)]]
    asked: list[tuple[int, ...]] = []

    def latency(candidates: object, choices: tuple[int, ...], conditions: object) -> float:
        asked.append(choices)
        return sums.network(choices) * (1 + error)

    monkeypatch.setattr(StandingCandidates, "latency", latency)
    monkeypatch.setattr(
        StandingCandidates, "latencies", lambda *_: MeasuredCosts(sums.edges.tolist(), seen)
    )
    mixed = [MixedOp([nn.Identity(), nn.Tanh(), nn.ReLU()]) for _ in range(2)]
    search = Search(nn.Sequential(*mixed), torch.randn(1, 3), "4.5ms", tolerance=0.1)
    assert search.cost() == pytest.approx(4.5, rel=0.11)
    found = search.settle()
    assert sums.network(found) * (1 + error) == pytest.approx(4.5, rel=0.1)
    assert found == asked[-1]
    assert len(asked) == len(set(asked)) > 1
    assert search.cost(found) == pytest.approx(sums.network(found) * (1 + error), rel=0.1)
    monkeypatch.setattr(StandingCandidates, "latency", lambda *_: 100.0)
    with pytest.warns(UserWarning, match="no network was found that takes the target of 4.5 ms"):
        search.settle()
