"""Whole searches under a latency target: where the derived network ends."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from tiny_runs import SPACE, begin, tiny_config

from proxyless_ext.runs import SearchEpoch, read_metrics
from proxyless_ext.search import Task
from proxyless_ext.search.derivation import choose
from proxyless_ext.search.stages import Stages
from proxyless_ext.spaces import Space, Stage

# Enough edges for networks near every target but the extreme ones.
FIELDS = SPACE.model_dump(exclude={"stages"})
STAGES = (Stage(channels=4, cells=3), Stage(channels=6, cells=2, stride=2))
WIDER = Space(**FIELDS, stages=STAGES)


def all_latencies(stages: Stages) -> list[float]:
    """Predicted latencies of all networks of the space."""
    (device,) = stages.devices
    rows = [
        [device.table.latency(layer) for layer in candidates]
        for candidates in stages.space.edge_layers()
    ]
    return [device.costs.fixed + sum(choices) for choices in product(*rows)]


# Targets at the ends of the reach have one network, or none, within the tolerance.
@pytest.mark.filterwarnings("ignore:.* network of:UserWarning")
@pytest.mark.parametrize("mode", ["full", "two_path", "reinforce"])
def test_the_derived_network_ends_at_the_target(mode: str, tmp_path: Path) -> None:
    ends = []
    for target in ("3%", "30%", "60%", "97%"):
        folder = tmp_path / target
        folder.mkdir()
        settings = {"latency.target": target, "gates.mode": mode, "checkpoint_seconds": 1e9}
        config = tiny_config(folder, settings, WIDER)
        run = begin(folder / "run", config)
        stages = Stages.prepare(run, config, Task.load(config, run))
        supernet = stages.search()
        (goal,) = stages.goals
        argmax = goal.objective.predicted(supernet.edges.choices())
        (chosen,) = choose(stages, supernet)
        derived = goal.objective.predicted(chosen)

        target = goal.objective.target
        assert target is not None
        nearest = min(abs(latency - target) for latency in all_latencies(stages))
        assert abs(derived - target) <= max(0.05 * target, 1.05 * nearest)
        records = [r for r in read_metrics(run.metrics_path) if isinstance(r, SearchEpoch)]
        assert [record.target for record in records] == [target] * len(records)
        assert records[-1].derived == pytest.approx(argmax)
        assert records[0].trade_off == 0  # No gate steps yet.
        assert records[-1].trade_off != 0
        ends.append(derived)
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)
