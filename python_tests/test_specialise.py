"""Networks for several devices and targets, with one supernet."""

from __future__ import annotations

import json
import math
import random
import re
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sittings import Blow, sit
from test_derivation import FIRST, Bench
from tiny_runs import (
    SPACE,
    begin,
    exactly,
    layers,
    network_remains,
    remains,
    search,
    settings_of,
    specialise,
    table_of,
    tiny_config,
    write_inputs,
)
from torch import Tensor, nn
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.config import Config, LatencyConfig, load_config, read_devices
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Conditions, Entry, LatencyTable, backends
from proxyless_ext.nn import count_parameters
from proxyless_ext.report import describe_status, write_report
from proxyless_ext.report.preferences import describe_preferences
from proxyless_ext.report.specialised import Specialised
from proxyless_ext.runs import (
    Competitor,
    FinalistsEpoch,
    Run,
    SearchEpoch,
    ShortListEpoch,
    load_checkpoint,
    read_metrics,
    save_checkpoint,
)
from proxyless_ext.search import Task, check_plannable
from proxyless_ext.search.finalists import Finalists
from proxyless_ext.search.short_list import ShortList
from proxyless_ext.search.stages import Stages
from proxyless_ext.spaces import Architecture, Layer, validate
from proxyless_ext.training.train import Train

NAMES = ["cpu-40%", "cpu-60%", "phone-40%", "phone-60%"]


