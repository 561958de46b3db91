"""Accuracy of a network, and its BatchNorm statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from .. import ranks
from ..data import PictureSet, batches, worker_failures
from ..errors import UserError
from ..runtime import Runtime


@dataclass(frozen=True)
class Accuracy:
    """Means over a data set.

    Attributes:
        accuracy: top-1, as a fraction.
        top5: top-5, as a fraction (1 with at most five classes).
        loss: plain cross entropy.
    """

    accuracy: float
    top5: float
    loss: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@worker_failures()
@torch.no_grad()
def evaluate(
    network: nn.Module,
    dataset: PictureSet,
    batch_size: int,
    runtime: Runtime,
    workers: int = 0,
) -> Accuracy:
    """Accuracy of `network` in eval mode on every picture of `dataset`; its mode is restored.

    Several ranks, whose networks are the same, share the pictures.

    Raises:
        UserError: none of the pictures can be read.
    """
    was_training = network.training
    network.eval()
    count = top1 = top5 = 0
    loss = 0.0
    stream = batches(
        dataset, batch_size, 0, "evaluate", 0, workers=workers, shuffle=False, **runtime.reading
    )
    for pictures, labels in stream:
        with runtime.autocast():
            logits = network(runtime.put(pictures)).float().cpu()
        count += len(labels)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
    network.train(was_training)
    total, *sums = ranks.totals(count, top1, top5, loss)
    if total == 0:
        raise UserError("no validation picture can be read; mend or replace them")
    return Accuracy(*(each / total for each in sums))


@worker_failures()
def recalibrate(
    network: nn.Module,
    dataset: PictureSet,
    batch_size: int,
    seed: int,
    runtime: Runtime,
    workers: int = 0,
    max_batches: int = 32,
) -> None:
    """Set the BatchNorm statistics of `network` anew, to the mean over batches of training
    pictures.

    Statistics inherited from a supernet were taken under other paths. Those of several ranks are
    averaged.
    """
    stream = batches(
        dataset, batch_size, seed, "recalibrate", 0, workers=workers, **runtime.reading
    )
    with runtime.autocast():
        update_bn((runtime.put(pictures) for pictures, _ in islice(stream, max_batches)), network)
    for buffer in network.buffers():
        buffer.copy_(ranks.mean(buffer))
