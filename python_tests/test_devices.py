"""Devices that a command or a plug-in measures on: what they say, and how they fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE
from torch import Tensor, nn
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.errors import UserError
from proxyless_ext.latency import (
    Conditions,
    Journal,
    LatencyTable,
    Readout,
    Reference,
    Remote,
    count_table,
    measure,
    measure_table,
    open_journal,
    register_backend,
)
from proxyless_ext.latency.backends import BACKENDS, Run
from proxyless_ext.latency.trials import measure_in_turn, name_of
from proxyless_ext.nn import Network, count_macs

ONE: dict[Any, tuple[nn.Module, Tensor]] = {"one": (nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4))}


def conditions(command: str | None, backend: str = "command", **remote: Any) -> Conditions:
    repetitions = remote.pop("repetitions", 1)
    way = Remote(command=command, **{"retries": 1, **remote})
    return Conditions(backend=backend, processor="toy", repetitions=repetitions, remote=way)


# What a program prints.


@pytest.mark.parametrize(
    ("text", "readout", "expected"),
    [
        ("12.5\n", {}, 12.5),
        ("12.5 per Batch", {}, 12.5),
        ("loading k3e6 for conv2d\nmean: 12.5\n\n", {}, 12.5),
        ("latency 250us", {}, 0.25),  # It says so itself.
        ("latency 2.5e-1 s", {}, 250.0),
        ("P50 Latency is 0.0587sec", {"pattern": r"P50 Latency is ([\d.]+)"}, 58.7),
        ("latency 250 \u00b5s", {}, 0.25),
        ("latency 250 \u03bcs", {}, 0.25),
        ("12.5", {"unit": "us"}, 0.0125),
        ("7.5 mJ", {"unit": "mJ"}, 7.5),
        ("Median: 273.55 us\nAverage: 300.20 us", {"pattern": r"Median: +([\d.]+)"}, 0.27355),
        ("Median: 1.5 ms\n9 9", {"pattern": r"Median: +([\d.]+)"}, 1.5),
        ('{"results": [{"mean": 3}]}', {"json_path": "results.0.mean", "unit": "s"}, 3000.0),
        ('warming up\n{"mean": "0.5"}', {"json_path": "mean"}, 0.5),
    ],
)
def test_the_number_is_found(text: str, readout: dict[str, str], expected: float) -> None:
    assert Readout(**readout).read(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "readout", "message"),
    [
        (" \n", {}, "printed nothing"),
        ("done", {}, "no number in its last line, 'done'"),
        ("1.5 ms\ndone", {}, "no number in its last line"),
        ("mean 1.5 max 2.5", {}, r"2 numbers in its last line, .* \(1.5, 2.5\); say which one"),
        ("1,234.5", {}, "2 numbers"),
        ("-3", {}, "-3, which cannot be"),
        ("0", {}, "0, which cannot be"),
        ("nan", {}, "nan, which cannot be"),
        ("1e999", {}, "1e999, which cannot be"),
        ("1e300", {}, "1e300, which cannot be"),
        ("drew 3 mJ", {}, "printed 3 mJ, where ms are asked for; give --unit mJ"),
        ("drew 3mJ", {"unit": "J"}, "printed 3 mJ, where J are asked for"),
        ("mean 5 ms", {"unit": "mJ"}, "a time, 5 ms, where mJ are asked for"),
        ("mean 5", {"pattern": "median (.*)"}, "no number in what matches 'median .*mean 5"),
        ("mean 5e-05 s", {"pattern": r"mean ([\d.]+)"}, "printed 5e-05, of which .* only a part"),
        ("mean -5", {"pattern": r"mean -?(\d)"}, "printed -5, of which .* only a part"),
        ("wrote /tmp/a/1.onnx", {}, "no number in its last line"),
        ("mean five", {"pattern": "mean (.*)"}, "'five', which is no number"),
        ("mean 5 mean 6", {"pattern": r"mean (\d)"}, "2 numbers in what matches"),
        ("mean mean", {"pattern": r"mean(\d)?"}, r"2 numbers in what matches .*\(None, None\)"),
        ("mean", {"pattern": r"mean(\d)?"}, "'', which is no number"),
        ("mean 5", {"json_path": "mean"}, "no JSON: 'mean 5'"),
        ('{"a": {"b": 1}}', {"json_path": "a.c"}, "without 'a.c': there is no 'c', but b"),
        ('{"a": [1]}', {"json_path": "a.1"}, "there is no '1'"),
        ('{"a": true}', {"json_path": "a"}, "'a' is True, which is no number"),
        ('{"a": 1e999}', {"json_path": "a"}, "inf, which cannot be"),
    ],
)
def test_what_is_no_number_is_a_sentence(text: str, readout: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Readout(**readout).read(text)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_a_number_above_0_or_a_sentence(text: str) -> None:
    for readout in (Readout(), Readout(pattern="(.+)"), Readout(json_path="a.0")):
        try:
            value = readout.read(text)
        except UserError:
            continue
        assert 0 < value < float("inf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"readout": {"pattern": "("}}, "no regular expression"),
        ({"readout": {"pattern": "mean .*"}}, "has 0 groups; put the number"),
        ({"readout": {"pattern": "(a)", "json_path": "a"}}, "give one of them"),
        ({"command": "perf model.onnx"}, "write {onnx} where"),
        ({"command": "perf '{onnx}"}, "correct its quotes"),
    ],
)
def test_impossible_settings_are_a_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Remote(**{"command": "perf {onnx}", **fields})


def test_a_command_is_words_without_a_shell() -> None:
    remote = Remote(command="perf '{onnx}' -t{threads} $HOME; {other} 'a b'")
    assert remote.words(onnx="/tmp/a b.onnx", threads="2") == [
        *("perf", "/tmp/a b.onnx", "-t2", "$HOME;", "{other}", "a b"),
    ]


# A command.


def test_a_command_is_given_the_network_and_the_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, folders = tmp_path / "kept.onnx", tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    settings = conditions(f"sh -c 'cp {{onnx}} {kept}; echo {{threads}}.{{batch}}'")
    settings = settings.model_copy(update={"threads": 3, "batch_size": 2})
    assert measure_in_turn(ONE, settings)["one"].mean == 3.2
    assert list(folders.iterdir()) == []  # What it wrote for the command is gone.
    session = onnxruntime.InferenceSession(kept, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hot >&2; exit 3", "failed with exit status 3: hot, on one, after 1 retries"),
        ("exit 3", "failed with exit status 3: it said nothing"),
        ("kill -9 $$", "failed with exit status -9"),
        (":", "printed nothing, on one"),
        ("echo 1 2", "printed 2 numbers"),
        ("echo -1", "printed -1, which cannot be"),
        ("echo nan", "printed nan, which cannot be"),
        ("printf '\\377\\376'", "printed no number"),
        ("sleep 60 & sleep 60", "did not end within 0.2 s"),
    ],
)
def test_a_command_that_fails_is_tried_again_and_told(
    tmp_path: Path, script: str, message: str
) -> None:
    calls = tmp_path / "calls"
    settings = conditions(f'sh -c "echo >>{calls}; {script}" {{onnx}}', timeout_s=0.2)
    journal = open_journal(tmp_path / "journal.jsonl", settings)
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as error:
        measure_in_turn(ONE, settings, journal)
    assert time.monotonic() - started < 10
    sentence = str(error.value)
    assert settings.remote is not None
    assert f"the command '{settings.remote.command}'" in sentence
    assert sentence.endswith("give the same command again to go on")
    assert "\n" not in sentence
    assert len(calls.read_text().splitlines()) == 2


def test_nothing_that_hangs_is_left_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    settings = conditions(f"sh -c 'sleep 60 & echo $! >{pid}; wait' {{onnx}}", timeout_s=0.3)
    with pytest.raises(UserError, match="did not end"):
        measure_in_turn(ONE, settings)
    for _ in range(100):
        if not _runs(int(pid.read_text())):
            return
        time.sleep(0.05)
    pytest.fail("the command's child runs on")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    started = time.monotonic()
    assert measure_in_turn(ONE, conditions("sh -c 'sleep 5 & echo 2' {onnx}"))["one"].mean == 2
    assert time.monotonic() - started < 4


def test_a_program_that_is_not_there_is_told_before_anything(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no program 'abacus'; install it"):
        measure_in_turn(ONE, conditions("abacus {onnx}"))


# A plug-in, which is quick, for what holds of every remote device.


class Toy:
    """Latencies that add up, and a log of what was run; it stops or fails when told to."""

    log: list[int]
    stop_after: int | None
    drift: float

    def __init__(self, conditions: Conditions) -> None:
        self.threads = conditions.threads

    def build(self, module: nn.Module, example: Tensor) -> Run:
        macs = count_macs(module, example.shape[-1], example.shape[1])

        def run() -> float:
            if len(self.log) == self.stop_after:
                raise KeyboardInterrupt
            self.log.append(macs)
            return (0.5 + 1e-5 * macs) * (1 + self.drift) ** len(self.log)

        return run


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    class Fresh(Toy):
        log: list[int] = []  # noqa: RUF012
        stop_after = None
        drift = 0.0

    monkeypatch.setitem(BACKENDS, "toy", Fresh)
    return Fresh


TOY = conditions(None, "toy", repetitions=2)


def test_layers_and_whole_networks_are_measured_through_it(toy: type[Toy]) -> None:
    table = measure_table(SPACE, TOY)
    network = SPACE.architecture([0, 1, 2, 0])
    macs = count_macs(Network(network), 8)
    assert table.predict(network) == pytest.approx(0.5 + 1e-5 * macs, rel=1e-9)
    assert table.conditions is not None
    assert (table.conditions.processor, table.unit) == ("toy", "ms")
    assert not table.conditions.are_of_this_machine


@pytest.mark.parametrize("stop_after", [0, 1, 2, 5, 7, 8, 9])
def test_what_was_stopped_goes_on_and_measures_nothing_twice(
    toy: type[Toy], tmp_path: Path, stop_after: int
) -> None:
    modules: dict[Any, tuple[nn.Module, Tensor]] = {
        width: (nn.Conv2d(1, width, 1), torch.zeros(1, 1, 4, 4)) for width in range(1, 6)
    }
    whole = measure_in_turn(modules, TOY)
    toy.log.clear()
    path = tmp_path / "journal.jsonl"
    toy.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        measure_in_turn(modules, TOY, open_journal(path, TOY))
    toy.stop_after = None
    with path.open("ab") as file:
        file.write(b'{"under": "half a li')  # What a kill leaves.
    assert measure_in_turn(modules, TOY, open_journal(path, TOY)) == whole
    assert set(Counter(toy.log).values()) == {2}
    assert measure_in_turn(modules, TOY, open_journal(path, TOY)) == whole
    assert len(toy.log) == 2 * len(modules)


def test_other_settings_measure_anew_and_patience_does_not(toy: type[Toy], tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert TOY.remote is not None
    patient = TOY.remote.model_copy(update={"retries": 9, "pause_s": 0.001, "timeout_s": 1.0})
    other = TOY.remote.model_copy(update={"readout": Readout(unit="mJ")})
    expected = 0
    for changed, new in (
        ({}, 2),
        ({"remote": patient}, 0),
        ({"repetitions": 3}, 1),
        ({"threads": 2}, 2),
        ({"processor": "another"}, 2),
        ({"remote": other}, 2),
        ({}, 0),
    ):
        settings = TOY.model_copy(update=changed)
        measure_in_turn(ONE, settings, open_journal(path, settings))
        expected += new
        assert len(toy.log) == expected, changed


def test_what_spreads_is_run_more_often_and_then_refused(toy: type[Toy], tmp_path: Path) -> None:
    toy.drift = 0.5
    settings = conditions(None, "toy", repetitions=3, retries=2)
    journal = open_journal(tmp_path / "journal.jsonl", settings)
    with pytest.raises(UserError, match=r"the plug-in gives one .*, a spread of 125%"):
        measure_in_turn(ONE, settings, journal)
    assert len(toy.log) == 5
    assert journal.count == 5
    allowed = conditions(None, "toy", repetitions=3, max_spread=1.3)
    assert measure_in_turn(ONE, allowed, open_journal(journal.path, allowed))["one"].count == 3
    assert len(toy.log) == 5


def test_a_plug_in_that_fails_is_told(toy: type[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Run:
        return lambda: 1 / 0

    monkeypatch.setattr(toy, "build", broken)
    with pytest.raises(UserError, match=r"the plug-in failed \(ZeroDivisionError: .*on one"):
        measure_in_turn(ONE, TOY)
    monkeypatch.setattr(toy, "build", lambda *_: lambda: float("nan"))
    with pytest.raises(UserError, match="the plug-in returned nan, which cannot be"):
        measure_in_turn(ONE, TOY)


def test_backends_have_names_of_their_own(toy: type[Toy]) -> None:
    with pytest.raises(UserError, match="backend 'toy' is registered twice"):
        register_backend("toy")(Toy)
    with pytest.raises(UserError, match=r"no backend 'abacus'; use one of eager, .* --plugin"):
        measure_in_turn(ONE, conditions(None, "abacus"))


def test_networks_are_told_apart_by_what_they_are() -> None:
    network = SPACE.architecture([0, 1, 0, 0], "mine")
    assert name_of(network) == name_of(SPACE.architecture([0, 1, 0, 0], "yours"))
    others = (SPACE.architecture([0, 2, 0, 0]), SPACE.with_classes(3).architecture([0, 1, 0, 0]))
    assert len({name_of(each) for each in (network, *others)}) == 3


# The journal.


def test_a_journal_says_what_it_is_about(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", {"threads": 1})
    journal.add("a", 1.5)
    journal.add("a", 2.5)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert lines[0]["settings"] == {"threads": 1}
    assert [line["value"] for line in lines[1:]] == [1.5, 2.5]
    assert Journal(journal.path, {"threads": 1}).values("a") == (1.5, 2.5)
    assert Journal(journal.path, {"threads": 2}).values("a") == ()


def test_one_process_writes_a_journal_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, {}).add("a", 1.0)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    journal, late = Journal(path, {}), Journal(path, {})
    with subprocess.Popen([sys.executable, "-c", hold, path], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"another process writes to .*journal\.jsonl; wait"):
            journal.add("a", 2.0)
        other.communicate()
    with journal:
        journal.add("a", 2.0)
    with pytest.raises(UserError, match="another process writes"):
        late.add("a", 3.0)  # It does not know what was added since it read the file.
    assert Journal(path, {}).values("a") == (1.0, 2.0)


@pytest.mark.parametrize(
    "line",
    [
        *("nonsense", "[]", '"text"', "{}", '{"under": "U"}'),
        *(
            f'{{"under": "U", "what": "a", "value": {value}}}'
            for value in (0, "NaN", '"1"', "null")
        ),
    ],
)
def test_a_line_that_is_no_measurement_is_named(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path / "journal.jsonl", {})
    journal.add("a", 1.0)
    under = json.loads(journal.path.read_text().splitlines()[0])["under"]
    with journal.path.open("a") as file:
        file.write(line.replace("U", under) + "\n")
    with pytest.raises(UserError, match=r"line 3 of .* is no measurement; remove it"):
        Journal(journal.path, {})


# The command line.


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["latency", *map(str, arguments)])
    said = result.stdout if result.exit_code == 0 else result.stderr
    assert isinstance(result.exception, SystemExit | None), result.exception
    return said


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "WHOLE_NETWORKS", 2)
    SPACE.save("space.yaml")
    return Path("space.yaml")


COMMAND = ("--command", "sh -c 'echo size: $(wc -c <{onnx})'", "--name", "toy")


def test_a_table_through_a_command(space: Path) -> None:
    options = ("--repetitions", "1", "--unit", "us")
    said = invoke("measure", space, *COMMAND, *options, "--out", "toy.yaml")
    assert "toy.measurements.jsonl keeps what is measured (0 numbers so far)" in said
    table = LatencyTable.load("toy.yaml")
    assert f"toy.yaml: {len(table.entries)} layers on toy" in said
    assert table.conditions is not None
    assert table.conditions.remote is not None
    assert table.conditions.remote.command == COMMAND[1]
    assert table.bounds(SPACE)[0] > 0
    count = len(Path("toy.measurements.jsonl").read_text().splitlines()) - 1
    again = invoke("measure", space, *COMMAND, *options, "--out", "toy.yaml")
    assert f"({count} numbers so far)" in again
    assert len(Path("toy.measurements.jsonl").read_text().splitlines()) - 1 == count
    assert LatencyTable.load("toy.yaml").entries == table.entries


def test_networks_are_compared_on_any_device(space: Path) -> None:
    SPACE.architecture([0, 0, 0, 0], "mine").save("mine.json")
    options = ("--resolution", "8", "--repetitions", "1", "--unit", "us", "--table", "rows.json")
    said = invoke("compare", "mine.json", *COMMAND, *options)
    row = json.loads(Path("rows.json").read_text())["networks"][0]
    assert re.search(
        rf"command on toy, batch 1, .*\nmine.json +{row['latency']['mean']:.3f} ms", said
    )
    assert 1 < row["latency"]["mean"] < 1000  # Kilobytes.
    said = invoke("compare", "mine.json", *COMMAND, "--unit", "mJ")
    assert said == "error: networks are compared by time; mJ is none\n"


def test_networks_near_a_target_are_ranked(space: Path) -> None:
    reference = Reference.of(SPACE, [[0, 0, 0, 0]], 1.0)
    measured = conditions(COMMAND[1]).model_copy(update={"reference": reference})
    LatencyTable(count_table(SPACE, "parameters").entries, measured).save("toy.yaml")
    near = ("--target", "60%", "--tolerance", "0.3", "--networks", "3", "--reach-device")
    said = invoke("check", "toy.yaml", space, *near)
    assert re.search(r"^networks: +3\n", said), said
    # Files of one network are equally large.
    assert re.search(r"^rank correlation: \S+ \(1\.00 between two measurements\)$", said, re.M)
    said = invoke("check", "toy.yaml", space, "--networks", "2", "--reach-device")
    assert re.search(r"^rank correlation: [-\d.]+$", said, re.M), said


def test_another_measure_has_its_unit(space: Path) -> None:
    invoke("measure", space, *COMMAND, "--repetitions", "1", "--unit", "mJ", "--out", "toy.yaml")
    table = LatencyTable.load("toy.yaml")
    assert (table.unit, table.costs(SPACE).unit) == ("mJ", "mJ")
    assert invoke("show", "toy.yaml", space).splitlines()[0].endswith(" mJ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pattern", "(.)"), "--pattern say how to reach .* measures here; give a --command too"),
        (("--name", "toy", "--pause", "1"), "--pause, --name say how"),
        (COMMAND[:2], "say which device this measures on: --name"),
        ((*COMMAND, "--backend", "eager"), "leave out one of them"),
        ((*COMMAND, "--device", "cpu", "--plain"), "--plain, --device are of backends of this"),
        ((*COMMAND, "--pattern", "x"), "has 0 groups"),
        ((*COMMAND, "--threads", "2"), "so 2 would change nothing; write {threads} there"),
        ((*COMMAND, "--repetitions", "0"), "'repetitions' is 0"),
        ((*COMMAND, "--timeout", "0"), "timeout_s' is 0.0: .* greater than 0"),
        (("--command", "abacus {onnx}", "--name", "toy"), "there is no program 'abacus'"),
        (("--backend", "abacus", "--name", "toy"), "there is no backend 'abacus'"),
        (("--backend", "eager", "--device", "cuda"), "no usable CUDA device"),
    ],
)
def test_options_that_contradict_each_other_are_a_sentence(
    space: Path, options: tuple[str, ...], message: str
) -> None:
    said = invoke("measure", space, "--out", "toy.yaml", *options)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not Path("toy.yaml").exists()


def test_a_plug_in_from_a_file(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "filed", Toy)
    del BACKENDS["filed"]
    Path("device.py").write_text(
        "from proxyless_ext.latency import register_backend\n\n\n"
        "@register_backend('filed')\n"
        "class Filed:\n"
        "    def __init__(self, conditions):\n"
        "        pass\n\n"
        "    def build(self, module, example):\n"
        "        return lambda: 0.25\n"
    )
    plugin = ("--plugin", "device.py", "--backend", "filed", "--name", "toy")
    invoke("measure", space, *plugin, "--repetitions", "1", "--out", "toy.yaml")
    table = LatencyTable.load("toy.yaml")
    assert table.predict(SPACE.architecture([0, 0, 0, 0])) == pytest.approx(0.25, rel=0.05)


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_stood(space: Path) -> None:
    calls = Path("calls").absolute()
    script = f"echo >>{calls}; [ $(wc -l <{calls}) -ne 9 ] || kill -9 $PPID; wc -c <{{onnx}}"
    command = [sys.executable, "-m", "proxyless_ext", "latency", "measure", "space.yaml"]
    options = ["--command", f'sh -c "{script}"', "--name", "toy", "--repetitions", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([*command, *options], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = len(Path("latency.measurements.jsonl").read_text().splitlines()) - 1
    assert kept == 8
    subprocess.run([*command, *options], env=environment, check=True)
    total = len(Path("latency.measurements.jsonl").read_text().splitlines()) - 1
    assert len(calls.read_text().splitlines()) == total + 1  # That of the kill.
