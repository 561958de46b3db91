"""Gradients averaged over the ranks of torch.distributed while backward is still at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ranks
from ..nn import Slices

BUCKET_BYTES = 2**20
"""What is sent at once, at least, so that what every sending costs is paid seldom."""


class GradientMean:
    """Averages the gradients that a step has made, and no others.

    They are sent in flat buckets. Where all ranks run one path, these are filled as backward makes
    gradients, in an order that is the same on all of them; where each has paths of its own, after
    backward, since no rank knows when others have what it lacks.

    Args:
        weights: whose gradients are averaged. Hooks stay with them, and do nothing but in
            `over_ranks`.

    Attributes:
        num_bytes: that each rank has sent in the last step.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.num_bytes = 0
        self._slices: Mapping[nn.Parameter, Slices] | None = None
        self._bucket: list[Tensor] = []
        self._sent: list[_Sent] = []
        if ranks.are_several():
            for weight in weights:
                weight.register_post_accumulate_grad_hook(self._take)

    @contextmanager
    def over_ranks(
        self,
        figures: Tensor,
        slices: Callable[[], Mapping[nn.Parameter, Slices]],
        apart: bool = False,
    ) -> Iterator[None]:
        """Within it, backward makes gradients; afterwards they are means over the ranks.

        Args:
            figures: averaged, too, in place.
            slices: tells of weights outside of which part their gradients are 0 on all ranks.
            apart: whether each rank runs paths of its own; the slices are then of all weights that
                any rank uses.
        """
        if not ranks.are_several():
            yield
            return
        self.num_bytes = 0
        try:
            self._send([figures])
            if apart:
                yield
                self._slices = slices()
                for weight in self._slices:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
                    self._take(weight)
            else:
                self._slices = slices()
                yield
            self._send(self._bucket)
            for sent in self._sent:
                sent.arrive()
        finally:
            self._slices, self._bucket, self._sent = None, [], []

    def _take(self, weight: Tensor) -> None:
        """Called when backward has made the whole gradient of a weight."""
        if self._slices is None:
            return
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        part = weight.grad[self._slices.get(weight, ())]
        if self._bucket and self._bucket[0].dtype != part.dtype:
            self._send(self._bucket)
        self._bucket.append(part)
        if sum(each.nbytes for each in self._bucket) >= BUCKET_BYTES:
            self._send(self._bucket)

    def _send(self, parts: list[Tensor]) -> None:
        if parts:
            flat = torch.cat([part.detach().reshape(-1) for part in parts])
            self._sent.append(_Sent(parts, flat, ranks.sum_later(flat)))
            self.num_bytes += flat.nbytes
        self._bucket = []


class _Sent(NamedTuple):
    """A bucket under way.

    Attributes:
        parts: tensors that are averaged.
        flat: their values, one after the other.
        wait: until these are sums.
    """

    parts: list[Tensor]
    flat: Tensor
    wait: Callable[[], None]

    @torch.no_grad()
    def arrive(self) -> None:
        """Give the parts their means."""
        self.wait()
        means = self.flat / ranks.place()[1]
        pieces = means.split([part.numel() for part in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            part.copy_(piece.view(part.shape))