@pytest.fixture(autouse=True)
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take longer than all the rest."""
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)


def phone_table() -> LatencyTable:
    """Of a device on which other layers are fast than on that of `table_of`."""
    entries = {
        layer.key: Entry(count=1, mean=0.5 + (7919 * index % 13) / 8, var=0.0)
        for index, layer in enumerate(layers(SPACE))
    }
    return LatencyTable(entries)


def new_run(
    folder: Path, devices: dict[str, LatencyTable], targets: list[str], **settings: Any
) -> Run:
    """A run for these devices and targets that has begun."""
    for name, table in devices.items():
        table.save(folder / f"{name}.yaml")
    given = {name: {"table": str(folder / f"{name}.yaml")} for name in devices}
    values = {key.replace("__", "."): value for key, value in settings.items()}
    seldom = {"checkpoint_seconds": 1e9}
    config = tiny_config(folder, {"devices": given, "targets": targets, **seldom, **values})
    return begin(folder / "run", config)


def two_devices(folder: Path, **settings: Any) -> Run:
    """A run for four networks."""
    devices = {"cpu": table_of(SPACE), "phone": phone_table()}
    return new_run(folder, devices, ["40%", "60 %"], **settings)


class Work:
    """Counts what networks are scored and trained."""

    def __init__(self) -> None:
        self.scored: Counter[tuple[int, ...]] = Counter()
        self.steps: Counter[str] = Counter()

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        score, train = ShortList.step, Train.step

        def scoring(phase: ShortList, *arguments: Any) -> None:
            self.scored.update(phase.generation)
            score(phase, *arguments)

        def training(phase: Train, *arguments: Any) -> None:
            self.steps[phase.name] += 1
            train(phase, *arguments)

        patch.setattr(ShortList, "step", scoring)
        patch.setattr(Train, "step", training)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Work]]:
    """A finished run, and what it took."""
    work = Work()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Four edges do not fill every band.
        patch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
        work.watch(patch)
        run = two_devices(tmp_path_factory.mktemp("four"), comparison__random_networks=1)
        specialise(run)
        yield run, work


def test_every_network_is_on_its_target_on_its_device(four: tuple[Run, Work]) -> None:
    run, _ = four
    tables = {"cpu": table_of(SPACE), "phone": phone_table()}
    assert run.networks == {name: name.partition("-")[0] for name in NAMES}
    for name, device in run.networks.items():
        outcome = run.outcome_of(name)
        architecture, result = Architecture.load(outcome.architecture_path), outcome.result
        assert architecture.name == name
        cheapest, dearest = tables[device].bounds(SPACE)
        part = 0.4 if "40%" in name else 0.6
        target = cheapest + part * (dearest - cheapest)
        assert result.target == pytest.approx(target)
        assert result.predicted == pytest.approx(target, rel=0.06)
        assert result.devices.keys() == tables.keys()
        for other, told in result.devices.items():
            assert told.predicted == pytest.approx(tables[other].predict(architecture))
            assert told.measured is None
        assert outcome.derivation.finalists[0].choices == result.choices


def test_goals_have_alphas_of_their_own_and_take_turns(four: tuple[Run, Work]) -> None:
    run, _ = four
    last = {
        record.phase: record
        for record in read_metrics(run.metrics_path)
        if isinstance(record, SearchEpoch)
    }
    assert list(last) == [f"search@{name}" for name in NAMES]
    for name, record in zip(NAMES, last.values(), strict=True):
        assert record.target == run.outcome_of(name).result.target
        assert record.expected == pytest.approx(record.target, rel=1e-5)
        assert record.trade_off != 0
    assert len({record.probabilities for record in last.values()}) == 4
    learners = load_checkpoint(run.checkpoint("search"))["phase"]["learners"]
    steps = [each["optimizer"][0]["step"].item() for each in learners]
    assert max(steps) - min(steps) <= 1


def test_what_is_the_same_is_done_once(four: tuple[Run, Work]) -> None:
    run, work = four
    records = read_metrics(run.metrics_path)
    batches = math.ceil(32 / 16)
    listed = [
        network.choices
        for record in records
        if isinstance(record, ShortListEpoch)
        for network in record.networks
    ]
    assert len(listed) > len(set(listed))  # Some are in more than one list.
    assert work.scored == dict.fromkeys(listed, batches)

    finalists: dict[int, list[tuple[int, ...]]] = {}
    for record in records:
        if isinstance(record, FinalistsEpoch):
            finalists.setdefault(record.epoch, []).extend(f.choices for f in record.finalists)
    alive = sum(len(set(networks)) for networks in finalists.values())
    (round_steps,) = {r.step // (r.epoch + 1) for r in records if isinstance(r, FinalistsEpoch)}
    assert work.steps["finalists"] == round_steps * alive
    winners = {run.outcome_of(name).result.choices for name in NAMES}
    trained = [name for name in work.steps if name.startswith("train@")]
    assert len(trained) == len(winners)


def test_finalists_compete_wherever_their_cost_lets_them(four: tuple[Run, Work]) -> None:
    run, _ = four
    config = load_config(run.config_path, {})
    tables = {"cpu": table_of(SPACE), "phone": phone_table()}
    first = {
        record.phase: {finalist.choices for finalist in record.finalists}
        for record in read_metrics(run.metrics_path)
        if isinstance(record, FinalistsEpoch) and record.epoch == 0
    }
    everyone = set().union(*first.values())
    for name, device in run.networks.items():
        target = run.outcome_of(name).result.target
        assert target is not None
        within = {
            choices
            for choices in everyone
            if abs(tables[device].predict(SPACE.architecture(choices, "")) / target - 1)
            <= config.latency.tolerance
        }
        assert within <= first[f"finalists@{name}"]
    assert max(map(len, first.values())) > config.derive.finalists


def test_devices_of_one_table_share_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"a": table_of(SPACE), "b": table_of(SPACE)}
    settings = {"derive__networks": 60, "latency__tolerance": 0.2}
    run = new_run(tmp_path, tables, ["50%"], **settings)
    work = Work()
    work.watch(monkeypatch)
    a, b = specialise(run)
    # The band is smaller than the short list, so that both know all of it.
    assert set(work.scored.values()) == {2}
    assert a.choices == b.choices
    (_, first), (_, second) = ((n, network_remains(run, n)) for n in run.networks)
    assert first["weights"] == second["weights"]
    assert 'href="networks/b-50%25/report.html">b-50%</a> = a-50%<' in _page(run)
    assert "No epoch" not in (run.outcome_of("b-50%").folder / "report.html").read_text()
    assert {path.stem for path in run.checkpoints_path.iterdir()} == {
        *("warmup", "search", "shortlist", "finalists", "train@a-50%"),
    }
    steps = 2 * (len(Task.load(load_config(run.config_path, {}), run).data.train) // 25)
    # Three finalists for a round of a quarter, two for as long again, and one for the rest.
    assert work.steps["finalists"] == steps // 4 * (3 + 2)
    assert work.steps["train@a-50%"] == steps - steps // 4 * 2


def _page(run: Run) -> str:
    return write_report(run.folder).read_text()


def test_one_device_and_target_are_a_search(tmp_path: Path) -> None:
    settings = {"train.dropout": 0.2, "comparison.random_networks": 1, "checkpoint_seconds": 1e9}
    (tmp_path / "search").mkdir()
    config = tiny_config(tmp_path / "search", {**settings, "latency.target": "60%"})
    single = begin(tmp_path / "search" / "run", config)
    search(single)
    values = {key.replace(".", "__"): value for key, value in settings.items()}
    run = new_run(tmp_path, {"cpu": table_of(SPACE)}, ["60%"], **values)
    specialise(run)
    alone, own = network_remains(single), network_remains(run, "cpu-60%")
    assert own["weights"] == alone["weights"]
    own["result"]["devices"] = {}
    assert own["result"] == alone["result"]
    assert own["comparison"] == alone["comparison"]
    phases = [
        [_without_names(record.model_dump()) for record in read_metrics(each.metrics_path)]
        for each in (single, run)
    ]
    assert phases[0] == phases[1]


def _without_names(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "time": None, "phase": record["phase"].partition("@")[0]}


def test_weights_scores_and_trainings_are_those_of_single_searches(
    four: tuple[Run, Work], tmp_path: Path
) -> None:
    """All but the alphas, which have had fewer steps, and so the networks that are looked at."""
    run, _ = four
    single = begin(tmp_path / "run", tiny_config(tmp_path, {"latency.target": "40%"}))
    search(single)
    ours, theirs = (
        load_checkpoint(each.checkpoint("search"))["phase"]["model"] for each in (run, single)
    )
    weights = [name for name in theirs if not name.endswith("alpha")]
    assert exactly({name: ours[name] for name in weights}) == exactly(
        {name: theirs[name] for name in weights}
    )
    told = [
        {
            network.choices: (network.loss, network.accuracy, network.path_loss)
            for record in read_metrics(each.metrics_path)
            if isinstance(record, ShortListEpoch)
            for network in record.networks
        }
        for each in (run, single)
    ]
    common = told[0].keys() & told[1].keys()
    assert common
    assert all(told[0][choices] == told[1][choices] for choices in common)


def test_a_finalist_is_trained_the_same_whoever_competes(tmp_path: Path) -> None:
    """Dropout included."""

    def losses(folder: str, *contests: list[tuple[int, ...]]) -> list[dict[Any, float]]:
        (tmp_path / folder).mkdir()
        bench = Bench(tmp_path / folder, train__dropout=0.3)
        bench.finish(bench.finalists(*contests))
        told: list[dict[Any, float]] = [{} for _ in contests]
        for record in read_metrics(bench.run.metrics_path):
            assert isinstance(record, FinalistsEpoch)
            found = told[int(record.phase.partition("@")[2])]
            found.update({(record.epoch, f.choices): f.loss for f in record.finalists})
        return told

    first, second = FIRST[:3], [FIRST[3], FIRST[1], FIRST[0], (2, 2, 2, 2), FIRST[2]]
    together = losses("together", first, second, FIRST[:1])
    assert together[2] == {}  # It has won already.
    assert together[:2] == [*losses("first", first), *losses("second", second)]


def test_contests_end_when_they_would_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, derive__round=0.25, train__epochs=4)
    phase: Finalists = bench.finalists(FIRST[:2], [*FIRST, (2, 2, 2, 2)])
    assert [phase.networks(epoch) for epoch in range(phase.epochs)] == [5, 3, 2, 2]
    bench.finish(phase)
    epochs = [
        (record.phase, record.epoch, len(record.finalists))
        for record in read_metrics(bench.run.metrics_path)
        if isinstance(record, FinalistsEpoch)
    ]
    assert epochs == [
        *(("finalists@0", 0, 2), ("finalists@1", 0, 5), ("finalists@1", 1, 3)),
        *(("finalists@1", 2, 2), ("finalists@1", 3, 2)),
    ]
    assert [len(contest.left) for contest in phase.contests] == [1, 1]


PHASES = ("warmup", "search", "shortlist", "finalists", "train@cpu-60%")


@pytest.mark.slow
def test_killed_in_every_phase(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    whole = two_devices(tmp_path / "whole")
    run = two_devices(tmp_path / "killed", checkpoint_seconds=1e-9)
    specialise(whole)
    rng = random.Random(0)
    for phase in PHASES:
        for blow in (Blow(phase, rng.choice([1, 2, 3]), rng.uniform(0, 0.03)), Blow(phase)):
            code, errors = sit(run, blow)
            assert code in (-signal.SIGKILL, 0), errors
    specialise(run)
    assert remains(run) == remains(whole)


@pytest.mark.slow
def test_ctrl_c_is_a_sentence(tmp_path: Path) -> None:
    run = two_devices(tmp_path)
    code, errors = sit(run, Blow("finalists", 1, 0.0, signal.SIGINT))
    assert code == 1
    assert errors.strip().splitlines()[-1].startswith("error: stopped in finalists after ")
    assert any("stopped; go on with --resume" in line for line in describe_status(run))


# Bad input.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the inputs of a tiny search, and devices."""
    write_inputs(tmp_path)
    (tmp_path / "cpu.yaml").write_text("table: table.yaml\n")
    phone_table().save(tmp_path / "phone_table.yaml")
    (tmp_path / "phone.yaml").write_text("table: phone_table.yaml\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(*arguments: str) -> str:
    """What `proxyless specialise` says that has to fail, having begun nothing."""
    options = ["--space", "space.yaml", "--out", "run"]
    sections = ("runtime", "data", "warmup", "search", "gates", "train", "derive")
    given = ["specialise", *options, *settings_of(*sections), *arguments]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1, result.output
    assert not Path("run").exists()
    (said,) = result.stderr.splitlines()
    return said.removeprefix("error: ")


BOTH = ("--device", "cpu.yaml", "--device", "phone.yaml")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is no device to specialise for; give --device and its file"),
        (("--target", "40%"), "targets are of devices, and there are none"),
        (("--device", "none.yaml"), "cannot read none.yaml: No such file"),
        (("--device", "cpu.yaml", "--device", "other/cpu.yaml"), "two devices are called 'cpu'"),
        ((*BOTH, "--target", "40%", "--target", "40 %"), "'cpu-40%' is asked for twice"),
        ((*BOTH, "--target", "fast"), "target 'fast' is no amount"),
        (
            (*BOTH, "--target", "40%", "--target", "9ms"),
            "device 'cpu': the target of 9 ms is out of reach: networks of 'tiny' take",
        ),
        (
            (*BOTH, "--set", "search.paths=sampled", "--target", "30%"),
            "search.paths is 'sampled', so that weights depend on the target, and 2 networks",
        ),
        (("--device", "typo.yaml"), "typo.yaml: unknown key 'treads'"),
        (("--device", "own.yaml", "--target", "40%"), "device 'own' has its own target, 50%"),
        (("--device", "plus.yaml"), "device 'plus' has the regularizer 'add#linear'"),
        (
            ("--device", "batch.yaml"),
            "device 'batch': .*measured.yaml was measured with dtype float32, not bfloat16; "
            "batch_size 1, not 32; threads 4, not 2; correct the settings, or measure the table "
            "again",
        ),
        (
            ("--device", "large.yaml"),
            "device 'large': .*large_table.yaml is for networks that begin with "
            "Conv-input:32x32x3-output:32x32x4, and those of 'tiny' begin with "
            "Conv-input:8x8x3-output:8x8x4; give a table of this space and resolution",
        ),
        (
            ("--device", "lacking.yaml"),
            "device 'lacking': .*half.yaml lacks 1 of [0-9]+ layers",
        ),
        (
            (*BOTH, "--set", "gates.every=8", "--target", "30%", "--target", "70%"),
            "it has a gate step every 8 weight steps and only [0-9]+ of these for 4 networks",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, here: Path
) -> None:
    (here / "other").mkdir()
    (here / "other" / "cpu.yaml").write_text("table: ../table.yaml\n")
    (here / "typo.yaml").write_text("table: table.yaml\ntreads: 2\n")
    (here / "own.yaml").write_text("table: table.yaml\ntarget: 50%\n")
    (here / "plus.yaml").write_text("table: table.yaml\nregularizer: add#linear\n")
    (here / "batch.yaml").write_text(
        "table: measured.yaml\nbackend: eager\ndtype: bfloat16\nbatch_size: 32\nthreads: 2\n"
    )
    entries = table_of(SPACE).entries
    conditions = Conditions(threads=4)
    LatencyTable(entries, conditions).save(here / "measured.yaml")
    (here / "large.yaml").write_text("table: large_table.yaml\n")
    table_of(SPACE.model_copy(update={"resolution": 32})).save(here / "large_table.yaml")
    (here / "lacking.yaml").write_text("table: half.yaml\n")
    LatencyTable(dict(list(entries.items())[:-1])).save(here / "half.yaml")
    assert re.search(sentence, fails(*arguments))


def test_devices_have_what_latency_says_about_targets(here: Path) -> None:
    (here / "slow.yaml").write_text("tolerance: 0.2\ntarget: 70%\n")
    text = "latency: {target: 30%, tolerance: 0.1, table: mine.yaml, threads: 3}\n"
    (here / "config.yaml").write_text(text)
    devices = read_devices([here / "cpu.yaml", here / "slow.yaml"])
    config = load_config(here / "config.yaml", {"devices": devices})
    cpu, slow = config.aims
    assert (cpu.name, slow.name) == ("cpu-30%", "slow-70%")
    assert cpu.latency.table == here / "table.yaml"
    assert (cpu.latency.tolerance, cpu.latency.threads) == (0.1, 1)
    assert slow.latency.table is None  # It is measured.
    assert slow.latency.tolerance == 0.2
    assert load_config(None, {"devices": {}}).aims[0].name == ""


def test_devices_can_be_corrected_until_the_search_begins(tmp_path: Path) -> None:
    run = two_devices(tmp_path)
    settings = yaml.safe_load(run.config_path.read_text())
    settings["targets"] = ["50%"]
    settings["devices"]["cpu"]["tolerance"] = 0.2
    run.config_path.write_text(yaml.safe_dump(settings))
    Task.load(load_config(run.config_path, {}), run)
    run.table_path("cpu").parent.mkdir()
    table_of(SPACE).save(run.table_path("cpu"))
    changed = {"devices.cpu.threads": 2}
    with pytest.raises(UserError, match=r"^devices\.cpu\.threads was 1 .* and is 2 now"):
        Task.load(load_config(run.config_path, changed), run)
    save_checkpoint(run.checkpoint("search"), {})
    with pytest.raises(UserError, match=r"^devices\.cpu\.tolerance was 0\.05 .* is 0\.2 now"):
        Task.load(load_config(run.config_path, {}), run)


def test_a_search_is_for_one_device(here: Path) -> None:
    (here / "config.yaml").write_text("devices: {cpu: {table: table.yaml}}\n")
    result = CliRunner().invoke(app, ["search", "--config", "config.yaml", "--budget", "1h"])
    assert "the configuration has devices (cpu); use proxyless specialise" in result.stderr


def test_a_run_belongs_to_its_command(four: tuple[Run, Work], here: Path) -> None:
    run, _ = four
    invoke = CliRunner().invoke
    result = invoke(app, ["search", "--resume", str(run.folder)])
    assert f"is one of specialise; use specialise --resume {run.folder}" in result.stderr
    result = invoke(app, ["derive", str(run.folder)])
    assert "searched 4 networks; give the folder of a search for one" in result.stderr


# The page.


def test_the_page_shows_all_networks(four: tuple[Run, Work]) -> None:
    run, _ = four
    text = _page(run)
    for name in NAMES:
        assert f'<a href="networks/{name.replace("%", "%25")}/report.html">{name}</a>' in text
        own = (run.outcome_of(name).folder / "report.html").read_text()
        assert f"run: {name}</h1>" in own
        assert own.count("No epoch") == 0
        told = run.outcome_of(name).result.devices
        for each in told.values():
            assert f"{each.predicted:.2f} ms" in text
    assert text.count("<svg") == 3 + 2  # One drawing for three widths, and a front per device.
    assert next(describe_status(run)) == f"{run.folder}: finished, with {run.report_path}"


def test_the_cross_table_has_random_and_published_networks_beside(four: tuple[Run, Work]) -> None:
    run, _ = four
    for name in NAMES:
        outcome = run.outcome_of(name)
        before = outcome.comparison
        widths = tuple(
            Competitor(name=f"mobilenet_v2 x {width}", measured=len(name) * width)
            for width in (0.5, 1.0)
        )
        outcome.write_comparison(before.model_copy(update={"yardsticks": widths}))
    try:
        rows = {each.name: each for each in Specialised(run).beside}
    finally:
        for name in NAMES:
            outcome = run.outcome_of(name)
            outcome.write_comparison(outcome.comparison.model_copy(update={"yardsticks": ()}))
    random_rows = [f"1 random network like {name}, mean" for name in NAMES]
    assert list(rows) == [*random_rows, "mobilenet_v2 x 0.5", "mobilenet_v2 x 1.0"]
    tables = {"cpu": table_of(SPACE), "phone": phone_table()}
    for name, row in zip(NAMES, random_rows, strict=True):
        (rival,) = run.outcome_of(name).comparison.random
        assert rival.choices is not None
        assert rows[row].accuracy == rival.accuracy
        for device, table in tables.items():
            predicted = table.predict(SPACE.architecture(rival.choices))
            assert rows[row].on(device).predicted == pytest.approx(predicted)
    assert rows["mobilenet_v2 x 0.5"].on("cpu").measured == len("cpu-60%") * 0.5
    assert rows["mobilenet_v2 x 1.0"].on("phone").measured == len("phone-60%")


def test_yardsticks_that_are_far_slower_are_told_in_words(four: tuple[Run, Work]) -> None:
    run, _ = four
    outcome = run.outcome_of("phone-40%")
    before = outcome.comparison
    near, far = Competitor(name="near", measured=7), Competitor(name="far", measured=99)
    outcome.write_comparison(before.model_copy(update={"yardsticks": (near, far)}))
    text = _page(run)
    outcome.write_comparison(before)
    assert text.count("Slower than all that is shown: far (99.0 ms).") == 1
    assert "Published networks were not trained" in text
    assert text.count("Lines: near (7.00 ms).") == 1
    assert "<td>1 random network like cpu-40%, mean</td>" in text


def blocks(*operations: str) -> list[Layer]:
    """Two blocks at 8x8, and two at 4x4."""
    sizes = (8, 8, 4, 4)
    return [
        Layer("block", operation, 4, 4, size, 1, True)
        for operation, size in zip(operations, sizes, strict=True)
    ]


def test_preferences_in_words() -> None:
    gpu = [blocks("k7e6", "zero", "k5e6", "k5e6"), blocks("k7e3", "zero", "k5e6", "zero")]
    phone = [blocks("k3e3", "k3e3", "k3e6", "k5e6"), blocks("k3e3", "k3e3", "k5e3", "k5e6")]
    assert describe_preferences({"gpu": gpu, "phone": phone}) == [
        "Networks for gpu, beside the others: shallower (2.5 of 4 blocks against 4.0), larger "
        "kernels (5.8 against 3.8 on average, most so at 8\N{MULTIPLICATION SIGN}8), wider "
        "expansions (5.4 against 4.1 on average, most so at 8\N{MULTIPLICATION SIGN}8).",
        "Networks for phone, beside the others: deeper (4.0 of 4 blocks against 2.5), smaller "
        "kernels (3.8 against 5.8 on average, most so at 8\N{MULTIPLICATION SIGN}8), narrower "
        "expansions (4.1 against 5.4 on average, most so at 8\N{MULTIPLICATION SIGN}8).",
    ]
    same, none = describe_preferences({"a": gpu, "b": gpu}), describe_preferences({"a": gpu})
    assert same[0] == "Networks for a have about the depth, kernels and expansions of the others."
    assert none == []
    skipped = [blocks("zero", "zero", "identity", "zero")]
    assert len(describe_preferences({"a": skipped, "b": skipped})) == 2


def test_the_page_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = two_devices(tmp_path)
    text = _page(run)
    assert "No network has been trained yet." in text
    assert "No network has been derived yet." in text
    assert "stopped; go on with" in next(describe_status(run))
    run.outcome_of("cpu-40%").result_path.write_text(json.dumps({}))
    assert "stopped; go on with" in next(describe_status(run))


# A device that a command measures on.


def write_remote(folder: Path) -> None:
    """A device whose latency in ms is a file's length, and which fails in the last but two of 20
    runs.
    """
    script = folder / "measure.sh"
    script.write_text(f"echo >> {folder}/runs\ntest $(wc -l < {folder}/runs) != 18 && wc -c < $1\n")
    settings = {
        "processor": "the length",
        "remote": {"command": f"sh {script} {{onnx}}", "retries": 0},
        "networks": 10,
        "repetitions": 2,
        "tolerance": 0.3,
    }
    (folder / "phone.yaml").write_text(yaml.safe_dump(settings))


def test_a_device_that_a_command_measures_on_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "proxyless_ext.latency.backends.command.to_onnx",
        lambda module, _: bytes(100 + count_parameters(module)),
    )
    write_remote(tmp_path)
    config = tiny_config(
        tmp_path,
        {
            "devices": read_devices([tmp_path / "phone.yaml"]),
            "targets": ["50%"],
            "latency.table": None,
        },
    )
    run = begin(tmp_path / "run", config)
    task = Task.load(config, run)
    with pytest.raises(UserError, match="failed with exit status 1") as error:
        Stages.prepare(run, config, task)
    assert f"go on with --resume {run.folder}" in str(error.value)
    assert len((tmp_path / "runs").read_text()) == 18
    stages = Stages.prepare(run, config, task)
    Stages.prepare(run, config, Task.load(config, run))
    assert len((tmp_path / "runs").read_text()) == 18 + 3
    (device,) = stages.devices
    assert device.table.conditions is not None
    assert device.table.conditions.processor == "the length"
    changed = config.model_dump(mode="json")
    changed["devices"]["phone"]["remote"]["command"] = "sh other.sh {onnx}"
    with pytest.raises(UserError, match=r"devices\.phone\.remote was .*restore it"):
        Task.load(Config.model_validate(changed), run)


