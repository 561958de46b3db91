"""Mixup and CutMix in trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_phase import Bench
from torch import Tensor
from torch.nn import functional

from proxyless_ext.config import TrainConfig
from proxyless_ext.training.meter import Meter
from proxyless_ext.training.mixing import Mixing

PICTURES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 0, 2])
BEFORE = [4, 0, 1, 2, 3]


def mixed(step: int, seed: int = 0, **settings: Any) -> tuple[Tensor, Tensor]:
    return Mixing(TrainConfig(**settings), seed, num_classes=4)(step, PICTURES, LABELS)


def shares(targets: Tensor) -> float:
    """What every picture has of its own class, the rest being that of the one before it."""
    own, other = (functional.one_hot(each, 4).float() for each in (LABELS, LABELS[BEFORE]))
    share = float(targets[1, LABELS[1]])  # Its neighbour is of another class.
    torch.testing.assert_close(targets, share * own + (1 - share) * other)
    return share


def test_mixup_adds_pictures_as_their_classes() -> None:
    found = []
    for step in range(20):
        pictures, targets = mixed(step, mixup=1.0)
        share = shares(targets)
        torch.testing.assert_close(pictures, share * PICTURES + (1 - share) * PICTURES[BEFORE])
        found.append(share)
    assert min(found) < 0.2  # Uniformly distributed.
    assert max(found) > 0.8


def test_cutmix_takes_a_box_of_the_other_picture() -> None:
    for step in range(20):
        pictures, targets = mixed(step, cutmix=1.0)
        taken = (pictures == PICTURES[BEFORE]).all(dim=1)
        assert torch.equal(pictures.movedim(1, 3)[~taken], PICTURES.movedim(1, 3)[~taken])
        for each in taken:
            assert each.sum() == each.any(dim=0).sum() * each.any(dim=1).sum()
            assert math.isclose(shares(targets), 1 - float(each.float().mean()), abs_tol=1e-6)


def test_of_both_each_batch_gets_one() -> None:
    kinds = {
        bool((mixed(step, mixup=1.0, cutmix=1.0)[0] == PICTURES).any(dim=1).any())
        for step in range(12)
    }
    assert kinds == {True, False}


def test_it_depends_on_seed_and_step_alone() -> None:
    state = torch.get_rng_state()
    first = mixed(3, mixup=0.4)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    assert torch.equal(mixed(3, mixup=0.4)[0], first)
    assert not torch.equal(mixed(4, mixup=0.4)[0], first)
    assert not torch.equal(mixed(3, seed=1, mixup=0.4)[0], first)


def test_nothing_is_mixed_unless_it_is_asked_for() -> None:
    assert mixed(0) == (PICTURES, LABELS)


def test_trainings_learn_from_mixtures(tmp_path: Path) -> None:
    """The loss is that of smoothed mixtures, the accuracy that of their likeliest classes."""
    settings = {"train__mixup": 0.5, "train__drop_path": 0.3, "train__label_smoothing": 0.2}
    train = Bench(tmp_path, **settings).train()
    rates = [getattr(module, "drop_rate", 0) for module in train.model.modules()]
    assert max(rates) == 0.3
    given: list[Tensor] = []
    train.model.register_forward_hook(lambda _, args, output: given.extend([*args, output]))
    pictures, labels = next(train.batches(0, 0))
    train.step(5, pictures, labels, meter := Meter())
    x, logits = given
    expected, targets = train.mixing(5, pictures, labels)
    assert torch.equal(x, expected)
    assert not torch.equal(x, pictures)
    smoothed = 0.8 * targets + 0.2 / targets.shape[1]
    loss = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1).mean()
    hits = (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
    assert meter.means()["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert meter.means()["accuracy"] == pytest.approx(hits.item())
