"""Runs that are killed and resumed end with the bits of one that nothing interrupts."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from sittings import Blow, sit
from test_shared_choices import GROUPED
from tiny_runs import PHASES, SPACE, begin, exactly, remains, search, tiny_config

from proxyless_ext.errors import UserError
from proxyless_ext.nn import SuperNet
from proxyless_ext.runs import Checkpoints, Run, load_checkpoint, save_checkpoint
from proxyless_ext.runs.checkpoint import Snapshot
from proxyless_ext.search import run as search_run
from proxyless_ext.search.gate_steps import GateLearner
from proxyless_ext.search.phases import check_space
from proxyless_ext.search.short_list import ShortList
from proxyless_ext.search.stages import Stages
from proxyless_ext.training.sitting import _is_finite
from proxyless_ext.training.weight_phase import WeightPhase

# Every way to search, and with them ways to read pictures, to begin training and to compare.
SEARCHES: dict[str, dict[str, Any]] = {
    "full": {
        "search.paths": "sampled",
        "train.dropout": 0.2,
        "train.drop_path": 0.3,
        "train.cutout": 3,
        "train.auto_augment": "randaugment",
        "train.mixup": 0.2,
        "train.cutmix": 1.0,
    },
    "two_path": {"gates.mode": "two_path", "data.workers": 2},
    "reinforce": {"gates.mode": "reinforce", "comparison.random_networks": 1},
    "target": {"latency.target": "70%", "train.weights": "inherit", "gates.every": 2},
    "add#linear": {"latency.regularizer": "add#linear", "data.augment": "none"},
    "shared": {"space.weights": "shared", "comparison.short_list": 2},
    "fp16": {"runtime.precision": "fp16", "gates.mode": "two_path"},
}


@pytest.fixture(autouse=True)
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX file is no part of what is resumed, and takes longer than all the rest."""
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)


