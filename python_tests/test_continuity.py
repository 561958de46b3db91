"""A run goes on with its own pictures and settings, and with no others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_runs import SPACE, settings_of, table_of
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.config import load_config
from proxyless_ext.data import load_pictures
from proxyless_ext.runs import Run, load_checkpoint

CLASSES = ("ant", "bee")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with noise for pictures: nothing can be learnt but by heart."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    SPACE.save(tmp_path / "space.yaml")
    table_of(SPACE.with_classes(2)).save(tmp_path / "table.yaml")
    SPACE.architecture([0, 1, 2, 1]).save(tmp_path / "network.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
    monkeypatch.setattr("proxyless_ext.cli.search.write_report", lambda folder: folder)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def succeeds(*arguments: str) -> str:
    code, output = invoke(*arguments)
    assert code == 0, output
    return output


def fails(*arguments: str) -> str:
    code, output = invoke(*arguments)
    assert code == 1
    (sentence,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return sentence


SETTINGS = settings_of("runtime", "warmup", "search", "gates", "derive", "train", "comparison")


def train(*options: str) -> str:
    return succeeds(
        *("train", "network.json", "--data", "pictures", "--out", "run"),
        *("--set", "train.epochs=2", *SETTINGS, *options),
    )


def search(*options: str) -> str:
    return succeeds(
        *("search", "--space", "space.yaml", "--data", "pictures", "--out", "run"),
        *("--set", "latency.table=table.yaml", *SETTINGS, *options),
    )


def edit(section: str, **values: Any) -> None:
    path = Path("run/config.yaml")
    config = yaml.safe_load(path.read_text())
    (config[section] if section else config).update(values)
    path.write_text(yaml.safe_dump(config))


def accuracy(output: str) -> str:
    found = re.search(r"accuracy: *([\d.]+%)", output)
    assert found, output
    return found[1]


# Pictures.


def one_more(folder: Path) -> str:
    shutil.copy(folder / "ant" / "3.png", folder / "ant" / "copy.png")
    return "class 'ant' of train has 41 pictures instead of 40"


def one_less(folder: Path) -> str:
    (folder / "bee" / "0.png").unlink()
    return "class 'bee' of train has 39 pictures instead of 40"


def another_name(folder: Path) -> str:
    (folder / "ant").rename(folder / "wasp")
    return "class 'wasp' is new, class 'ant' is gone"


def exchanged_names(folder: Path) -> str:
    (folder / "ant" / "0.png").rename(folder / "ant" / "z.png")
    return "pictures of class 'ant' of train were renamed or replaced"


@pytest.mark.parametrize("change", [one_more, one_less, another_name, exchanged_names])
def test_changed_pictures_are_refused(here: Path, change: Callable[[Path], str]) -> None:
    train()
    architecture = (here / "run" / "architecture.json").read_bytes()
    said = change(here / "pictures")
    for command in (("evaluate", "run"), ("train", "--resume", "run")):
        sentence = fails(*command)
        assert f"are not those that the run in run began with: {said}; restore them" in sentence
    assert (here / "run" / "architecture.json").read_bytes() == architecture


def test_settings_that_came_later_have_their_defaults(here: Path) -> None:
    """In a run that a version without them began."""
    train()
    path = here / "run" / "beginning.json"
    beginning = json.loads(path.read_text())
    del beginning["settings"]["train"]["drop_path"], beginning["settings"]["warmup"]
    path.write_text(json.dumps(beginning))
    succeeds("train", "--resume", "run")
    path.write_text(json.dumps(beginning))
    edit("train", drop_path=0.1)
    assert "train.drop_path was 0.0 when the run in run used it and is 0.1 now" in fails(
        "train", "--resume", "run"
    )


def test_pictures_may_move(here: Path) -> None:
    expected = accuracy(train())
    (here / "pictures").rename(here / "moved")
    edit("data", source="../moved")
    assert accuracy(succeeds("evaluate", "run")) == expected
    (here / "elsewhere").mkdir()
    (here / "run").rename(here / "elsewhere" / "run")
    assert accuracy(succeeds("evaluate", "elsewhere/run", "--data", "moved")) == expected


def test_a_test_set_counts_whole_and_the_runs_own_pictures_do_not(here: Path) -> None:
    output = train()
    expected = accuracy(output)
    assert "on 16 pictures" in succeeds("evaluate", "run")
    # The same pictures, however they are given, are those it was trained on.
    shutil.copytree(here / "pictures", here / "copy")
    for folder in ("pictures", "./pictures", "copy"):
        said = succeeds("evaluate", "run", "--data", folder)
        assert "on 16 pictures" in said
        assert accuracy(said) == expected
    (here / "pictures" / "ant" / "new.png").write_bytes((here / "copy/ant/0.png").read_bytes())
    assert "class 'ant' of train has 41" in fails("evaluate", "run", "--data", "pictures")
    (here / "copy" / "ant" / "0.png").unlink()
    assert "on 79 pictures" in succeeds("evaluate", "run", "--data", "copy")
    shutil.rmtree(here / "copy" / "bee")
    assert "on 39 pictures" in succeeds("evaluate", "run", "--data", "copy")


def test_a_part_that_is_held_out_is_what_a_source_is_tested_on(here: Path) -> None:
    (here / "pictures").rename(here / "train")
    for part, count in (("val", 3), ("test", 5)):
        for name in CLASSES:
            (here / part / name).mkdir(parents=True)
            for index in range(count):
                shutil.copy(here / "train" / name / f"{index}.png", here / part / name)
    (here / "pictures").mkdir()
    for part in ("train", "val", "test"):
        (here / part).rename(here / "pictures" / part)
    train()
    assert "on 6 pictures" in succeeds("evaluate", "run")
    assert "on 10 pictures" in succeeds("evaluate", "run", "--data", "pictures")
    assert fails("evaluate", "run", "--data", "pictures/train") == (
        "error: the pictures of pictures/train are those that the run in run was trained on; give "
        "others"
    )


def test_no_picture_trained_on_is_ever_validated_on(here: Path) -> None:
    train()

    def held_out(**settings: Any) -> set[bytes]:
        config = load_config(here / "run" / "config.yaml", settings)
        val = load_pictures(config.data, 8, config.seed).val.part
        return set(val.keys())

    before = held_out()
    assert held_out(**{"data.limit": 60, "data.gate_fraction": 0.1}) == before
    for setting in ("seed=1", "data.val_fraction=0.5"):
        assert " when the run in run used it and is " in fails("evaluate", "run", "--set", setting)


# Settings.


def test_settings_that_a_run_has_used_are_refused(here: Path) -> None:
    search()
    config = (here / "run" / "config.yaml").read_text()
    architecture = (here / "run" / "architecture.json").read_bytes()
    for section, name, value in (
        ("", "seed", 1),
        ("data", "gate_fraction", 0.4),
        ("runtime", "precision", "bf16"),
        ("warmup", "batch_size", 8),
        ("warmup", "epochs", 3),
        ("search", "epochs", 4),
        ("search", "momentum", 0.5),
        ("gates", "mode", "two_path"),
        ("latency", "target", "60%"),
        ("latency", "backend", "eager"),
        ("space", "name", "imagenet"),
        ("train", "batch_size", 8),
        ("train", "dropout", 0.5),
    ):
        edit(section, **{name: value})
        key = f"{section}.{name}" if section else name
        sentence = fails("search", "--resume", "run")
        assert sentence.startswith(f"error: {key} was "), sentence
        assert f"restore it in {here}/run/config.yaml" in sentence or "in run/config" in sentence
        (here / "run" / "config.yaml").write_text(config)
        assert (here / "run" / "architecture.json").read_bytes() == architecture
    assert "accuracy:" in succeeds("search", "--resume", "run")


def test_settings_that_no_phase_has_used_may_change(here: Path) -> None:
    search()
    for section, values in {
        "": {"checkpoint_seconds": 5.0},
        "runtime": {"threads": 2},
        "data": {"bad_pictures": "skip"},
        "train": {"epochs": 3, "lr": 0.01},
        "comparison": {"random_networks": 1},
    }.items():
        edit(section, **values)
    assert "accuracy:" in succeeds("search", "--resume", "run")
    assert load_checkpoint("run/checkpoints/train.safetensors")["epoch"] == 3
    assert load_checkpoint("run/checkpoints/random-0.safetensors")["epoch"] == 3
    # What was accepted counts from then on.
    edit("train", epochs=2)
    assert "accuracy:" in succeeds("search", "--resume", "run")
    for name in ("search", "shortlist", "finalists", "train", "random-0"):
        (here / "run" / "checkpoints" / f"{name}.safetensors").unlink()
    edit("gates", mode="two_path")
    edit("warmup", epochs=3)
    assert "accuracy:" in succeeds("search", "--resume", "run")
    edit("gates", mode="full")
    assert fails("search", "--resume", "run").startswith("error: gates.mode was 'two_path' when")


# Places.


def test_paths_in_a_configuration_start_from_its_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "settings").mkdir()
    (here / "settings" / "c.yaml").write_text(
        "data: {source: ../pictures}\nspace: {name: ../space.yaml}\n"
        "latency: {table: ../table.yaml}\n"
    )
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    succeeds("search", "--config", str(here / "settings" / "c.yaml"), "--out", "run", *SETTINGS)
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["space"]["name"] == str(here / "space.yaml")
    assert config["data"]["source"] == str(here / "pictures")
    (here / "space.yaml").unlink()
    monkeypatch.chdir("/")
    assert "accuracy:" in succeeds("search", "--resume", str(here / "elsewhere" / "run"))


def test_a_table_of_another_machine_leaves_the_measured_latency_open(here: Path) -> None:
    table = yaml.safe_load((here / "table.yaml").read_text())
    succeeds("latency", "measure", "space.yaml", "--out", "here.yaml", "--repetitions", "1",
             "--classes", "2", "--backend", "eager")  # fmt: skip
    measured = yaml.safe_load((here / "here.yaml").read_text())
    conditions = {**measured["conditions"], "processor": "some GPU", "device": "cuda"}
    (here / "table.yaml").write_text(yaml.safe_dump({"conditions": conditions, **table}))
    assert "measured latency:  not on this machine" in search()
    assert Run.open("run").outcome.result_path.exists()


def test_more_random_networks_than_there_are(here: Path) -> None:
    sentence = fails("search", "--space", "space.yaml", "--data", "pictures", "--out", "run",
                     "--set", "latency.table=table.yaml", *SETTINGS,
                     "--set", "comparison.random_networks=100000")  # fmt: skip
    assert (
        "comparison.random_networks is 100000, but 'tiny' has only 191 other networks" in sentence
    )
    assert not (here / "run").exists()


def test_a_single_value_per_channel_is_said_first(here: Path) -> None:
    SPACE.model_copy(update={"resolution": 2}).save(here / "space.yaml")
    for name in ("warmup", "search", "gates", "train"):
        sentence = fails("search", "--space", "space.yaml", "--data", "pictures", "--out", "run",
                         *SETTINGS, "--set", f"{name}.batch_size=1")  # fmt: skip
        assert "'tiny' ends at 1x1 pixels, where a batch of one picture has a single" in sentence
        assert sentence.endswith(f"raise {name}.batch_size or the resolution")
    assert not (here / "run").exists()


# Processes.

PROXYLESS = [sys.executable, "-m", "proxyless_ext"]


def start(here: Path, *options: str) -> subprocess.Popen[str]:
    settings = ["--set", "latency.table=table.yaml", *SETTINGS, *options]
    command = [*PROXYLESS, "search", "--space", "space.yaml", "--data", "pictures", *settings]
    return subprocess.Popen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_runs_of_one_second_have_folders_of_their_own_and_one_process_each(here: Path) -> None:
    processes = [start(here, "--set", "search.epochs=3000") for _ in range(2)]
    try:
        folders = [process.stdout.readline().split()[-1] for process in processes]  # type: ignore[union-attr]
        assert len(set(folders)) == 2
        run = Run.open(here / folders[0])
        while not run.position_path.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        # Others may look, but not work on it.
        assert f"is in the hands of process {processes[0].pid} on " in fails(
            "search", "--resume", str(run.folder)
        )
        status = succeeds("status", str(run.folder))
        assert f"process {processes[0].pid} on " in status.splitlines()[0]
        assert re.search(r"(warmup|search): \d+ of \d+", status)
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        said = [process.communicate()[1] for process in processes]
    assert all("go on with --resume" in each for each in said)
    assert "stopped; go on with --resume" in succeeds("status", str(run.folder))
    assert os.listdir(run.checkpoints_path)
