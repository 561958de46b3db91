"""The average of a network's weights over training, often better than the last of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `model`: call its `update_parameters(model)` after every
    step.

    Its `module` is a network with the averaged weights, in eval mode. BatchNorm's running
    statistics are averaged as the weights are, since those of the last step belong to other weights
    than the average; counts of batches are copied, since they are no statistics.

    The t-th update (t = 0 is a copy) keeps the share min(decay, (1 + t) / (10 + t)) of the average,
    so that a run shorter than 1 / (1 - decay) steps is not judged by its first weights.

    Args:
        model: copied.
        decay: in [0, 1]; 0 follows the model exactly.
    """

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        if averages[0].is_floating_point():  # All of one call are of one type.
            share = min(decay, (1 + int(count)) / (10 + int(count)))
            get_ema_multi_avg_fn(share)(averages, values, count)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True).eval()
