"""Published recipes, run as they stand but for sizes and epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_tree import TINY
from tiny_runs import begin, search

from proxyless_ext import Network
from proxyless_ext.config import load_config
from proxyless_ext.nn import count_parameters
from proxyless_ext.spaces import Architecture

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.slow
def test_the_tree_recipe_runs(tmp_path: Path) -> None:
    space = TINY.with_classes(10)
    space.save(tmp_path / "space.yaml")
    sizes = [
        count_parameters(Network(space.architecture([choice] * len(space.groups))))
        for choice in range(2)  # Identities at all edges, or convolutions.
    ]
    small = {
        "space.name": str(tmp_path / "space.yaml"),
        "data.source": "digits",
        "data.limit": 200,
        "data.workers": 0,
        "latency.target": f"{sum(sizes) / 2}params",
        "search.epochs": 2,
        "search.batch_size": 16,
        "gates.batch_size": 16,
        "train.epochs": 1,
        "train.batch_size": 16,
        "train.cutout": 3,
        "comparison.yardsticks": False,
        "runtime.device": "cpu",
        "runtime.precision": "float32",
    }
    run = begin(tmp_path / "run", load_config(CONFIGS / "cifar10_tree.yaml", small))
    result = search(run)
    assert sizes[0] < result.parameters < sizes[1]
    architecture = Architecture.load(run.outcome.architecture_path)
    assert all(len(block.edges) == 6 for block in architecture.blocks)
    assert "bernoulli" not in str(run.outcome.onnx_path.read_bytes())
