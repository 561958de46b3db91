"""The edges of the ImageNet space under pytest-benchmark.

    pytest benchmarks/bench_mbconv.py --benchmark-only --benchmark-group-by=param:case

Each peer by itself, with pytest-benchmark's own statistics and its comparison of saved runs; for
peers that take turns see mbconv.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from proxyless_ext.bench.agreement import check_block
from proxyless_ext.bench.blocks import PEERS, Edge
from proxyless_ext.bench.cases import Case, cases
from proxyless_ext.spaces import imagenet


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """What the published times are measured on."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("case", cases(imagenet(), "k5e6", batch=32), ids=lambda case: case.name)
def test_forward_and_backward(benchmark: BenchmarkFixture, case: Case, name: str) -> None:
    """Time one peer at the edges of one shape, after a look at its results."""
    edge = Edge(case)
    peer = edge.peer(name)
    check_block(name, peer(), edge.expected(), "bfloat16" if name == "fused_bf16" else "float32")
    benchmark.extra_info |= {"edges": case.edges, "flops": case.flops, "bytes": case.least_bytes}
    benchmark.pedantic(peer, rounds=5, warmup_rounds=1)
