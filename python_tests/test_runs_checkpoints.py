"""Checkpoints that are written beside other work, and those before the newest."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from proxyless_ext.errors import DiskFullError, UserError
from proxyless_ext.runs import Checkpoints, load_checkpoint
from proxyless_ext.runs.checkpoint import Snapshot


def state(number: int) -> dict[str, Any]:
    return {"weight": torch.full((3,), float(number)), "step": number}


def steps(folder: Path) -> dict[str, int]:
    """What each file below a folder holds."""
    return {
        path.relative_to(folder).as_posix(): load_checkpoint(path)["step"]
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "walk.safetensors"


def test_work_goes_on_while_one_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, write = threading.Event(), Snapshot.write

    def wait_and_write(snapshot: Snapshot, path: Path) -> None:
        assert goes_on.wait(10)
        write(snapshot, path)

    monkeypatch.setattr(Snapshot, "write", wait_and_write)
    with Checkpoints(path, 1) as checkpoints:
        current = state(1)
        checkpoints.begin(current)
        current["weight"].zero_()  # What the next step does to it.
        assert not path.exists()
        goes_on.set()
        checkpoints.finish()
        assert load_checkpoint(path)["weight"].tolist() == [1, 1, 1]


def test_leaving_waits_for_the_last(path: Path) -> None:
    with Checkpoints(path, 1) as checkpoints:
        for number in range(5):
            checkpoints.begin(state(number))
    assert steps(path.parent) == {"walk.safetensors": 4}


@pytest.mark.parametrize("kept", [1, 2, 4])
@pytest.mark.parametrize("has_links", [True, False])
def test_the_last_few_are_kept_until_the_end(
    path: Path, kept: int, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    with Checkpoints(path, kept) as checkpoints:
        for number in range(6):
            checkpoints.begin(state(number))
        checkpoints.finish()
        older = {f"older/walk-{age}.safetensors": 5 - age for age in range(1, kept)}
        assert steps(path.parent) == {"walk.safetensors": 5, **older}
    with Checkpoints(path, 1) as checkpoints:  # Fewer are to be kept from now on.
        checkpoints.end()
    assert [each.name for each in path.parent.iterdir()] == ["walk.safetensors"]


def test_a_damaged_one_is_replaced_by_the_one_before(path: Path) -> None:
    with Checkpoints(path, 3) as checkpoints:
        assert checkpoints.read() is None
        for number in range(3):
            checkpoints.begin(state(number))
        checkpoints.finish()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    (path.parent / "older/walk-1.safetensors").write_text("half of")
    with Checkpoints(path, 3) as checkpoints:
        with pytest.warns(UserWarning, match=r"is damaged, so the run goes on from walk-2\."):
            assert checkpoints.read()["step"] == 0
        checkpoints.begin(state(7))
        checkpoints.end()
    assert steps(path.parent) == {"walk.safetensors": 7}
    path.write_text("")
    with Checkpoints(path, 3) as checkpoints, pytest.raises(UserError, match="use another"):
        checkpoints.read()


def test_what_went_wrong_is_told_at_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = Snapshot.write, iter([False, False, True])

    def write_if_there_is_room(snapshot: Snapshot, path: Path) -> None:
        if not next(room):
            raise DiskFullError("no room")
        write(snapshot, path)

    monkeypatch.setattr(Snapshot, "write", write_if_there_is_room)
    with Checkpoints(path, 2) as checkpoints:
        checkpoints.begin(state(0))
        with pytest.raises(DiskFullError):
            checkpoints.finish()
        checkpoints.begin(state(1))
        with pytest.raises(DiskFullError):
            checkpoints.begin(state(2))
        checkpoints.finish()  # That one was begun even so.
    assert steps(path.parent) == {"walk.safetensors": 2}
