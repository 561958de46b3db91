"""Path scores, against a regression of all steps at once."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from proxyless_ext.search.path_scores import DECAY, RIDGE, PathScores

CANDIDATES = [3, 1, 4]


def steps(count: int, seed: int = 0) -> list[tuple[list[int], float]]:
    """Random paths, and losses that fall while the candidates have effects of their own."""
    rng = random.Random(seed)
    return [
        (
            paths := [rng.randrange(size) for size in CANDIDATES],
            2 - step / count + 0.1 * paths[0] - 0.2 * (paths[2] == 3) + rng.gauss(0, 0.1),
        )
        for step in range(count)
    ]


def learnt(rows: list[tuple[list[int], float]]) -> PathScores:
    scores = PathScores(CANDIDATES)
    for paths, loss in rows:
        scores.add(paths, torch.tensor(loss, dtype=torch.float64))
    return scores


def test_a_regression_of_all_steps_at_once_gives_the_same() -> None:
    rows = steps(200)
    average, targets, design = rows[0][1], [], []
    for paths, loss in rows[1:]:
        targets.append(loss - average)
        average = DECAY * average + (1 - DECAY) * loss
        one_hot = [np.eye(size)[path] for size, path in zip(CANDIDATES, paths, strict=True)]
        design.append(np.concatenate(one_hot))
    # Ridge regression is least squares with a row for every coefficient.
    Z = np.vstack([design, np.sqrt(RIDGE) * np.eye(sum(CANDIDATES))])
    expected, *_ = np.linalg.lstsq(Z, np.concatenate([targets, np.zeros(8)]), rcond=None)
    found = torch.cat(learnt(rows).effects())
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-9)


def test_effects_are_found() -> None:
    scores = learnt(steps(2000))
    first, _, last = (effect.tolist() for effect in scores.effects())
    assert first[2] - first[0] == pytest.approx(0.2, abs=0.03)
    assert last[3] - min(last[:3]) == pytest.approx(-0.2, abs=0.04)
    good, bad = scores.losses([(0, 0, 3), (2, 0, 0)])
    assert bad - good == pytest.approx(0.4, abs=0.05)
    worths = scores.log_worths()
    assert worths.shape == (3, 4)
    assert worths.isinf().tolist() == [[False] * 3 + [True], [False] + [True] * 3, [False] * 4]
    assert worths[2].argmax() == 3


def test_what_was_saved_goes_on_bit_by_bit() -> None:
    rows = steps(100)
    whole, part = learnt(rows), learnt(rows[:40])
    resumed = PathScores(CANDIDATES)
    resumed.load_state_dict(copy.deepcopy(part.state_dict()))
    for paths, loss in rows[40:]:
        resumed.add(paths, torch.tensor(loss, dtype=torch.float64))
    assert torch.equal(torch.cat(resumed.effects()), torch.cat(whole.effects()))


def test_before_the_first_step_all_are_equal() -> None:
    scores = PathScores(CANDIDATES)
    assert scores.losses([(0, 0, 0), (2, 0, 3)]) == [0.0, 0.0]