def new_run(folder: Path, name: str, **settings: Any) -> Run:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    # There edges share their choices too.
    space = GROUPED if name == "shared" else SPACE
    return begin(folder / "run", tiny_config(folder, {**SEARCHES[name], **values}, space))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Searches that have ended, by their names."""

    @cache
    def end(name: str) -> Run:
        run = new_run(tmp_path_factory.mktemp("uninterrupted"), name)
        search(run)
        return run

    return end


@pytest.fixture(scope="module")
def expected(uninterrupted: Callable[[str], Run]) -> Callable[[str], dict[str, Any]]:
    """What they leave."""
    return cache(lambda name: remains(uninterrupted(name)))


@pytest.fixture
def finished(uninterrupted: Callable[[str], Run], tmp_path: Path) -> Run:
    """A copy of one, to do anything with."""
    return Run.open(shutil.copytree(uninterrupted("full").folder, tmp_path / "run"))


Expected = Callable[[str], dict[str, Any]]
SOME_SEARCHES = [
    name if name in ("target", "shared") else pytest.param(name, marks=pytest.mark.slow)
    for name in SEARCHES
]
"""What all others have in common with these need not be killed every time."""


@pytest.mark.parametrize("name", SOME_SEARCHES)
def test_killed_in_every_phase(name: str, expected: Expected, tmp_path: Path) -> None:
    rng = random.Random(name)
    run = new_run(tmp_path, name)
    between = rng.choice(PHASES)
    resumed_within_epochs = 0
    for phase in PHASES:
        blows = [Blow(phase, rng.choice([1, 2, 3]), rng.uniform(0, 0.03))]
        if phase == between:
            blows.insert(0, Blow(phase))
        for blow in blows:
            code, errors = sit(run, blow)
            assert code == -signal.SIGKILL, errors
            resumed_within_epochs += load_checkpoint(run.checkpoint(phase))["batch"] > 0
    assert resumed_within_epochs > 0
    search(run)
    assert remains(run) == expected(name)


@pytest.mark.slow
def test_killed_at_thirty_random_moments(expected: Expected, tmp_path: Path) -> None:
    """With workers; every end is compared, and the next kill comes to a run of its own."""
    rng = random.Random(0)
    for number in range(30):
        (tmp_path / str(number)).mkdir()
        run = new_run(tmp_path / str(number), "two_path")
        phase = rng.choice(PHASES)
        blow = Blow(phase, rng.randrange(5), rng.uniform(0, 0.3))
        assert sit(run, blow)[0] in (-signal.SIGKILL, 0)
        search(run)
        assert remains(run) == expected("two_path"), (number, blow)


class Crash(BaseException):
    """What no code of ours catches."""


@contextmanager
def crashing_at(number: int) -> Iterator[None]:
    """Crash before or after a call of those that a run consists of: at the `number`-th moment."""
    moments = iter(range(number))

    def crashing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments, None) is None:
                raise Crash
            result = function(*args, **kwargs)
            if next(moments, None) is None:
                raise Crash
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (WeightPhase, "step"),
            (ShortList, "step"),
            (GateLearner, "step"),
            (Run, "log"),
            (Checkpoints, "begin"),
            (Snapshot, "write"),
            (Stages, "search"),
            (search_run, "choose"),
            (Stages, "train"),
            (Stages, "finish"),
        ):
            patch.setattr(owner, name, crashing(getattr(owner, name)))
        yield


@pytest.mark.parametrize("name", SOME_SEARCHES)
def test_crashed_between_any_two_steps(name: str, expected: Expected, tmp_path: Path) -> None:
    rng = random.Random(name)
    run = new_run(tmp_path, name, data__workers=0)
    crashes = 0
    while not run.outcome.comparison_path.exists():
        try:
            with crashing_at(rng.randrange(12, 50)):
                search(run, checkpoint_seconds=rng.choice([1e-9, 0.03]))
        except Crash:
            crashes += 1
    assert crashes > 4
    assert remains(run) == expected(name)


def test_same_seed_same_bits_however_pictures_are_read(expected: Expected, tmp_path: Path) -> None:
    run = new_run(tmp_path, "full", data__workers=2)
    search(run, checkpoint_seconds=1e9)
    assert remains(run) == expected("full")


def test_another_seed_other_bits(expected: Expected, tmp_path: Path) -> None:
    run = new_run(tmp_path, "full", seed=1, checkpoint_seconds=1e9)
    search(run)
    here, there = remains(run), expected("full")
    for phase in ("warmup", "search", "train"):
        ours, theirs = (all_["checkpoints"][phase]["phase"]["model"] for all_ in (here, there))
        assert ours.keys() == theirs.keys() or phase == "train"
        same = {name for name in ours if ours[name] == theirs.get(name)}
        assert all("bn.num_batches" in name or "bn.running" in name for name in same)


def test_a_finished_run_is_left_as_it_is(finished: Run, expected: Expected) -> None:
    before = {path: path.read_bytes() for path in finished.checkpoints_path.iterdir()}
    search(finished)
    assert before == {path: path.read_bytes() for path in finished.checkpoints_path.iterdir()}
    assert remains(finished) == expected("full")


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_saves_and_leaves_with_a_sentence(
    phase: str, expected: Expected, tmp_path: Path
) -> None:
    rng = random.Random(phase)
    run = new_run(tmp_path, "two_path", checkpoint_seconds=1e9)
    code, errors = sit(run, Blow(phase, rng.choice([1, 3]), 0.0, signal.SIGINT))
    assert code == 1
    assert errors.strip().splitlines()[-1].startswith(f"error: stopped in {phase} after ")
    assert f"--resume {run.folder}" in errors
    assert "Traceback" not in errors
    saved = load_checkpoint(run.checkpoint(phase))
    assert saved["batch"] > 0  # Saved there and then.
    search(run)
    assert remains(run) == expected("two_path")


def edit(run: Run, section: str, **values: Any) -> None:
    settings = yaml.safe_load(run.config_path.read_text())
    settings[section].update(values)
    run.config_path.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("phase", "section"),
    [("warmup", "warmup"), ("search", "search"), ("finalists", "train"), ("train", "train")],
)
def test_a_diverging_run_keeps_its_last_good_checkpoint(
    phase: str, section: str, tmp_path: Path
) -> None:
    settings = {f"{section}__lr": 1e38, "derive__finalists": 1 if phase == "train" else 3}
    run = new_run(tmp_path, "full", checkpoint_seconds=1e9, **settings)
    says = rf"of {phase} became infinite or NaN .* lower {section}.lr in "
    with pytest.raises(UserError, match=says):
        search(run)
    assert _is_finite(load_checkpoint(run.checkpoint(phase)))
    edit(run, section, lr=0.01)
    search(run)
    assert all(record["loss"] < 10 for record in remains(run)["records"])


def test_a_run_goes_on_with_its_own_space(tmp_path: Path, expected: Expected) -> None:
    run = new_run(tmp_path, "full")
    assert sit(run, Blow("search", 4, 0.0))[0] == -signal.SIGKILL
    own = tmp_path / "space.yaml"
    SPACE.model_copy(update={"feature_mix": 16}).save(own)
    assert sit(run, Blow("search", 5, 0.0))[0] == -signal.SIGKILL
    own.unlink()
    (tmp_path / "table.yaml").unlink()
    search(run)
    assert remains(run) == expected("full")


def test_a_moved_run_goes_on(
    tmp_path: Path, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, "full")
    assert sit(run, Blow("search", 4, 0.0))[0] == -signal.SIGKILL
    (tmp_path / "elsewhere").mkdir()
    run.folder.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = Run.open("moved")
    search(moved)
    assert remains(moved) == expected("full")


def test_a_checkpoint_of_another_space_is_one_sentence(finished: Run) -> None:
    path = finished.checkpoint("search")
    state = load_checkpoint(path)
    state["phase"]["space"] = SPACE.model_copy(update={"feature_mix": 16}).model_dump_json()
    save_checkpoint(path, state)
    with pytest.raises(UserError, match="checkpoint of search was made with another search space"):
        search(finished)


def test_keys_that_another_version_leaves_out_make_no_other_space() -> None:
    written = SPACE.model_dump_json(exclude_defaults=True)
    check_space(SuperNet(SPACE), {"space": written}, "search")


@pytest.mark.parametrize(
    ("section", "change"),
    [("gates", {"mode": "reinforce"}), ("latency", {"regularizer": "target", "target": "50%"})],
)
def test_another_way_to_search_is_one_sentence(
    tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    run = new_run(tmp_path, "add#linear")
    assert sit(run, Blow("search", 4, 0.0))[0] == -signal.SIGKILL
    edit(run, section, **change)
    key = next(iter(change))
    with pytest.raises(UserError, match=rf"^{section}\.{key} was .* and is .* now; restore it in"):
        search(run)


# The short list's checkpoint is smaller than what is written before it.
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "shortlist"])
def test_a_full_disk_keeps_the_last_checkpoint(
    phase: str, expected: Expected, tmp_path: Path
) -> None:
    run = new_run(tmp_path, "full")
    assert sit(run, Blow(phase, 2, 0.0))[0] == -signal.SIGKILL
    path = run.checkpoint(phase)
    before = exactly(load_checkpoint(path))
    code, errors = sit(run, file_limit=path.stat().st_size // 2)
    assert code == 1
    assert f"error: cannot write {path}: " in errors
    assert "free some disk space; then go on with --resume" in errors
    assert "Traceback" not in errors
    assert exactly(load_checkpoint(path)) == before
    assert list(run.checkpoints_path.glob(".*")) == []
    search(run)
    assert remains(run) == expected("full")


def test_a_finished_run_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(_: Any, resolution: int, path: Path, *others: Any) -> float:
        path.touch()
        return 0.0

    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", export)
    settings = {"comparison.random_networks": 1, "checkpoint_seconds": 1e9}
    run = begin(tmp_path / "run", tiny_config(tmp_path, settings))
    result = search(run)
    before = remains(run)

    def refuse(*_: Any) -> Stages:
        raise AssertionError

    monkeypatch.setattr(Stages, "prepare", refuse)
    done = {"runtime.threads": 2, "comparison.random_networks": 0}
    assert search(run, **done) == result
    assert remains(run) == before
    with pytest.raises(UserError, match=r"search\.momentum was 0\.9"):
        search(run, **{"search.momentum": 0.5})
    for undone in ({"comparison.random_networks": 2}, {"train.epochs": 3}):
        with pytest.raises(AssertionError):
            search(run, **undone)
    run.outcome.onnx_path.unlink()
    with pytest.raises(AssertionError):
        search(run)
