"""What the command line says to mistakes: one sentence, no traceback, and nothing half-made."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import SPACE, settings_of, table_of, write_inputs
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.latency import LatencyTable
from proxyless_ext.runs import Run
from proxyless_ext.search import Task
from proxyless_ext.spaces import Space

PROGRESS = re.compile(r"^\w+ +[━╸╺ ]+ \d+/\d+ .*$")
ALL = ("runtime", "data", "warmup", "search", "gates", "derive", "train", "comparison")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, with the inputs of a tiny search."""
    write_inputs(tmp_path)
    for_two = table_of(SPACE.with_classes(2))
    LatencyTable({**for_two.entries, **table_of(SPACE).entries}).save(tmp_path / "table.yaml")
    monkeypatch.chdir(tmp_path)
    # They take longer than all the rest.
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
    monkeypatch.setattr("proxyless_ext.cli.search.write_report", lambda folder: folder)
    return tmp_path


def fails(*arguments: str | Path, code: int = 1) -> str:
    """What a command says that has to fail."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    said = [line for line in result.stderr.splitlines() if line and not PROGRESS.match(line)]
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    return said[0].removeprefix("error: ")


def search_arguments(*arguments: str | Path, table: bool = True) -> list[str]:
    given = ["--set", "latency.table=table.yaml"] if table else []
    options = ["--space", "space.yaml", "--out", "run", *given, *settings_of(*ALL)]
    return ["search", *options, *map(str, arguments)]


def succeeds(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(here: Path, finished: Path) -> Run:
    """A finished search, to do anything with."""
    if not finished.exists():
        succeeds(*search_arguments("--out", finished))
    shutil.copytree(finished, here / "run")
    return Run.open("run")


def change(run: Run, section: str, **values: Any) -> None:
    """Edit a run's configuration."""
    config = yaml.safe_load(run.config_path.read_text())
    config[section].update(values)
    run.config_path.write_text(yaml.safe_dump(config))


# Pictures.


