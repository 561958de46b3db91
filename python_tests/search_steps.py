"""A user's own search loop, with every gradient that it meets: what others must do to the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from proxyless_ext import Costs, Identity, MBConv, MixedOp, Search

MODES = ("full", "two_path", "reinforce")
PICTURES = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 3


class Net(nn.Module):
    """Two edges, one of them with a shortcut, in float64.

    Args:
        share: whether candidates share weights.
        checkpointing: how `torch.utils.checkpoint` runs the edges, if it does.
    """

    def __init__(self, share: bool = False, checkpointing: dict[str, Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.checkpointing = checkpointing
        self.stem = nn.Conv2d(3, 4, 3)
        self.first = MixedOp(candidates(share), share)
        self.second = MixedOp(candidates(share), share)
        self.head = nn.Linear(4 * 36, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self._edge(self.first, torch.tanh(self.stem(x)))
        x = torch.tanh(x + self._edge(self.second, x))
        logits: Tensor = self.head(x.flatten(1))
        return logits

    def _edge(self, edge: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing is None:
            output: Tensor = edge(x)
        else:
            output = checkpoint(edge, x, **self.checkpointing)
        return output


def candidates(share: bool = False) -> list[nn.Module]:
    blocks: list[nn.Module] = [MBConv(4, 4, 3, expand_ratio=2), MBConv(4, 4, 5, expand_ratio=3)]
    return blocks if share else [*blocks, nn.Conv2d(4, 4, 3, padding=1), Identity()]


def search_over(model: nn.Module, mode: Any = "full", **options: Any) -> Search:
    """Under a target, at costs that are given."""
    counts = [len(each.candidates) for each in model.modules() if isinstance(each, MixedOp)]
    costs = Costs.of([list(map(float, range(1, count + 1))) for count in counts], 0.0)
    settings = {
        "target": "40%",
        "costs": costs,
        "lr": 0.1,
        "networks": 3,
        "tolerance": 0.5,
        **options,
    }
    return Search(model, pictures(model)[:2], mode=mode, **settings)


def pictures(model: nn.Module) -> Tensor:
    """In the model's type."""
    return PICTURES.to(next(model.parameters()).dtype)


def search_steps(
    model: nn.Module,
    called: Callable[[Tensor], Tensor] | None = None,
    mode: Any = "full",
    rows: slice = slice(0, 8),
    steps: int = 3,
    prepare: Callable[[], object] = lambda: None,
    **options: Any,
) -> dict[str, Tensor]:
    """Weight steps and gate steps in turn: all gradients, and the state that they end in.

    Args:
        model: searched.
        called: what was made of it, if that is called in its place.
        mode: of gate steps.
        rows: which of the pictures.
        steps: of each kind.
        prepare: called when the search is there and its optimizer is not.
        options: of the search.
    """
    search = search_over(model, mode, **options)
    prepare()
    optimizer = torch.optim.SGD(search.weights, lr=0.1)
    sign = -1 if mode == "reinforce" else 1
    run = model if called is None else called

    def loss() -> Tensor:
        return cross_entropy(run(pictures(model)[rows]), LABELS[rows])

    model.zero_grad()
    found: dict[str, Tensor] = {}
    for step in range(steps):
        search.weight_step()
        optimizer.zero_grad()
        loss().backward()
        found |= gradients(model, f"weights {step}")
        optimizer.step()
        optimizer.zero_grad()
        search.gate_step(lambda: sign * loss())
        assert all(weight.grad is None for weight in search.weights)
        found |= gradients(model, f"gates {step}")
    return found | {name: value.clone() for name, value in model.state_dict().items()}


def gradients(model: nn.Module, when: str) -> dict[str, Tensor]:
    """Copies of those that there are."""
    return {
        f"{when}: d{name}": parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(
            value,
            expected[name],
            rtol=1e-7,
            atol=1e-9,
            msg=lambda text, name=name: f"{name}: {text}",
        )
