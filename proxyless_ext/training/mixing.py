"""Mixup and CutMix: pictures of a batch are mixed with each other, and so are their classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TrainConfig
from ..seeding import derive_seed


class Mixing:
    """Mixes every picture of a batch with the one before it, as torchvision does.

    How depends on the seed and the step alone, so that all ranks mix alike and finalists as the
    training that goes on; with what depends on the slice of the batch that a rank has.

    Args:
        config: Beta's parameters of Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019), 0 for
            none; of both, each batch gets one at random.
        seed: of the run.
        num_classes: of the pictures.
    """

    def __init__(self, config: TrainConfig, seed: int, num_classes: int) -> None:
        self.seed = seed
        self.mixers = []
        if config.mixup or config.cutmix:
            from torchvision.transforms import v2

            kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
            self.mixers = [
                kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha
            ]

    def __call__(self, step: int, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of a step, mixed.

        Args:
            step: of the training.
            pictures: float [B, 3, R, R].
            labels: int64 [B].

        Returns:
            Pictures [B, 3, R, R], and probabilities of classes float32 [B, classes]; where nothing
            is mixed, what was given.
        """
        if not self.mixers:
            return pictures, labels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(self.seed, "train", "mixing", step))
            mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
            mixed: tuple[Tensor, Tensor] = mixer(pictures, labels)
        return mixed
