"""Networks of several widths and resolutions: for every size a run of its own, in one folder."""

from __future__ import annotations

import re
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sittings import Blow, sit
from tiny_runs import SPACE, begin, layers, remains, settings_of, specialise, tiny_config
from typer.testing import CliRunner

from proxyless_ext.cli import app
from proxyless_ext.config import SpaceConfig, load_config
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Entry, LatencyTable
from proxyless_ext.report import describe_status, write_report
from proxyless_ext.report.sizes import Sizes
from proxyless_ext.runs import Run
from proxyless_ext.search import Task, begin_sizes, load_sizes, plan_sizes, run_search
from proxyless_ext.search.pace import Pace
from proxyless_ext.search.plan import Planner
from proxyless_ext.spaces import Architecture, Space

WIDE = SPACE.resized(2.0)
SIZES = ["w0.5-r8", "w1-r8"]


pytestmark = pytest.mark.filterwarnings("ignore:at size", "ignore:(no|only one) network of 'tiny'")


@pytest.fixture(autouse=True)
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take longer than all the rest."""
    monkeypatch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)


def table_of_sizes(factor: float = 1.0) -> LatencyTable:
    """Of all layers of both sizes, on a device that is slow at wide ones."""
    entries = {}
    for space in (WIDE.resized(0.5), WIDE):
        for layer in layers(space):
            size = layer.in_channels * layer.out_channels
            if layer.kind == "block":
                look = layer.spec.look
                size *= (look.kernel_size or 0) * (look.expand_ratio or 0)
            entries[layer.key] = Entry(count=1, mean=factor * size / 256, var=0.0)
    return LatencyTable(entries)


CPU, PHONE = table_of_sizes(), table_of_sizes(0.8)
"""3 ms is out of reach of wide networks on the first."""


def write_files(folder: Path, **change: Any) -> None:
    """The space, two devices and their tables."""
    WIDE.model_copy(update=change).save(folder / "space.yaml")
    for name, table in (("cpu", CPU), ("phone", PHONE)):
        table.save(folder / f"{name}_table.yaml")
        (folder / f"{name}.yaml").write_text(f"table: {name}_table.yaml\n")


def options(*arguments: str) -> list[str]:
    """Of a small search in the space of the current folder."""
    devices = ("--device", "cpu.yaml", "--device", "phone.yaml")
    sections = ("runtime", "data", "warmup", "search", "gates", "train", "derive", "comparison")
    set_all = [*settings_of(*sections), "--set", "latency.tolerance=0.2"]
    return ["--space", "space.yaml", *devices, *set_all, *arguments]


def proxyless(*arguments: str) -> str:
    """What a command says that succeeds."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def go_on(run: Run) -> None:
    """Go on with a run as `proxyless specialise --resume` does, without a report."""
    for part, size in begin_sizes(run, load_sizes(load_config(run.config_path, {}), run)):
        run_search(part, size.config, size.task)


