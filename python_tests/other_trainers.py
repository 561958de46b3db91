"""Searches in the training loops of accelerate and Lightning, against a loop of one's own.

A program of its own, because it needs an environment that has both: see test_other_trainers.py.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, debug_launcher
from accelerate.state import AcceleratorState
from lightning.pytorch.strategies import DDPStrategy
from search_steps import LABELS, MODES, PICTURES, Net, pictures, search_over, search_steps
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

STEPS = 3
RANKS = 2
BATCH = len(PICTURES)

State = dict[str, Tensor]


def net(precision: str = "no") -> Net:
    """In eval mode, because BatchNorms have the statistics of the rank's own pictures."""
    model = Net().eval()
    return model if precision == "no" else model.float()


def batches(model: nn.Module, rows: slice, size: int) -> DataLoader[Any]:
    """Those pictures, STEPS times, in batches of a size."""
    data = pictures(model)[rows].repeat(STEPS, 1, 1, 1), LABELS[rows].repeat(STEPS)
    return DataLoader(TensorDataset(*data), batch_size=size)


def expected(mode: str, precision: str = "no") -> State:
    """What a loop of one's own ends in."""
    model = net(precision)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits: Tensor = model(x)
        return logits if precision == "no" else logits.float()

    search_steps(model, run, mode, steps=STEPS)
    return model.state_dict()


def assert_state(model: nn.Module, state: State) -> None:
    for name, value in model.state_dict().items():
        exact = value.dtype != torch.float32
        tolerances = (1e-7, 1e-9) if exact else (1e-5, 1e-6)
        torch.testing.assert_close(value, state[name], rtol=tolerances[0], atol=tolerances[1])


# --- accelerate ---


def accelerate_search(mode: str, size: int = BATCH, precision: str = "no") -> nn.Module:
    settings = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision, kwargs_handlers=[settings])
    model = net(precision)
    search = search_over(model, mode)
    optimizer = torch.optim.SGD(search.weights, lr=0.1)
    called, optimizer, loader = accelerator.prepare(
        model, optimizer, batches(model, slice(None), size)
    )
    sign = -1 if mode == "reinforce" else 1
    for x, y in loader:
        search.weight_step()
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(called(x), y))
        optimizer.step()
        search.gate_step(lambda x=x, y=y: sign * cross_entropy(called(x), y))
    return model


def accelerate_search_of_ranks() -> None:
    torch.set_num_threads(1)
    states = {mode: expected(mode) for mode in MODES}  # Before there are ranks.
    for mode, state in states.items():
        assert_state(accelerate_search(mode, BATCH // RANKS), state)


# --- Lightning ---


class Searching(lightning.LightningModule):
    """A search with manual optimization."""

    def __init__(self, mode: str, size: int = BATCH, precision: str = "no") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.size = size
        self.net = net(precision)
        self.search = search_over(self.net, mode)
        self.sign = -1 if mode == "reinforce" else 1

    def train_dataloader(self) -> DataLoader[Any]:
        first = self.global_rank * self.size
        return batches(self.net, slice(first, first + self.size), self.size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.search.weights, lr=0.1)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        optimizer: Any = self.optimizers()
        self.search.weight_step()
        optimizer.zero_grad()
        self.manual_backward(cross_entropy(self.net(x), y))
        optimizer.step()
        self.search.gate_step(lambda: self.sign * cross_entropy(self.net(x), y))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["search"] = self.search.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.search.load_state_dict(checkpoint["search"])


def trainer(**options: Any) -> lightning.Trainer:
    settings = {"max_epochs": 1, "devices": 1, **options}
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # Its order is another.
        **settings,
    )


def lightning_search(mode: str, precision: str = "no") -> nn.Module:
    module = Searching(mode, precision=precision)
    options = {} if precision == "no" else {"precision": "bf16-mixed"}
    trainer(**options).fit(module)
    return module.net


def lightning_search_of_ranks(mode: str) -> nn.Module:
    module = Searching(mode, BATCH // RANKS)
    strategy = DDPStrategy(find_unused_parameters=True, start_method="spawn")
    trainer(devices=RANKS, strategy=strategy).fit(module)
    return module.net


def lightning_search_resumed(mode: str, folder: Path) -> nn.Module:
    """Saved after the first epoch and gone on with by another trainer."""
    first = trainer()
    first.fit(Searching(mode))
    first.save_checkpoint(folder / "search.ckpt")
    module = Searching(mode)
    trainer(max_epochs=2).fit(module, ckpt_path=folder / "search.ckpt", weights_only=False)
    return module.net


def lightning_search_of_two_epochs(mode: str) -> State:
    module = Searching(mode)
    trainer(max_epochs=2).fit(module)
    return module.net.state_dict()


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    # First, because processes inherit what an Accelerator finds out.
    debug_launcher(accelerate_search_of_ranks, num_processes=RANKS)
    for mode in MODES:
        for precision in ("no", "bf16"):
            state = expected(mode, precision)
            assert_state(accelerate_search(mode, precision=precision), state)
            AcceleratorState._reset_state()  # Else it refuses another precision.
            assert_state(lightning_search(mode, precision), state)
        assert_state(lightning_search_of_ranks(mode), expected(mode))
        with tempfile.TemporaryDirectory() as folder:
            resumed = lightning_search_resumed(mode, Path(folder))
        assert_state(resumed, lightning_search_of_two_epochs(mode))


if __name__ == "__main__":
    main()
