"""Searches on several ranks of torch.distributed: one search, over all of their pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_processes import on_ranks
from search_steps import LABELS, MODES, PICTURES, Net, assert_same, search_over, search_steps
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from proxyless_ext import Edges, UserError, ranks

Steps = dict[str, Tensor]


def net(share: bool = False) -> Net:
    """In eval mode, because BatchNorms have the statistics of the rank's own pictures."""
    return Net(share).eval()


def in_ddp(rows: slice, mode: str, share: bool, **options: Any) -> Steps:
    model = net(share)
    options = {"find_unused_parameters": True, **options}
    return search_steps(model, DistributedDataParallel(model, **options), mode, rows)


def by_hand(rows: slice, seed: int = 0) -> Tensor:
    """The alphas after gate steps on the bare model, with a latency term in the loss."""
    edges = Edges(net())
    optimizer = torch.optim.Adam(edges.alphas, lr=0.1, betas=(0.0, 0.999))
    for index in range(3):
        optimizer.zero_grad()
        with edges.gate_step("full", torch.Generator().manual_seed(10 * index + seed)) as step:
            loss = cross_entropy(edges.model(PICTURES[rows]), LABELS[rows])
            (loss + 0.1 * (step.probabilities * torch.arange(4.0)).sum()).backward()
        step.update(optimizer.step)
    return edges.alpha_matrix().detach()


def sharded(model: Net, share: bool) -> Net:
    """By FSDP2, each candidate for itself where they have weights of their own."""
    edges = Edges(model)
    for mixed in edges.mixed_ops:
        parts = [mixed] if share else mixed.candidates[:3]  # The last has no weights.
        for part in parts:
            fully_shard(part, ignored_params=set(edges.alphas))
    fully_shard(model, ignored_params=set(edges.alphas))
    return model


def in_fsdp(rows: slice, mode: str, share: bool) -> Steps:
    model = net(share)
    steps = search_steps(model, mode=mode, rows=rows, prepare=lambda: sharded(model, share))
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in steps.items()
    }


def derived_from_shards() -> Steps:
    """State of the network that is derived where FSDP2 held the model."""
    model = sharded(net(), share=False)
    whole = net()
    options = StateDictOptions(full_state_dict=True)
    whole.load_state_dict(get_model_state_dict(model, options=options))
    return search_over(whole).derive([1, 2]).state_dict()


def derived_within_shards() -> nn.Module:
    model = net()
    search = search_over(model)
    sharded(model, share=False)
    return search.derive([1, 2])


def with_costs_of(rank: int) -> Tensor:
    """The costs that are gone by where each rank finds others."""
    rows = [[1.0 + rank, 2.0, 3.0, 4.0]] * 2
    return search_over(net(), costs=search_over(net()).costs.of(rows, 0.0)).costs.edges


def with_alphas_of(rank: int) -> None:
    model = net()
    model.first.alpha.data[0] += 1e-3 * rank
    search_steps(model)


def refuse_on(rank: int) -> None:
    def make() -> None:
        if rank == 0:
            raise UserError("the first rank cannot")
        raise AssertionError("only the first rank is asked")

    ranks.of_first(make)


def sentence(run: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises((UserError, RuntimeError, AssertionError)) as error:
        run(*args, **options)
    return str(error.value)


def on_rank() -> dict[str, Any]:
    """All cases in one process: starting one takes longer."""
    rank, _ = ranks.place()
    rows = slice(rank * 4, rank * 4 + 4)
    results: dict[str, Any] = {
        f"{name} {mode} {share}": run(rows, mode, share)
        for name, run in (("ddp", in_ddp), ("fsdp", in_fsdp))
        for mode in MODES
        for share in (True, False)
    }
    results["views"] = in_ddp(rows, "full", False, gradient_as_bucket_view=True)
    results["by hand"] = by_hand(rows)
    results["derived"] = derived_from_shards()
    results["costs"] = with_costs_of(rank)
    results["cannot"] = sentence(refuse_on, rank)
    results["other paths"] = sentence(by_hand, rows, seed=rank)
    results["other rewards"] = sentence(search_steps, net(), mode="reinforce", seed=rank)
    results["other alphas"] = sentence(with_alphas_of, rank)
    results["sharded weights"] = sentence(derived_within_shards)
    results["all used"] = sentence(in_ddp, rows, "full", False, find_unused_parameters=False)
    results["static"] = sentence(in_ddp, rows, "full", False, static_graph=True)
    results["sharded alphas"] = sentence(Edges(fully_shard(net())).sample)
    return results


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """What every rank came to."""
    return on_ranks(on_rank)


def assert_state_is_one(first: Steps, second: Steps) -> None:
    for name in Net().state_dict():
        if name in first:
            assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_the_search_is_that_over_all_pictures(
    results: list[dict[str, Any]], wrapper: str, mode: str, share: bool
) -> None:
    first, second = (result[f"{wrapper} {mode} {share}"] for result in results)
    expected = search_steps(net(share), mode=mode)
    assert_same(first, expected)
    assert_same(second, expected)
    assert_state_is_one(first, second)


def test_gradients_may_be_views_of_buckets(results: list[dict[str, Any]]) -> None:
    assert_same(results[0]["views"], search_steps(net()))


def test_gate_steps_by_hand_are_averaged(results: list[dict[str, Any]]) -> None:
    first, second = (result["by hand"] for result in results)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, by_hand(slice(0, 8)))


def test_shards_become_a_derived_network(results: list[dict[str, Any]]) -> None:
    assert_same(results[1]["derived"], search_over(net()).derive([1, 2]).state_dict())


def test_costs_are_those_of_the_first_rank(results: list[dict[str, Any]]) -> None:
    first, second = (result["costs"] for result in results)
    assert torch.equal(first, second)
    assert first[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("cannot", "the first rank cannot"),
        ("other paths", "drawn different paths or have different alphas; give all of them"),
        ("other rewards", "drawn different paths or have different alphas; give all of them"),
        ("other alphas", "drawn different paths or have different alphas; give all of them"),
        ("all used", "enable unused parameter detection .* `find_unused_parameters=True`"),
        ("static", "graph has changed .* not compatible with static_graph"),
        ("sharded weights", "FSDP does not support deepcopy"),
        ("sharded alphas", "alphas are sharded .* give fully_shard ignored_params=set"),
    ],
)
def test_what_is_refused(results: list[dict[str, Any]], case: str, expected: str) -> None:
    for result in results:
        assert re.search(expected, result[case]), result[case]
