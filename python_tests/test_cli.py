"""The command line: every command on one tiny search, from its beginning to its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from test_zoo_published import CONFIG
from tiny_runs import PHASES, SPACE, exactly, remains, settings_of, write_inputs
from typer.testing import CliRunner, Result

from proxyless_ext import SuperNet
from proxyless_ext.cli import app
from proxyless_ext.config import load_config
from proxyless_ext.data import load_pictures
from proxyless_ext.latency import LatencyTable
from proxyless_ext.report.words import cost, deviation
from proxyless_ext.runs import Run, load_checkpoint
from proxyless_ext.search import Objective, derive_choices
from proxyless_ext.spaces import Architecture
from proxyless_ext.training.evaluation import Accuracy
from proxyless_ext.training.networks import load_network

COMMANDS = ("search", "derive", "train", "evaluate", "export", "report", "latency", "bench")


def proxyless(*arguments: str | Path) -> Result:
    """Run a command, which has to succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Result]:
    """A whole search whose latencies are measured here, and what it printed."""
    folder = tmp_path_factory.mktemp("search")
    write_inputs(folder)
    (folder / "config.yaml").write_text(
        "data: {limit: 100, val_fraction: 0.05}\n"
        "latency: {backend: eager, repetitions: 3}\n"
        "comparison: {random_networks: 1}\n"
    )
    result = proxyless(
        *("search", "--config", folder / "config.yaml", "--space", folder / "space.yaml"),
        *("--target", "60%", "--seed", "3", "--out", folder / "run"),
        *settings_of("runtime", "warmup", "search", "gates", "derive", "train"),
        *("--set", "gates.mode=two_path"),
    )
    return Run.open(folder / "run"), result


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export takes longer than all the rest."""
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)


def test_help_shows_every_command_and_option() -> None:
    text = proxyless("--help").stdout
    assert all(command in text for command in COMMANDS)
    for command in COMMANDS:
        assert proxyless(command, "--help").stdout
    for option in ("--config", "--data", "--space", "--target", "--seed", "--out", "--resume"):
        assert option in proxyless("search", "--help").stdout


def test_the_console_script_warns_and_fails_in_sentences(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("proxyless")
    if not script.exists():
        pytest.skip("the package is not installed")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{index}.png")
    (tmp_path / "dog" / "2.png").write_text("no picture")
    write_inputs(tmp_path)
    arguments = ["search", "--data", ".", "--space", "space.yaml", "--out", "run"]
    for setting in ("data.bad_pictures=skip", "latency.table=table.yaml"):
        arguments += ["--set", setting]
    process = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (1, "")
    lines = process.stderr.splitlines()
    assert "warning: left out picture dog/2.png: it is not a picture of a known format" in lines
    said = "error: table.yaml lacks 1 of 12 layers (it has 10 classes instead of 2); "
    assert lines[-1].startswith(said)
    assert ": Logits-" in lines[-1]
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


def test_a_search_leaves_all_its_files(finished: tuple[Run, Result]) -> None:
    run, _ = finished
    attributes = [*vars(run).items(), *vars(run.outcome).items()]
    files = [value for name, value in attributes if name.endswith("_path")]
    assert all(path.exists() for path in files)
    assert {path.stem for path in run.checkpoints_path.iterdir()} == {
        "warmup",
        "search",
        "train",
        "shortlist",
        "finalists",
        "random-0",
    }
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in files}


def test_its_last_lines_are_what_it_found(finished: tuple[Run, Result]) -> None:
    run, printed = finished
    found = json.loads(run.outcome.result_path.read_text())
    first, *lines = printed.stdout.splitlines()
    assert first == f"run folder: {run.folder}"
    assert lines[0].startswith("train: 1797 pictures of 10 classes: 0 178, 1 182, ")
    assert lines[1] == "used: 100 pictures to train on, 90 to validate"
    assert lines[2:] == [
        f"accuracy:          {found['accuracy']:.2%} (top-5 {found['top5']:.2%})",
        f"parameters:        {found['parameters']:,}",
        f"MACs:              {found['macs']:,}",
        f"predicted latency: {cost(found['predicted'], 'ms')} "
        f"(target {cost(found['target'], 'ms')})",
        f"measured latency:  {cost(found['measured'], 'ms')} "
        f"({deviation(found['measured'], found['predicted'], 'prediction')})",
        f"report:            {run.report_path}",
    ]
    assert 0 < found["accuracy"] <= found["top5"] <= 1
    assert found["measured"] > 0
    assert found["onnx_max_difference"] <= 1e-4
    assert found["seed"] == 3
    assert found["seconds"].keys() == set(PHASES)


def test_what_it_found_is_consistent(finished: tuple[Run, Result]) -> None:
    run, _ = finished
    found = json.loads(run.outcome.result_path.read_text())
    architecture = Architecture.load(run.outcome.architecture_path)
    table = LatencyTable.load(run.latency_path)
    cheapest, dearest = table.bounds(SPACE)
    assert found["target"] == pytest.approx(cheapest + 0.6 * (dearest - cheapest))
    assert found["predicted"] == pytest.approx(table.predict(architecture))
    assert architecture.blocks == SPACE.architecture(found["choices"]).blocks
    assert list(architecture.classes or ()) == found["classes"] == [str(i) for i in range(10)]
    network = load_network(run)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    settings = load_config(run.config_path, {})
    assert (settings.seed, settings.gates.mode, settings.latency.target) == (3, "two_path", "60%")
    comparison = json.loads(run.outcome.comparison_path.read_text())
    assert [row["name"] for row in comparison["random"]] == ["random-0"]
    assert [row["name"] for row in comparison["yardsticks"]] == ["mobilenet_v2", "mnasnet1_0"]
    assert all(row["measured"] > 0 for rows in comparison.values() for row in rows)


def test_its_onnx_file_is_the_network_with_the_accuracy_it_says(
    finished: tuple[Run, Result],
) -> None:
    run, _ = finished
    session = onnxruntime.InferenceSession(
        run.outcome.onnx_path, providers=["CPUExecutionProvider"]
    )
    settings = load_config(run.config_path, {})
    val = load_pictures(settings.data, SPACE.resolution, settings.seed).val
    pictures = torch.stack([val[index][0] for index in range(len(val))])
    (logits,) = session.run(None, {"pictures": pictures.numpy()})
    accuracy = np.mean(logits.argmax(1) == val.labels.numpy())
    assert accuracy == pytest.approx(json.loads(run.outcome.result_path.read_text())["accuracy"])


def test_resuming_a_finished_search_changes_nothing(
    finished: tuple[Run, Result], no_onnx: None
) -> None:
    run, printed = finished
    before = remains(run)
    # As a scheduler starts it again, wherever its configuration has gone.
    begun = ("--config", "gone.yaml", "--seed", "9", "--out", run.folder)
    again = proxyless("search", *begun, "--auto-resume")
    after = remains(run)
    for each in (before, after):
        del each["networks"][""]["result"]["onnx_max_difference"]
    assert after == before
    kept = [line for line in printed.stdout.splitlines() if not line.startswith("measured")]
    assert kept == [line for line in again.stdout.splitlines() if not line.startswith("measured")]


def test_derive_again(finished: tuple[Run, Result], tmp_path: Path) -> None:
    run, _ = finished
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    table = LatencyTable.load(run.latency_path)
    cheapest, dearest = table.bounds(SPACE)

    def derive(*options: str) -> Architecture:
        out = tmp_path / "derived.json"
        printed = proxyless("derive", run.folder, "--out", out, *options).stdout
        architecture = Architecture.load(out)
        assert printed == f"{out}: predicted latency {cost(table.predict(architecture), 'ms')}\n"
        return architecture

    supernet = SuperNet(SPACE)
    supernet.load_state_dict(load_checkpoint(run.checkpoint("search"))["phase"]["model"])
    objective = Objective.of_space(SPACE, table, load_config(run.config_path, {}).latency)
    likeliest = SPACE.architecture(derive_choices(supernet, objective))
    assert derive().blocks == likeliest.blocks
    assert table.predict(derive("--target", "0%")) < 1.05 * cheapest + 1e-9
    assert table.predict(derive("--target", f"{dearest}ms")) > 0.95 * dearest - 1e-9
    assert before == {path: path.read_bytes() for path in before}


def test_how_much_training_finalists_got_is_kept(finished: tuple[Run, Result]) -> None:
    run, _ = finished
    trained = [each.trained for each in run.outcome.derivation.finalists]
    # Three, then two of them, two steps of eight each time.
    assert trained == [4 / 8, 4 / 8, 2 / 8]


def test_verify(finished: tuple[Run, Result], no_onnx: None) -> None:
    run, _ = finished
    before = remains(run)
    printed = proxyless("verify", run.folder, "--networks", "2").stdout
    assert "the mean of 2 random networks of its latency" in printed
    assert "the search cost as much as" in printed
    comparison = run.outcome.comparison
    names = [network.name for network in (*comparison.random, *comparison.short_list)]
    assert names == ["random-0", "random-1", "shortlist-0", "shortlist-1"]
    found = run.outcome.result.choices
    chosen = [network.choices for network in (*comparison.random, *comparison.short_list)]
    assert found not in chosen
    assert "2 random networks of its latency" in run.report_path.read_text()

    # What was trained before stays, whatever is asked for then.
    proxyless("search", "--resume", run.folder)
    after = remains(run)
    kept = [network.accuracy for network in run.outcome.comparison.random]
    assert kept == [network.accuracy for network in comparison.random]
    kept = [each["networks"][""] for each in (before, after)]
    assert kept[0]["weights"] == kept[1]["weights"]
    assert kept[0]["architecture"] == kept[1]["architecture"]


def test_derive_for_a_target_from_a_search_without_one(
    finished: tuple[Run, Result], tmp_path: Path
) -> None:
    run, _ = finished
    settings = yaml.safe_load(run.config_path.read_text())
    original = run.config_path.read_text()
    settings["latency"]["regularizer"] = "add#linear"
    run.config_path.write_text(yaml.safe_dump(settings))
    try:
        proxyless("derive", run.folder, "--out", tmp_path / "a.json", "--target", "0%")
    finally:
        run.config_path.write_text(original)
    table = LatencyTable.load(run.latency_path)
    predicted = table.predict(Architecture.load(tmp_path / "a.json"))
    assert predicted < 1.05 * table.bounds(SPACE)[0] + 1e-9


def test_evaluate(finished: tuple[Run, Result]) -> None:
    run, _ = finished
    found = json.loads(run.outcome.result_path.read_text())
    expected = (
        f"accuracy: {found['accuracy']:.2%}, top-5 {found['top5']:.2%}, "
        f"loss {found['loss']:.4f} on 90 pictures\n"
    )
    assert proxyless("evaluate", run.folder).stdout == expected
    assert proxyless("evaluate", run.folder, "--data", "digits").stdout == expected
    # Other training pictures are other pictures, but validation pictures stay what they are.
    assert proxyless("evaluate", run.folder, "--set", "data.limit=200").stdout == expected


def test_export(
    finished: tuple[Run, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finished
    out = tmp_path / "network.onnx"
    # It is held against the network that is exported, and the exporter takes seconds.
    content = run.outcome.onnx_path.read_bytes()
    monkeypatch.setattr("proxyless_ext.export.to_onnx", lambda *_, **__: content)
    printed = proxyless("export", run.folder, "--out", out).stdout
    assert printed.startswith(f"{out}: differs from PyTorch by at most ")
    pictures = torch.randn(2, 3, 8, 8)
    (logits,) = onnxruntime.InferenceSession(out).run(None, {"pictures": pictures.numpy()})
    with torch.no_grad():
        difference = load_network(run)(pictures) - torch.from_numpy(logits)
    assert difference.abs().max() < 1e-4


def test_report(finished: tuple[Run, Result]) -> None:
    run, _ = finished
    run.report_path.unlink()
    assert proxyless("report", run.folder).stdout == f"report: {run.report_path}\n"
    assert "<html" in run.report_path.read_text()


def train(out: Path, *arguments: str | Path) -> tuple[Run, dict[str, Any], list[str]]:
    settings = settings_of("runtime", "data", "train")
    lines = proxyless("train", *settings, *arguments, "--out", out).stdout.splitlines()
    run = Run.open(out)
    return run, json.loads(run.outcome.result_path.read_text()), lines


def test_train_a_network_of_ones_own(
    finished: tuple[Run, Result], tmp_path: Path, no_onnx: None
) -> None:
    searched, _ = finished
    run, found, lines = train(tmp_path / "a", searched.outcome.architecture_path, "--seed", "5")
    assert [lines[0], *lines[3:]] == [
        f"run folder: {run.folder}",
        f"accuracy: {found['accuracy']:.2%} (top-5 {found['top5']:.2%})",
        f"network:  {run.outcome.architecture_path}, weights.safetensors, network.onnx",
    ]
    assert found["seed"] == 5
    assert found["seconds"].keys() == {"train"}
    assert Architecture.load(run.outcome.architecture_path) == Architecture.load(
        searched.outcome.architecture_path
    )

    # The network of a run folder is the same one, and resuming a finished run changes nothing.
    again, _, _ = train(tmp_path / "b", searched.folder, "--seed", "5")
    proxyless("train", "--resume", again.folder)
    weights = [exactly(load_checkpoint(each.outcome.weights_path)) for each in (run, again)]
    assert weights[0] == weights[1]
    assert proxyless("evaluate", again.folder).stdout.startswith(lines[3].split(" (")[0])
    proxyless("report", again.folder)


def test_train_a_network_in_the_published_format(tmp_path: Path, no_onnx: None) -> None:
    (tmp_path / "small.config").write_text(json.dumps(CONFIG))
    run, found, _ = train(
        *(tmp_path / "run", tmp_path / "small.config"),
        *("--set", "data.limit=20", "--set", "train.epochs=1", "--set", "data.val_fraction=0.01"),
    )
    trained = Architecture.load(run.outcome.architecture_path)
    assert (trained.name, trained.resolution, trained.num_classes) == ("small", 224, 10)
    assert len(trained.blocks) == len(CONFIG["blocks"])
    assert found["macs"] > 0


def test_a_network_remembers_how_its_pixels_were_normalised(
    finished: tuple[Run, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that other pictures are given to it alike, whatever is usual for their source."""
    run, _ = finished
    kept = Architecture.load(run.outcome.architecture_path).normalisation
    config = load_config(run.config_path, {})
    pictures = load_pictures(config.data, SPACE.resolution, config.seed)
    assert kept is not None
    assert kept == pictures.normalisation

    for index in range(10):
        for part in ("train", "val"):
            folder = tmp_path / part / str(index)
            folder.mkdir(parents=True)
            for copy in range(2):
                Image.new("RGB", (8, 8), (20 * index,) * 3).save(folder / f"{copy}.png")
    used = []
    monkeypatch.setattr(
        "proxyless_ext.cli.network.validate_network",
        lambda network, settings, runtime, given: used.append(given) or evaluate_nothing(),
    )
    proxyless("evaluate", run.folder, "--data", tmp_path)
    picture, label = used[0][18]
    expected = (20 * label / 255 - torch.tensor(kept.mean)) / torch.tensor(kept.std)
    torch.testing.assert_close(picture[:, 4, 4], expected)


def evaluate_nothing() -> Accuracy:
    return Accuracy(accuracy=0.0, top5=0.0, loss=0.0)
