"""Edges that share one choice, in spaces and in anyone's model, against brute force."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SPACE, begin, search, table_of, tiny_config
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from proxyless_ext import Architecture, Edges, MixedOp, Search, Space, SuperNet, UserError
from proxyless_ext.cli import app
from proxyless_ext.latency import LatencyTable
from proxyless_ext.spaces import Stage

KERNELS = ("k3e1", "k3e2", "k5e2")
# Two stages share one choice at other shapes, two edges of one stage another.
GROUPED = Space(
    **{
        **SPACE.model_dump(),
        "stages": (
            Stage(channels=4, cells=1, candidates=KERNELS, group="kernels"),
            Stage(channels=4, cells=2, group="depth"),
            Stage(channels=6, cells=1, stride=2, candidates=KERNELS, group="kernels"),
            Stage(channels=6, cells=1),
        ),
    }
)
GROUPS = ((0, 3), (1, 2), (4,))


class Tied(nn.Module):
    """Two MixedOps that share one choice, one between them that has its own."""

    def __init__(self) -> None:
        super().__init__()
        layers = [[nn.Linear(4, 4) for _ in range(3)] for _ in range(3)]
        self.first, self.middle, self.last = (MixedOp(each) for each in layers)
        self.last.alpha = self.first.alpha

    def forward(self, x: Tensor) -> Tensor:
        for mixed in (self.first, self.middle, self.last):
            x = functional.gelu(mixed(x))
        return x

    def with_gates(self, x: Tensor, first: Tensor, middle: Tensor) -> Tensor:
        """The same where every candidate runs and is weighed by its gate."""
        for mixed, gates in ((self.first, first), (self.middle, middle), (self.last, first)):
            outputs = [gate * op(x) for gate, op in zip(gates, mixed.candidates, strict=True)]
            x = functional.gelu(torch.stack(outputs).sum(0))
        return x


@pytest.mark.parametrize("mode", ["full", "two_path"])
def test_a_shared_gate_has_the_gradient_of_all_its_edges(mode: Any) -> None:
    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(5, 4, dtype=torch.float64)
    edges = Edges(model)
    assert [len(group) for group in edges.groups] == [2, 1]
    assert len(edges.weights) == 2 * 9
    for seed in range(5):
        for alpha in edges.alphas:
            alpha.grad = None
        with edges.gate_step(mode, torch.Generator().manual_seed(seed)) as step:
            model(x).square().sum().backward()
        assert model.last.active == model.first.active
        gates = [
            functional.one_hot(torch.tensor(path), 3).double().requires_grad_()
            for path in edges.active
        ]
        loss = model.with_gates(x, *gates).square().sum()
        expected = torch.stack(torch.autograd.grad(loss, gates))
        if step.pair is not None:
            expected = torch.zeros_like(expected).scatter(
                1, step.pair, expected.gather(1, step.pair)
            )
        torch.testing.assert_close(step.gates.grad, expected)
        p = step.probabilities.detach()
        step.update(lambda: None)
        mean = (p * expected).sum(1, keepdim=True)
        torch.testing.assert_close(
            torch.stack([alpha.grad for alpha in edges.alphas]), p * (expected - mean)
        )


@pytest.mark.parametrize("mode", ["full", "two_path", "reinforce"])
def test_a_search_keeps_choices_together(mode: Any) -> None:
    model, x = Tied(), torch.randn(8, 4)
    model.middle.candidates[1] = nn.Identity()
    model.last.candidates[2] = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4))
    macs, parameters = (
        Search(model, x, "50%", cost=cost, mode=mode, tolerance=0.5)
        for cost in ("macs", "parameters")
    )
    for choices in itertools.product(range(3), repeat=2):
        network = macs.derive(choices)
        linear = [each for each in network.modules() if isinstance(each, nn.Linear)]
        assert macs.cost(choices) == sum(8 * each.weight.numel() for each in linear)
        assert parameters.cost(choices) == sum(each.numel() for each in network.parameters())
        macs.edges.activate(choices)
        torch.testing.assert_close(network(x), model(x))
    loss = (lambda: 0.5) if mode == "reinforce" else (lambda: model(x).square().sum())
    for _ in range(3):
        macs.weight_step()
        assert model.first.active == model.last.active
        macs.gate_step(loss)
    assert model.last.alpha is model.first.alpha
    expected = macs.costs.expected(macs.edges.probabilities()).item()
    assert expected == pytest.approx(macs.objective.target, rel=1e-5)


def test_costs_of_a_space_are_those_of_its_networks() -> None:
    assert tuple(group.indices for group in GROUPED.groups) == GROUPS
    table = table_of(GROUPED)
    costs = table.costs(GROUPED)
    networks = list(itertools.product(range(3), range(4), range(4)))
    architectures = {GROUPED.architecture(choices) for choices in networks}
    assert len(architectures) == GROUPED.num_networks == costs.num_networks == len(networks)
    for choices in networks:
        network = GROUPED.architecture(choices)
        assert costs.network(choices) == pytest.approx(table.predict(network), rel=1e-12)
        operations = [block.operation for block in network.blocks]
        assert all(len({operations[index] for index in group}) == 1 for group in GROUPS)


def test_supernets_have_one_alpha_for_a_group() -> None:
    supernet, x = copy.deepcopy(SuperNet(GROUPED)).eval(), torch.randn(2, 3, 8, 8)
    assert [alpha.numel() for alpha in supernet.edges.alphas] == [3, 4, 4]
    assert [len(group) for group in supernet.edges.groups] == [len(group) for group in GROUPS]
    for choices in ((0, 3, 1), (2, 1, 3)):
        supernet.edges.activate(choices)
        network = supernet.derive(choices).eval()
        assert network.architecture == GROUPED.architecture(choices)
        torch.testing.assert_close(network(x), supernet(x))


def test_a_run_from_latencies_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
    config = tiny_config(tmp_path, {"comparison.random_networks": 1}, GROUPED)
    space, table = tmp_path / "space.yaml", tmp_path / "measured.yaml"
    invoke("latency", "measure", space, "--repetitions", 1, "--out", table)
    assert LatencyTable.load(table).costs(GROUPED).counts == (3, 4, 4)
    run = begin(tmp_path / "run", config)
    result = search(run)
    architecture = Architecture.load(run.outcome.architecture_path)
    operations = [block.operation for block in architecture.blocks]
    assert all(len({operations[index] for index in group}) == 1 for group in GROUPS)
    assert architecture.blocks == GROUPED.architecture(result.choices).blocks
    invoke("report", run.folder)
    report = (run.folder / "report.html").read_text()
    assert "each of 5 edges, some of which share one choice" in report
    assert f"1, 4: <b>{operations[0]}</b>" in report


def invoke(*arguments: object) -> None:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def test_choices_that_cannot_be_shared() -> None:
    stages = [Stage(channels=4, cells=1, group="a"), Stage(channels=6, cells=1, group="a")]
    with pytest.raises(UserError, match=r"edges 0 and 1 are of group 'a', but .* fit one and"):
        Space(**{**GROUPED.model_dump(), "stages": stages})
    model = Tied()
    model.last.candidates.append(nn.Identity())
    with pytest.raises(UserError, match="MixedOp 'last' has 4 candidates and an alpha of 3"):
        Edges(model)
