"""What candidates are worth by the losses of weight steps, which are paid for already.

Under uniform paths the loss of a step is that of a random network. A ridge regression of these
losses on the candidates that ran tells what each adds to the loss on average; their sums tell
networks of one latency apart better than the alphas do, and as well as measuring (docs/search.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

RIDGE = 10.0
"""Observations of no effect that every candidate begins with."""

DECAY = 0.95
"""Of the moving average that the falling loss of a training is measured from."""


class PathScores:
    """Sums of a regression, in float64 on the host.

    Args:
        candidates: how many each edge has.

    Attributes:
        gram: of the one-hot paths [D, D], D being the number of all candidates.
        moment: of the one-hot paths and what their loss was above the average [D].
        average: moving average of the loss; None before the first step.
    """

    def __init__(self, candidates: Sequence[int]) -> None:
        self.candidates = list(candidates)
        total = sum(candidates)
        self.gram = torch.zeros(total, total, dtype=torch.float64)
        self.moment = torch.zeros(total, dtype=torch.float64)
        self.average: float | None = None
        self._waiting: list[tuple[list[int], Tensor]] = []

    def add(self, paths: Sequence[int], loss: Tensor) -> None:
        """Add a weight step; the loss [] may be on a device, which is not waited for."""
        first, places = 0, []
        for path, count in zip(paths, self.candidates, strict=True):
            places.append(first + path)
            first += count
        self._waiting.append((places, loss.detach()))

    def effects(self) -> list[Tensor]:
        """What each candidate of every edge adds to the loss [N]; 0 where nothing is known."""
        self._take()
        ridge = RIDGE * torch.eye(len(self.moment), dtype=torch.float64)
        return list(torch.linalg.solve(self.gram + ridge, self.moment).split(self.candidates))

    def losses(self, networks: Sequence[Sequence[int]]) -> list[float]:
        """Losses that networks can be expected to have, all having had the same training."""
        effects, average = self.effects(), self.average or 0.0
        return [
            average + sum(effect[path].item() for effect, path in zip(effects, paths, strict=True))
            for paths in networks
        ]

    def log_worths(self) -> Tensor:
        """Scores that add up, for `Band.likeliest`: how much each candidate lowers the loss [E, N],
        -inf where there is none.
        """
        return pad_sequence(
            [-effect for effect in self.effects()], batch_first=True, padding_value=-torch.inf
        )

    def state_dict(self) -> dict[str, Any]:
        self._take()
        return {"gram": self.gram, "moment": self.moment, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gram, self.moment = state["gram"].clone(), state["moment"].clone()
        self.average = state["average"]
        self._waiting = []

    def _take(self) -> None:
        """Take in the steps whose losses were not waited for."""
        losses = torch.stack([loss for _, loss in self._waiting]).tolist() if self._waiting else []
        for (places, _), loss in zip(self._waiting, losses, strict=True):
            if self.average is not None:
                row = torch.tensor(places)
                self.gram[row[:, None], row] += 1
                self.moment[row] += loss - self.average
            average = loss if self.average is None else self.average
            self.average = DECAY * average + (1 - DECAY) * loss
        self._waiting = []