BOTH = ("--width-mult", "0.5", "--width-mult", "1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A finished run of two sizes, and what was said."""
    folder = tmp_path_factory.mktemp("two")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        patch.setattr("proxyless_ext.training.networks.export_onnx", lambda *_: 0.0)
        patch.chdir(folder)
        targets = ("--target", "40%", "--target", "3ms", "--out", "run")
        said = proxyless("specialise", *options(*BOTH, *targets))
    return Run(folder / "run"), said + "".join(f"{each.message}\n" for each in warned)


def test_every_size_has_its_networks(two: tuple[Run, str]) -> None:
    run, said = two
    assert list(run.sizes) == SIZES
    assert run.has_ended
    narrow, wide = run.sizes.values()
    assert list(narrow.networks) == ["cpu-40%", "cpu-3ms", "phone-40%", "phone-3ms"]
    assert list(wide.networks) == ["cpu-40%", "phone-40%", "phone-3ms"]
    for part, width, table in ((narrow, 0.5, CPU), (wide, 1.0, CPU)):
        space = WIDE.resized(width).with_classes(10)
        assert Space.load(part.space_path) == space
        cheapest, dearest = table.bounds(space)
        result = part.outcome_of("cpu-40%").result
        assert result.target == pytest.approx(cheapest + 0.4 * (dearest - cheapest))
        for name in part.networks:
            architecture = Architecture.load(part.outcome_of(name).architecture_path)
            assert architecture.blocks[-1].out_channels == space.stages[-1].channels
            assert part.outcome_of(name).result.accuracy is not None
    (left_out,) = re.findall("at size .*", said)
    assert left_out == (
        "at size w1-r8, device 'cpu': the target of 3 ms is out of reach: networks of 'tiny' take "
        "3.219 to 21.72 ms here; cpu-3ms is left out there"
    )


def test_a_size_is_what_it_would_be_alone(two: tuple[Run, str], tmp_path: Path) -> None:
    run, _ = two
    wide = run.sizes["w1-r8"]
    config = load_config(wide.config_path, {})
    alone = begin(tmp_path / "run", config)
    specialise(alone)
    assert remains(alone) == remains(wide)


def test_going_on_with_a_finished_run_changes_nothing(two: tuple[Run, str]) -> None:
    run, _ = two
    before = [remains(part) for part in run.sizes.values()]
    go_on(run)
    assert [remains(part) for part in run.sizes.values()] == before


def test_the_page_says_which_size_is_best(two: tuple[Run, str]) -> None:
    run, said = two
    text = run.report_path.read_text()
    assert f"report:   {run.report_path.name}" in said.replace("run/", "")
    for size, part in run.sizes.items():
        assert f'<a href="sizes/{size}/report.html">{size}</a>' in text
        assert part.report_path.exists()
        for name in part.networks:
            page = f"networks/{name.replace('%', '%25')}/report.html"
            assert f'<a href="sizes/{size}/{page}">' in text
            assert (part.folder / "networks" / name / "report.html").exists()
    assert text.count("out of reach</td>") == 1
    told = re.findall("<dd>(Most accurate .*)</dd>", text)
    for device, sentence in zip(("cpu", "phone"), told, strict=True):
        points = [
            (size, result.predicted, result.accuracy)
            for size, part in run.sizes.items()
            for name, owner in part.networks.items()
            if owner == device and (result := part.outcome_of(name).result)
        ]
        unbeaten = {
            f"{size} ({cost:.2f} ms, {accuracy:.1%})".replace("%", " %")
            for size, cost, accuracy in points
            if not any(
                c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for _, c, a in points
            )
        }
        assert set(re.findall(r"w\S+ \([^)]+\)", sentence)) == unbeaten
    assert "At 3ms w0.5-r8 does best" in told[0]
    assert "it is out of reach at w1-r8." in told[0]
    assert "out of reach" not in told[1]


@pytest.mark.slow
def test_status_and_verify_are_of_all_sizes(
    two: tuple[Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = two
    monkeypatch.setattr("proxyless_ext.cli.search.write_report", lambda _: "page")
    told = list(describe_status(run))
    results = [line for line in told if "accuracy" in line]
    assert len(results) == sum(len(part.networks) for part in run.sizes.values())
    assert [line for line in told if line not in results] == [
        f"{run.folder}: finished, with {run.report_path}",
        "w0.5-r8: finished",
        "w1-r8: finished",
    ]
    said = proxyless("verify", str(run.folder), "--networks", "2")
    for size, part in run.sizes.items():
        for name in part.networks:
            assert f"{size} {name}: The network found reaches" in said
            assert len(part.outcome_of(name).comparison.random) == 2


def test_one_size_has_no_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, width_mults=(0.5, 1.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("proxyless_ext.search.run.choose", stop)
    given = options("--width-mult", "0.5", "--target", "40%", "--out", "run")
    result = CliRunner().invoke(app, ["specialise", *given])
    assert result.stderr == "error: stopped\n"
    run = Run("run")
    assert run.sizes == {}
    assert run.checkpoint("search").exists()
    assert Space.load(run.space_path).stages == WIDE.resized(0.5).stages


def stop(*_: Any) -> None:
    """Ends a search after its supernet."""
    raise UserError("stopped")


def begun_run(folder: Path, **settings: Any) -> Run:
    """A run of two sizes and two devices that has begun."""
    folder.mkdir()
    write_files(folder)
    devices = {name: {"table": str(folder / f"{name}_table.yaml")} for name in ("cpu", "phone")}
    given = {
        "space.name": str(folder / "space.yaml"),
        "space.width_mults": [0.5, 1.0],
        "space.resolutions": [8],
        "devices": devices,
        "targets": ["40%", "3ms"],
        "latency.tolerance": 0.2,
    }
    return begin(folder / "run", tiny_config(folder, {**given, **settings}, WIDE))


@pytest.mark.slow
def test_killed_at_every_size(tmp_path: Path) -> None:
    whole = begun_run(tmp_path / "whole", checkpoint_seconds=1e9)
    run = begun_run(tmp_path / "killed")
    proxyless("specialise", "--resume", str(whole.folder))
    for phase in 2 * ("warmup", "search"):
        code, errors = sit(run, Blow(phase, 1, 0.01))
        assert code == -signal.SIGKILL, errors
    code, errors = sit(run)
    assert code == 0, errors
    ends = ([remains(part) for part in each.sizes.values()] for each in (run, whole))
    assert next(ends) == next(ends)


def test_where_a_run_that_was_stopped_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun_run(tmp_path / "stopped", checkpoint_seconds=1e9, targets=["40%"])
    monkeypatch.setattr("proxyless_ext.search.run.choose", stop)
    with pytest.raises(UserError, match="stopped"):
        go_on(run)
    narrow, wide = run.sizes.values()
    lines = list(describe_status(run))
    assert lines[0] == f"{run.folder}: stopped; go on with --resume {run.folder}"
    assert lines[1:3] == ["w0.5-r8:", "warmup, 2 epochs:"]
    assert lines[-1] == "w1-r8: waits"
    assert f"go on with --resume {run.folder}" in next(describe_status(narrow))
    text = write_report(run.folder).read_text()
    assert text.count("No network for it has been trained yet.") == 2
    for command in ("specialise", "search"):
        result = CliRunner().invoke(app, [command, "--resume", str(wide.folder)])
        assert f"is of one size of several; use specialise --resume {run.folder}" in result.stderr
    result = CliRunner().invoke(app, ["verify", str(run.folder)])
    assert "has not ended; go on with it by --resume" in result.stderr

    settings = yaml.safe_load(run.config_path.read_text())
    run.config_path.write_text(yaml.safe_dump({**settings, "targets": ["50%"]}))
    result = CliRunner().invoke(app, ["specialise", "--resume", str(run.folder)])
    assert re.search(
        rf"size w0\.5-r8: targets was \['40%'\] .* restore it in {run.config_path}, or",
        result.stderr,
    )


def test_a_size_that_reaches_no_target_says_so(tmp_path: Path) -> None:
    run = begun_run(tmp_path / "begun", targets=["3ms"])
    settings = yaml.safe_load(run.config_path.read_text())
    del settings["devices"]["phone"]
    run.config_path.write_text(yaml.safe_dump(settings))
    begin_sizes(run, load_sizes(load_config(run.config_path, {}), run))
    page = Sizes(run)
    assert [page.state(size) for size in SIZES] == ["begun", "no target within reach"]
    assert list(describe_status(run))[1:] == ["w0.5-r8: waits", "w1-r8: no target within reach"]


def test_devices_are_measured_at_every_size_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun_run(tmp_path / "measured", **{"derive.networks": 0})
    settings = yaml.safe_load(run.config_path.read_text())
    for name in ("cpu", "phone"):
        settings["devices"][name]["table"] = None
    settings["targets"] = ["1ms"]
    run.config_path.write_text(yaml.safe_dump(settings))
    seen = []

    def measure(space: Space, _: Any) -> LatencyTable:
        seen.append(space.stages[-1].channels)
        assert not any(part.checkpoint("warmup").exists() for part in run.sizes.values())
        return CPU

    monkeypatch.setattr("proxyless_ext.search.task.measure_table", measure)
    result = CliRunner().invoke(app, ["specialise", "--resume", str(run.folder)])
    assert seen == [8, 8, 16, 16]
    assert re.search(
        "error: no size has a network for cpu-1ms: at size w0.5-r8, .* 1.969 to 11.22 ms here; at "
        f"size w1-r8, .*; correct {run.config_path} and go on with --resume",
        result.stderr,
    )


def test_a_device_that_vanishes_names_the_size_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun_run(tmp_path / "vanished")
    loaded = load_sizes(load_config(run.config_path, {}), run)
    sizes = [replace(size, task=replace(size.task, tables={})) for size in loaded]

    def vanish(space: Space, _: Any) -> LatencyTable:
        raise UserError("the device vanished")

    monkeypatch.setattr("proxyless_ext.search.task.measure_table", vanish)
    with pytest.raises(UserError, match=r"size w0.5-r8: the device vanished; correct .* --resume"):
        begin_sizes(run, sizes)


def test_a_table_for_every_size(tmp_path: Path) -> None:
    write_files(tmp_path)
    for size in SIZES:
        CPU.save(tmp_path / f"cpu-{size}.yaml")
    config = tiny_config(
        tmp_path,
        {
            "space.name": str(tmp_path / "space.yaml"),
            "space.width_mults": [0.5, 1.0],
            "devices": {"cpu": {"table": str(tmp_path / "cpu-{size}.yaml")}},
        },
        WIDE,
    )
    sizes = load_sizes(config, None)
    assert [size.config.devices["cpu"].table for size in sizes] == [
        tmp_path / f"cpu-{size}.yaml" for size in SIZES
    ]
    first, second = sizes
    assert first.task.data is second.task.data  # Of one resolution.


def test_sizes_share_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    settings = {
        "space.name": str(tmp_path / "space.yaml"),
        "space.width_mults": [0.5, 1.0],
        "devices": {"cpu": {"table": str(tmp_path / "cpu_table.yaml")}},
        "targets": ["40%", "60%"],
    }
    sizes = load_sizes(load_config(None, settings), None)
    paces = {8: Pace(1e-3, 2e-3, 3e-4, 1e-3), 16: Pace(3e-3, 7e-3, 5e-4, 4e-3)}

    def pace_of(task: Task) -> Pace:
        return paces[task.space.stages[-1].channels]

    monkeypatch.setattr(
        "proxyless_ext.search.plan.measure_pace", lambda _config, task: pace_of(task)
    )
    plan, planned = plan_sizes(sizes, 3000)
    assert [size.name for size in planned] == SIZES
    assert 0.9 * 3000 < plan.total <= 3000
    found = plan.apply(sizes[0].config)
    numbers = (
        found.warmup.epochs + found.search.epochs,
        found.derive.networks,
        found.derive.finalists,
        found.train.epochs,
    )
    alone = [Planner(size.config, size.task, pace_of(size.task)).plan(*numbers) for size in planned]
    assert [each.settings for each in alone] == 2 * [plan.settings]
    assert sum(each.total for each in alone) == pytest.approx(plan.total)


# Which sizes there are.


@pytest.mark.parametrize("name", ["imagenet", "cifar_mbconv", "mobilenet_v3"])
@pytest.mark.parametrize(("width_mult", "resolution"), [(0.25, 33), (1.0, 1), (1.4, 224)])
def test_a_file_has_the_sizes_of_the_space_in_it(
    tmp_path: Path, name: str, width_mult: float, resolution: int
) -> None:
    path = tmp_path / "space.yaml"
    SpaceConfig(name=name).build().save(path)
    size = {"width_mult": width_mult, "resolution": resolution}
    own = SpaceConfig(name=str(path), **size).build()
    assert own == SpaceConfig(name=name, **size).build()
    assert own.resolution == resolution


def test_sizes_are_all_widths_at_all_resolutions(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    fields = {"width_mults": (0.5, 1.0), "resolutions": (8, 16)}
    WIDE.model_copy(update=fields).save(path)

    def sizes(**settings: Any) -> list[str]:
        return list(SpaceConfig(name=str(path), **settings).sizes())

    assert sizes() == ["w0.5-r8", "w0.5-r16", "w1-r8", "w1-r16"]
    assert sizes(width_mult=1.0) == ["w1-r8", "w1-r16"]
    assert sizes(width_mult=1.0, resolution=12) == ["w1-r12"]
    assert sizes(width_mults=(0.25, 2)) == ["w0.25-r8", "w0.25-r16", "w2-r8", "w2-r16"]
    assert sizes(width_mult=3.0, width_mults=(1,), resolutions=(9,)) == ["w1-r9"]
    assert list(SpaceConfig(name="imagenet", width_mults=(1, 0.75)).sizes()) == [
        "w1-r224",
        "w0.75-r224",
    ]
    WIDE.save(path)
    assert sizes() == ["w1-r8"]
    built = SpaceConfig(name=str(path), width_mults=(0.5,)).build()
    assert built.stages == WIDE.resized(0.5).stages
    said = SpaceConfig(name=str(path), width_mults=(0.5, 1)).spelled_out()
    path.unlink()
    assert list(said.sizes()) == SIZES  # A run goes on without the file.


def test_narrower_spaces_are_narrower() -> None:
    with pytest.raises(UserError, match=r"'tiny' has no width 0\.5: .* make 8 of 4; give it mult"):
        SPACE.resized(0.5)
    for width_mult in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"width_mult is {width_mult}"):
            WIDE.resized(width_mult)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--width-mult", "1", "--width-mult", "1.0"), "the size w1-r8 is asked for twice"),
        (("--width-mult", "0"), "'space.width_mults.0' is 0.0: .* greater than 0"),
        (("--resolution", "0"), "'space.resolutions.0' is 0: .* greater than or equal to 1"),
        (
            ("--width-mult", "1", "--width-mult", "4"),
            "size w4-r8: device 'cpu': .*cpu_table.yaml is for networks that begin with .*x8, "
            "and those of .*x32; give",
        ),
        (
            (*BOTH, "--width-mult", "0.25"),
            "size w0.25-r8 is the same space as w0.5-r8, since channels are multiples of 8; leave",
        ),
        (
            (*BOTH, "--resolution", "8", "--resolution", "16"),
            "size w0.5-r16: device 'cpu': .*cpu_table.yaml is for networks that begin with .*8x8x3",
        ),
        (
            (*BOTH, "--target", "1ms"),
            "no size has a network for cpu-1ms: at size w0.5-r8, device 'cpu': the target of 1 ms "
            "is out of reach: .*; at size w1-r8, device 'cpu': the target",
        ),
        (
            (*BOTH, "--set", "gates.every=8", "--target", "30%", "--target", "70%"),
            "size w0.5-r8: the search would not learn: .* for 4 networks",
        ),
        ((*BOTH, "--set", "left_out=[gpu-40%]"), "left_out names 'gpu-40%', which is none of cpu"),
        (("--set", "left_out=[cpu-40%, phone-40%]"), "left_out names all networks; remove one"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["specialise", *options(*arguments, "--out", "run")])
    assert result.exit_code == 1, result.output
    (said,) = result.stderr.splitlines()
    assert re.search(f"error: .*{sentence}", said)
    assert not Path("run").exists()


def test_a_search_is_at_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, width_mults=(0.5, 1.0))
    monkeypatch.chdir(tmp_path)
    given = ["search", "--space", "space.yaml", *settings_of("data")]
    result = CliRunner().invoke(app, given)
    assert (
        "space 'space.yaml' has 2 sizes here, w0.5-r8, w1-r8; use proxyless specialise, which "
        "searches all of them, or set one width and resolution" in result.stderr
    )