def pictures(folder: Path, *names: str, count: int = 8) -> None:
    """Classes of small pictures of random pixels."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def no_pictures(folder: Path) -> None:
    folder.mkdir()


def pictures_without_classes(folder: Path) -> None:
    pictures(folder, ".")


def a_single_class(folder: Path) -> None:
    pictures(folder, "cat")


def an_empty_class(folder: Path) -> None:
    pictures(folder, "cat", "dog")
    (folder / "emu").mkdir()


def other_classes_in_val(folder: Path) -> None:
    pictures(folder / "train", "cat", "dog")
    pictures(folder / "val", "cat", "emu")


def a_truncated_picture(folder: Path) -> None:
    pictures(folder, "cat", "dog")
    truncate(folder / "dog" / "3.png")


def too_few_pictures(folder: Path) -> None:
    pictures(folder, "cat", "dog", count=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (None, "data.source 'pictures' is neither an existing folder nor one of digits, cifar10"),
        (no_pictures, "the folder pictures holds no pictures; put the pictures of each class in"),
        (pictures_without_classes, "the folder pictures holds pictures but no class sub-folders"),
        (a_single_class, r"the folder pictures holds a single class \(cat\)"),
        (an_empty_class, "the class folder pictures/emu holds no pictures"),
        (other_classes_in_val, r"only in train: dog; only in val: emu\); give both the same"),
        (a_truncated_picture, r"cannot read picture pictures/dog/3\.png: .*'skip' to leave it out"),
        (too_few_pictures, r"class 'cat' has too few readable training pictures \(1\)"),
    ],
)
def test_pictures_that_cannot_be_used(
    here: Path, make: Callable[[Path], None] | None, sentence: str
) -> None:
    if make:
        make(here / "pictures")
    assert re.search(
        sentence, fails(*search_arguments("--data", "pictures", "--set", "data.limit="))
    )
    assert not (here / "run").exists()


def test_mending_the_pictures_is_enough(here: Path) -> None:
    a_truncated_picture(here / "pictures")
    arguments = search_arguments("--data", "pictures", "--set", "data.limit=")
    fails(*arguments)
    (here / "pictures" / "dog" / "3.png").unlink()
    assert "accuracy:" in succeeds(*arguments)


def test_a_truncated_picture_can_be_skipped(here: Path) -> None:
    a_truncated_picture(here / "pictures")
    options = ("--data", "pictures", "--set", "data.limit=", "--set", "data.bad_pictures=skip")
    with pytest.warns(UserWarning, match=r"left out picture pictures/dog/3\.png"):
        assert "accuracy:" in succeeds(*search_arguments(*options))


def test_large_pictures_are_read_as_they_are_needed(here: Path) -> None:
    a_truncated_picture(here / "pictures")
    options = ("--data", "pictures", "--set", "data.limit=")
    large = SPACE.model_copy(update={"resolution": 72})
    large.save(here / "space.yaml")
    table_of(large.with_classes(2)).save(here / "table.yaml")
    said = fails(*search_arguments(*options))
    assert "cannot read picture pictures/dog/3.png" in said
    assert said.endswith("; then go on with --resume run")
    change(Run.open("run"), "data", bad_pictures="skip")
    with pytest.warns(UserWarning, match=r"left out picture .*pictures/dog/3\.png"):
        assert "accuracy:" in succeeds("search", "--resume", "run")


# Configurations.


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("search.epochs", "'search.epochs' sets nothing; write KEY=VALUE"),
        ("=3", "sets nothing; write KEY=VALUE"),
        ("search.epoch=3", r"unknown key 'search\.epoch'; .*\(known: epochs, "),
        ("serach.epochs=3", r"unknown key 'serach'; .*\(known: seed, .*search"),
        ("search.epochs=many", r"'search\.epochs' is 'many': input should be a valid integer"),
        ("search.lr=.nan", r"'search\.lr' is nan: .*finite"),
        ("gates.mode=fast", r"'gates\.mode' is 'fast': .*'full', 'two_path' or 'reinforce'"),
        ("latency.target=fast", "target 'fast' is no amount; write for example 12.5ms"),
        ("latency.target=40", "target '40' has no unit; write for example 12.5ms or 40%"),
        ("latency.table=none.yaml", r"cannot read none\.yaml: No such file"),
        ("space.resolution=16", r"table\.yaml is for networks that begin with Conv-input:8x8x3"),
        ("space.width_mult=0.5", r"space 'tiny' has no width 0\.5: channels become multiples of 8"),
        ("gates.every=1000", "the search would not learn: it has a gate step every 1000 weight"),
        ("data.limit=5", "data.limit is 5, but 10 classes need at least 20 training pictures"),
        (
            "space.name=mobile",
            r"'mobile' is neither a space \(imagenet, cifar_mbconv, cifar_tree, mobilenet_v3\) nor",
        ),
        ("space.name=.", r"'\.' is neither a space"),
    ],
)
def test_settings_that_cannot_be(here: Path, setting: str, sentence: str) -> None:
    assert re.search(sentence, fails(*search_arguments("--set", setting)))
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("search: [", r"bad\.yaml is not valid YAML or JSON"),
        ("- search", r"bad\.yaml must hold keys and values"),
        ("serach: {}", r"bad\.yaml: unknown key 'serach'; remove it or correct its spelling"),
        ("search: {epochs: two}", r"bad\.yaml: 'search\.epochs' is 'two'"),
        ("\x00", r"bad\.yaml is not valid YAML or JSON"),
    ],
)
def test_broken_configuration_files(here: Path, content: str, sentence: str) -> None:
    (here / "bad.yaml").write_text(content)
    assert re.search(sentence, fails("search", "--config", "bad.yaml", "--out", "run"))
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"candidates": ["zero"]},
            r"has no candidate that fits; add one for these shapes, such",
        ),
        ({"candidates": []}, r"edge 0 .* has no candidate that fits; add one"),
        ({"candidates": ["k4e1"]}, "'k4e1' is not an operation; write k3, k5 or k7 with e1 to e6"),
        ({"candidates": ["k3e1", "k3e1"]}, "repeat; list each of them once"),
        ({"stages": []}, r"'stages'.*at least 1"),
        ({"resolution": 0}, r"'resolution' is 0: .*greater than or equal to 1"),
        ({"stages": [{"channels": 4, "cells": 1, "stride": 3}]}, r"'stages\.0\.stride' is 3"),
        ({"depth": 3}, "unknown key 'depth'"),
    ],
)
def test_impossible_spaces(here: Path, change: dict[str, Any], sentence: str) -> None:
    space = {**SPACE.model_dump(mode="json", exclude_none=True), **change}
    (here / "space.yaml").write_text(yaml.safe_dump(space))
    said = fails(*search_arguments())
    assert said.startswith("space.yaml: ")
    assert re.search(sentence, said)
    assert not (here / "run").exists()


def test_a_table_of_another_space(here: Path) -> None:
    Space.model_copy(SPACE, update={"feature_mix": 16}).save(here / "space.yaml")
    said = fails(*search_arguments())
    assert re.search(r"table\.yaml lacks 2 of 12 layers; measure .*: Conv_1-\S*, Logits-\S*", said)
    assert not (here / "run").exists()


def test_no_compiler(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = fails(*search_arguments("--set", "latency.backend=compile", table=False))
    assert "torch.compile needs a C++ compiler" in said
    assert not (here / "run").exists()


def test_no_cuda_device(here: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    said = fails(*search_arguments("--set", "runtime.device=cuda"))
    assert said == "this machine has no usable CUDA device; set runtime.device to cpu"
    assert not (here / "run").exists()


# Targets.


@pytest.mark.parametrize("target", ["0.01ms", "1e9ms"])
def test_a_target_out_of_reach_says_what_is_within(here: Path, target: str) -> None:
    said = fails(*search_arguments("--target", target))
    assert re.search(r"out of reach: networks of 'tiny' take [\d.]+ to [\d.]+ ms", said)
    assert not (here / "run").exists()


def test_measured_latencies_are_not_lost_to_a_target_out_of_reach(here: Path) -> None:
    settings = ("--set", "latency.backend=eager", "--set", "latency.repetitions=1")
    said = fails(*search_arguments("--target", "1e9ms", *settings, table=False))
    assert re.search(
        r"out of reach: .* ms here; correct run/config\.yaml and go on with --resume run$", said
    )
    measured = (here / "run" / "latency.yaml").read_text()
    change(Run.open("run"), "latency", target="50%", tolerance=0.5)
    assert "accuracy:" in succeeds("search", "--resume", "run")
    assert (here / "run" / "latency.yaml").read_text() == measured


def test_a_target_that_nothing_holds(here: Path) -> None:
    setting = ("--set", "latency.regularizer=add#linear")
    said = fails(*search_arguments("--target", "50%", *setting))
    assert said.startswith("--target needs latency.regularizer 'target', not 'add#linear'")
    assert not (here / "run").exists()


# Run folders.


def test_a_folder_that_holds_a_run(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    for arguments in (search_arguments(), ["train", "run", "--out", "run"]):
        assert fails(*arguments) == (
            "run already holds a run; go on with it by --resume run, or choose another folder"
        )
    assert before == {path: path.read_bytes() for path in before}


def test_folders_in_which_no_run_can_begin(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "latency.yaml").write_text("mine")
    assert fails(*search_arguments()).startswith("run is not empty; choose another folder")
    assert (here / "run" / "latency.yaml").read_text() == "mine"
    assert fails(*search_arguments("--out", "table.yaml")).startswith("cannot write table.yaml/")


def test_what_is_to_go_on_by_itself_has_a_folder(here: Path) -> None:
    for arguments in ((), ("--out", "run", "--resume", "run")):
        said = fails("search", "--auto-resume", *arguments)
        assert said.startswith("--auto-resume begins or goes on with the run in --out; give that")


@pytest.mark.parametrize("option", ["--out", "--config", "--data", "--seed", "--set"])
def test_resume_takes_no_other_options(here: Path, option: str) -> None:
    (here / "c.yaml").write_text("seed: 0\n")
    value = {"--out": "other", "--config": "c.yaml", "--seed": "0", "--set": "seed=0"}
    given = (option, value.get(option, "digits"))
    commands = [("search", *given), ("train", *given), ("search", "--target", "50%")]
    for command, *options in (*commands, ("search", "--space", "space.yaml")):
        said = fails(command, "--resume", "run", *options)
        assert said.startswith("--resume goes on with the configuration in run/config.yaml; edit ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--resume"),
        ("train", "--resume"),
        ("derive",),
        ("evaluate",),
        ("export",),
        ("report",),
    ],
)
def test_folders_without_a_run(here: Path, arguments: tuple[str, ...]) -> None:
    (here / "empty").mkdir()
    for folder in ("none", "empty", "table.yaml"):
        assert fails(*arguments, folder) == (
            f"there is no run in {folder}; give the folder that holds config.yaml"
        )
    assert list((here / "empty").iterdir()) == []


def test_resuming_with_the_wrong_command(run: Run, here: Path) -> None:
    assert fails("train", "--resume", "run") == (
        "the run in run is one of search; use search --resume run"
    )
    succeeds("train", "run", "--out", "trained", *settings_of("runtime", "data", "train"))
    assert fails("search", "--resume", "trained") == (
        "the run in trained is one of train; use train --resume trained"
    )
    assert fails("derive", "trained") == "the run in trained is no search; give the folder of one"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.yaml", "search: [", r"run/config\.yaml is not valid YAML"),
        ("config.yaml", "serach: 3", r"run/config\.yaml: unknown key 'serach'"),
        ("space.yaml", "name: tiny\n", r"run/space\.yaml: the key 'resolution' is missing"),
        ("latency.yaml", "a: 1\n", r"run/latency\.yaml: 'a' is no layer"),
        ("checkpoints/search.safetensors", "x" * 99, r"search\.safetensors is damaged or no che"),
        ("checkpoints/warmup.safetensors", "", r"warmup\.safetensors is damaged or no checkpo"),
    ],
)
def test_resuming_what_is_damaged(run: Run, name: str, content: str, sentence: str) -> None:
    (run.folder / name).write_text(content)
    assert re.search(sentence, fails("search", "--resume", "run"))


def test_a_changed_byte_of_a_checkpoint_is_noticed(run: Run) -> None:
    path = run.checkpoint("train")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    said = fails("search", "--resume", "run")
    assert said == f"{path} is damaged; use another checkpoint or start anew"


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_networks_that_are_not_there_or_do_not_fit(run: Run, command: str) -> None:
    SPACE.architecture([0, 0, 0, 0]).save(run.outcome.architecture_path)
    assert fails(command, "run") == (
        "the weights in run/weights.safetensors belong to another architecture than "
        "run/architecture.json; restore either of them"
    )
    run.outcome.weights_path.write_bytes(run.outcome.weights_path.read_bytes()[:-9])
    assert "run/weights.safetensors is damaged" in fails(command, "run")
    run.outcome.weights_path.unlink()
    assert fails(command, "run") == (
        "the run in run has no trained network yet; go on with it by --resume run"
    )


def test_deriving_before_the_search_has_ended(run: Run) -> None:
    run.outcome.architecture_path.unlink()
    assert fails("derive", "run").startswith("the search in run has not ended; go on with it by")


def test_verifying_before_the_search_has_ended(run: Run) -> None:
    run.outcome.result_path.unlink()
    assert fails("verify", "run").startswith("the search in run has not ended; go on with it by")
    run.space_path.unlink()
    assert "is no search" in fails("verify", "run")


def test_deriving_what_is_out_of_reach(run: Run, here: Path) -> None:
    assert "out of reach: networks of 'tiny' take" in fails("derive", "run", "--target", "1e9ms")
    assert fails("derive", "run", "--target", "fast").startswith(
        "run/config.yaml and options: target 'fast'"
    )
    assert not (here / "architecture.json").exists()


def test_evaluating_on_other_classes(run: Run, here: Path) -> None:
    pictures(here / "pictures", "cat", "dog")
    said = fails("evaluate", "run", "--data", "pictures")
    assert said == (
        "pictures has classes that the network was not trained for (cat, dog; it knows 0, 1, 2, 3, "
        "4 and 5 more); give pictures of those it knows"
    )


def test_places_that_cannot_be_written(run: Run) -> None:
    assert fails("derive", "run", "--out", "nowhere/file") == (
        "cannot write nowhere/file: No such file or directory; choose another place, or make this "
        "one writable"
    )


# Latencies.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("measure", "space.yaml", "--out", "none/x"), "cannot write none/x: No such file or dir"),
        (("measure", "space.yaml", "--out", "."), "cannot write .: Is a directory"),
        (("measure", "space.yaml", "--repetitions", "0"), "'repetitions' is 0"),
        (("measure", "space.yaml", "--backend", "eager", "--device", "cuda"), "no usable CUDA dev"),
        (
            ("check", "table.yaml", "space.yaml", "--figure", "x.jpg"),
            "give a file that ends in .svg",
        ),
        (
            ("check", "table.yaml", "space.yaml", "--networks", "0"),
            "--networks is 0; give at least",
        ),
        (
            ("check", "table.yaml", "space.yaml", "--tolerance", "0.1"),
            "--tolerance is about a --target; give one",
        ),
        (
            ("check", "table.yaml", "space.yaml", "--target", "soon"),
            "target 'soon' is no amount; write for example 12.5ms, 5.7Mparams or 40%",
        ),
        (
            ("check", "table.yaml", "space.yaml", "--target", "40%", "--tolerance", "0"),
            "'tolerance' is 0.0: .* greater than 0",
        ),
        (("measure", "space.yaml", "--dtype", "float16"), "onnxruntime takes networks in float32"),
        (("compare", "--figure", "x.jpg"), "cannot draw 'x.jpg'; give a file that ends in .svg"),
        (("compare", "--figure", "none/x.svg"), "cannot write none/x.svg: No such file"),
        (("compare", "--table", "none/x.json"), "cannot write none/x.json: No such file"),
        (("compare", "--resolution", "0"), "--resolution is 0; give at least 1"),
        (("show", "table.yaml", "space.yaml", "--classes", "0"), "'num_classes' is 0: .* to 2"),
        (("show", "table.yaml", "imagenet", "--resolution", "-3"), "'resolution' is -3: .* to 1"),
    ],
)
def test_what_latency_commands_cannot_do_they_say_first(
    here: Path, arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure_table", "check_table", "compare"):
        monkeypatch.setattr(f"proxyless_ext.cli.latency.{name}", None)
    before = sorted(here.iterdir())
    assert re.search(sentence, fails("latency", *arguments))
    assert sorted(here.iterdir()) == before


def test_files_of_a_run_are_not_written_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.folder.absolute()
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for command in (
        ("derive", ".", "--target", "100%"),
        ("export", "."),
        ("latency", "measure", "space.yaml"),
    ):
        assert "is a file of the run in .; choose another place" in fails(*command)
    assert before == {path: path.read_bytes() for path in before}


# Training of one network.


def train_arguments(*arguments: str | Path) -> list[str]:
    settings = settings_of("runtime", "data", "train")
    return ["train", *map(str, arguments), "--out", "run", *settings]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            r"'network\.json' is no run folder, no file, and no network of the zoo \(proxyless_",
        ),
        ("{}", r"network\.json: the key 'name' is missing"),
        ("[", r"network\.json is not valid YAML or JSON"),
    ],
)
def test_networks_that_are_none(here: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (here / "network.json").write_text(content)
    assert re.search(sentence, fails(*train_arguments("network.json")))
    assert not (here / "run").exists()


def test_training_needs_one_network(run: Run) -> None:
    sentence = "give either a network to train or --resume with a run to go on with"
    assert fails("train") == fails("train", "run", "--resume", "run") == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--set", "train.weights=inherit"), "train.weights 'inherit' needs a search; set it to"),
        (("--data", "nowhere"), "data.source 'nowhere' is neither"),
        (("--set", "search.epochs=0"), "'search.epochs' is 0"),
    ],
)
def test_trainings_that_cannot_be(here: Path, options: tuple[str, str], sentence: str) -> None:
    SPACE.architecture([0, 1, 2, 3]).save(here / "network.json")
    assert sentence in fails(*train_arguments("network.json", *options))
    assert not (here / "run").exists()


def test_training_that_diverges(here: Path) -> None:
    SPACE.architecture([0, 1, 2, 1]).save(here / "network.json")
    said = fails(*train_arguments("network.json", "--set", "train.lr=1e38"))
    assert re.fullmatch(
        r"the loss of train became infinite or NaN after 0 of \d+ epochs and \d+ of \d+ batches; "
        r"lower train\.lr in run/config\.yaml and go on with --resume run",
        said,
    )


def test_resuming_a_training_with_other_classes(here: Path) -> None:
    SPACE.architecture([0, 1, 2, 1]).save(here / "network.json")
    succeeds(*train_arguments("network.json"))
    pictures(here / "pictures", "cat", "dog")
    change(Run.open("run"), "data", source=str(here / "pictures"), limit=None)
    said = fails("train", "--resume", "run")
    assert said.startswith(
        f"the pictures of {here}/pictures are not those that the run in run began with: class "
        "'cat' is new, class 'dog' is new, class '0' is gone and "
    )


# What can happen at any time.


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped; if a run folder was named, go on with --resume"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "the disk is full; free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            1,
            "cannot use x: Permission den",
        ),
    ],
)
def test_interruptions(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Task, "load", interrupt)
    assert fails(*search_arguments(), code=code).startswith(sentence)


def test_errors_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "load", lambda *_: 1 / 0)
    result = CliRunner().invoke(app, search_arguments())
    assert isinstance(result.exception, ZeroDivisionError)


def test_names_are_printed_as_they_are(run: Run, here: Path) -> None:
    name = "[red]a[bold] :smile:.json"
    assert succeeds("derive", "run", "--out", name).startswith(f"{name}: predicted latency")
    assert "there is no run in a[/b] :smile:;" in fails("report", "a[/b] :smile:")
