"""Gate steps on several ranks of torch.distributed: alphas that stay one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from proxyless_ext import Edges, Identity, MBConv, MixedOp, UserError
from proxyless_ext.nn import GateMode

RANKS = 2
MODES: tuple[GateMode, ...] = ("full", "two_path")
PICTURES = torch.rand(8, 4, 5, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 4
COSTS = torch.tensor([[3.0, 1.0, 2.0]])


def model() -> nn.Module:
    torch.manual_seed(0)
    candidates = [MBConv(4, 4, 3, expand_ratio=1), MBConv(4, 4, 5, expand_ratio=2), Identity()]
    return nn.Sequential(MixedOp(candidates), nn.Flatten(), nn.Linear(100, 4)).eval()


def search(
    network: nn.Module, called: nn.Module, rows: slice, mode: GateMode, seed: int = 0
) -> Tensor:
    """The alphas after five gate steps on some of the pictures."""
    edges = Edges(network)
    optimizer = torch.optim.Adam(edges.alphas, lr=0.1, betas=(0.0, 0.999))
    for index in range(5):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(10 * index + seed)
        with edges.gate_step(mode, generator) as step:
            loss = cross_entropy(called(PICTURES[rows]), LABELS[rows])
            if called is network:
                loss = loss + 0.1 * (step.probabilities * COSTS).sum()
            loss.backward()
        step.update(optimizer.step)
    return edges.alphas[0].detach()


def on_rank(rank: int, folder: str) -> None:
    """All cases in one process: starting one takes longer."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    rows = slice(rank * 4, rank * 4 + 4)
    results: dict[str, Tensor | str] = {}
    for mode in MODES:
        network = model()
        results[mode] = search(network, network, rows, mode)
        network = model()
        wrapped = DistributedDataParallel(network, find_unused_parameters=True)
        results[f"{mode} in DDP"] = search(network, wrapped, rows, mode)
    network = model()
    try:
        search(network, network, rows, "full", seed=rank)
    except UserError as error:
        results["different paths"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What every rank came to."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(on_rank, (str(folder),), RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("mode", MODES)
def test_alphas_stay_one_and_are_those_of_all_pictures(
    results: list[dict[str, Tensor]], mode: GateMode
) -> None:
    first, second = (result[mode] for result in results)
    assert torch.equal(first, second)
    whole = model()
    torch.testing.assert_close(first, search(whole, whole, slice(0, 8), mode))


@pytest.mark.parametrize("mode", MODES)
def test_so_they_do_in_ddp(results: list[dict[str, Tensor]], mode: GateMode) -> None:
    first, second = (result[f"{mode} in DDP"] for result in results)
    assert torch.equal(first, second)
    assert not torch.equal(first, model()[0].alpha)


def test_different_paths_are_one_sentence(results: list[dict[str, Tensor]]) -> None:
    for result in results:
        assert result["different paths"] == (
            "the ranks of torch.distributed have drawn different paths; give gate_step a generator "
            "of one seed on all of them, and all the same alphas"
        )