def test_a_device_that_a_plugin_measures_on_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    class Weights:
        def __init__(self, conditions: Conditions) -> None:
            self.threads = conditions.threads

        def build(self, module: nn.Module, example: Tensor) -> backends.Run:
            measured.append(weights := count_parameters(module))
            return lambda: 0.1 + 1e-6 * weights

    monkeypatch.setitem(backends.BACKENDS, "weights", Weights)
    settings = {
        "backend": "weights",
        "processor": "weights on paper",
        "remote": {"pause_s": 0.0},
        "networks": 10,
    }
    config = tiny_config(
        tmp_path, {"devices": {"paper": settings}, "targets": ["50%"], "latency.table": None}
    )
    run = begin(tmp_path / "run", config)
    (device,) = Stages.prepare(run, config, Task.load(config, run)).devices
    assert device.table.conditions is not None
    assert device.table.conditions.backend == "weights"
    assert device.table.conditions.processor == "weights on paper"
    count = len(measured)
    assert count >= 10
    Stages.prepare(run, config, Task.load(config, run))
    assert len(measured) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processor": "Pixel"}, "say by which remote.command or plug-in's backend it measures"),
        ({"backend": "toys"}, "'toys' is none of eager, compile, onnxruntime; use one of these"),
        ({"backend": "toy", "processor": "toy", "blocks": "fused"}, "'toy' .* has no blocks"),
        (
            {"backend": "toy", "processor": "toy", "remote": {"command": "a {onnx}"}},
            "backend 'toy' and the command 'a {onnx}' each say what measures",
        ),
        ({"remote": {"command": "a {onnx}"}}, "needs both a remote.command"),
        ({"remote": {}, "processor": "Pixel"}, "needs both a remote.command"),
        ({"remote": {"command": "a"}, "processor": "Pixel"}, "where the network goes"),
        (
            {"remote": {"command": "a {onnx}"}, "processor": "Pixel", "backend": "eager"},
            "'a {onnx}' measures, which has no backend, blocks; leave out these",
        ),
        (
            {"remote": {"command": "a {onnx}"}, "processor": "Pixel", "threads": 2},
            "does not say where the number of threads goes",
        ),
    ],
)
def test_remote_devices_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(LatencyConfig, settings, "phone.yaml")


def test_a_budget_measures_no_remote_device(tmp_path: Path) -> None:
    write_remote(tmp_path)
    devices = read_devices([tmp_path / "phone.yaml"])
    with pytest.raises(UserError, match="what the length measures; make its table by proxyless"):
        check_plannable(load_config(None, {"devices": devices}))
