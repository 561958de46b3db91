"""What a command that is killed again and again is compared by, and shards for it to read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import tiny_shards
from benchmarks.soak import Sample, growth, repeated, same_bits
from proxyless_ext.data import check_pictures
from proxyless_ext.runs import Epoch, Run, save_checkpoint


def test_what_a_soak_compares_can_differ(tmp_path: Path) -> None:
    runs = [Run.create(tmp_path / name, {}, 0, {}) for name in ("ours", "theirs")]
    for run in runs:
        for epoch in range(2):
            run.log(Epoch(phase="walk", step=epoch, epoch=epoch))
        save_checkpoint(
            run.checkpoint("walk"), {"phase": {"weight": torch.ones(2)}, "seconds": 1.0}
        )
    ours, theirs = runs
    assert same_bits(ours, theirs)
    assert repeated(ours) == []
    ours.log(Epoch(phase="walk", step=1, epoch=1))
    assert repeated(ours) == ["walk 1"]
    other = {"phase": {"weight": torch.tensor([1.0, 1 + 2**-23])}, "seconds": 1.0}
    save_checkpoint(ours.checkpoint("walk"), other)
    assert not same_bits(ours, theirs)


def test_growth_is_told_of_ranks_that_have_started() -> None:
    ages = [5.0, *range(31, 37)]
    samples = [Sample(age, 1, age, 100 + age if age > 30 else 9000, 12) for age in ages]
    assert growth(samples) == [
        "memory: median 132 MB in the first third, 136 in the last",
        "files: median 12 in the first third, 12 in the last",
    ]
    assert growth(samples[:2]) == ["memory and files: no rank lived for 30 s"]


def test_tiny_shards_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--pictures", "1003", "--classes", "4", "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["tiny_shards", str(tmp_path), *sizes])
    tiny_shards.main()
    checked = list(check_pictures(tmp_path, decodes=True, processes=1))
    assert [each.pictures for each in checked] == [1000, 3, 20]
    assert not any(each.problems for each in checked)
