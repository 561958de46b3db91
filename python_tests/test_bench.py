"""`proxyless bench`: what it measures, says and writes, at tiny sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli_errors import fails
from typer.testing import CliRunner

from proxyless_ext.bench import run
from proxyless_ext.bench.records import COMPARED, Results, Settings
from proxyless_ext.bench.run import choose_cases, run_benchmark, spread_problem
from proxyless_ext.bench.text import describe, table
from proxyless_ext.bench.timing import Timing
from proxyless_ext.cli import app
from proxyless_ext.errors import UserError
from proxyless_ext.spaces import read_model

TINY = {"resolution": 64, "width": 0.25, "rounds": 2, "step_rounds": 1}


@pytest.fixture(scope="module")
def results() -> Results:
    """Everything but peaks of memory, for which processes of their own import torch."""
    asked: list[dict[str, Any]] = []

    def peaks(names: tuple[str, ...], **sizes: Any) -> dict[str, dict[str, int]]:
        asked.append(sizes)
        return {step: dict.fromkeys(names, 8_000_000) for step in ("weight", "gate")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "peaks_apart", peaks)
        found = run_benchmark(Settings(threads=1, batch=2, **TINY))
    assert asked == [{"batch": 2, "resolution": 64, "width": 0.25, "threads": 1}]
    return found


def test_blocks_and_steps_are_checked_and_timed(results: Results) -> None:
    assert {block.space for block in results.blocks} == {"imagenet", "cifar_mbconv"}
    for block in results.blocks:
        assert block.differences["fused"]["output"] < 1e-4
        assert all(block.seconds[name].low > 0 for name in COMPARED)
        assert block.saved_bytes["fused"] < block.saved_bytes["plain"] / 2
    steps = results.steps
    assert set(steps.seconds) == {"weight", "gate"}
    assert all(set(seconds) == set(COMPARED) for seconds in steps.seconds.values())
    assert set(steps.errors["gradients of weights"]) == set(COMPARED)
    assert steps.saved_bytes["fused"] < steps.saved_bytes["plain"] / 4
    assert results.conditions.threads == 1


def test_one_table_says_it_all(results: Results) -> None:
    text = describe(results)
    assert f"torch {results.conditions.torch}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    rows = {cells[1].strip(): cells[2:] for cells in (line.split("|") for line in lines)}
    seconds = results.steps.seconds["weight"]
    ratio = seconds["plain"].median / seconds["fused"].median
    assert float(rows["weight step, ms"][3]) == pytest.approx(ratio, abs=0.006)
    assert [cell.strip() for cell in rows["peak of a gate step, MB"]][:5] == [
        "8",
        "8",
        "",
        "1.00",
        "",
    ]
    assert len(rows) == 2 + len(results.blocks) + 5


def test_the_first_block_of_each_size_is_measured() -> None:
    assert [
        f"{case.block.operation} {case.name}" for case in choose_cases(Settings(threads=1))
    ] == [
        "k5e6 16-24 112 s2",
        "k5e6 24-24 56 s1",
        "k5e6 40-40 28 s1",
        "k5e6 80-80 14 s1",
        "k5e6 192-192 7 s1",
        "k3e3 16-24 32 s1",
        "k3e3 40-40 16 s1",
        "k3e3 80-80 8 s1",
        "k3e3 160-160 4 s1",
    ]


def test_figures_are_printed_warned_of_and_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubtful = results.model_copy(update={"warning": "these times mean nothing"})
    asked: list[Settings] = []

    def measure(settings: Settings) -> Results:
        asked.append(settings)
        return doubtful

    monkeypatch.setattr("proxyless_ext.cli.bench.run_benchmark", measure)
    out = tmp_path / "bench.json"
    arguments = ["bench", "--threads", "3", "--batch-size", "5", "--out", str(out)]
    with pytest.warns(UserWarning, match="^these times mean nothing$"):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [Settings(threads=3, batch=5)]
    assert describe(results) in result.stdout
    assert read_model(Results, out) == doubtful


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threads", "0"], "--threads is 0; give at least 1"),
        (["--batch-size", "-3"], "--batch-size is -3; give at least 1"),
        (["--out", "nowhere/bench.json"], "cannot write nowhere/bench.json"),
        (["--batch-size", "64"], r"a batch of 64 needs about 7\.0 GB .*; give at most 9$"),
    ],
)
def test_mistakes_are_sentences_before_the_work(
    options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "available_bytes", lambda device: 1e9)
    said = fails("bench", *options)
    assert re.search(sentence, said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_has_to_be_there_and_to_have_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no usable CUDA device" in fails("bench", "--device", "cuda")
    monkeypatch.setattr(run, "processor_name", lambda device: "a GPU")
    monkeypatch.setattr(run, "has_kernels", lambda device: False)
    with pytest.raises(UserError, match="not built"):
        run.check_device(Settings(device="cuda", threads=1))


def test_times_that_spread_are_doubted() -> None:
    steady, wild = Timing(1.0, 0.95, 1.05, 3), Timing(1.0, 0.8, 1.4, 3)
    assert spread_problem([{"a": steady, "b": steady}, {"a": wild}]) is None
    sentence = spread_problem([{"a": steady, "b": wild}, {"a": wild}])
    assert sentence is not None
    assert sentence.startswith("times spread by 30%")


def test_columns_of_tables_are_as_wide_as_their_cells() -> None:
    assert table(["", "long name"], [["a", "1"], ["row", "1234567890"]]).splitlines() == [
        "|     |  long name |",
        "| --- | ---------: |",
        "| a   |          1 |",
        "| row | 1234567890 |",
    ]
