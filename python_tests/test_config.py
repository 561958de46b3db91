"""Configurations: YAML, single values from the command line, and targets."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless_ext.config import Config, LatencyConfig, SpaceConfig, load_config, parse_override
from proxyless_ext.documents import write_document
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Costs
from proxyless_ext.spaces import Space

REPOSITORY = Path(__file__).parent.parent

positive = st.floats(1e-12, 1e12)
count = st.integers(1, 10**9)
part = st.floats(0, 1, exclude_max=True)

# Values of every kind that a configuration holds.
overrides = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63),
        "runtime.threads": st.none() | count,
        "runtime.precision": st.sampled_from(["float32", "tf32", "bf16", "fp16"]),
        "checkpoint_seconds": positive,
        "data.source": st.text(min_size=1),
        "data.limit": st.none() | count,
        "data.download": st.booleans(),
        "data.bad_pictures": st.sampled_from(["fatal", "skip"]),
        "space.name": st.text(min_size=1),
        "space.width_mult": positive,
        "latency.table": st.none() | st.just("tables/ä b.yaml"),
        "latency.target": st.sampled_from(["40%", "1e-3ms", " 12.5 ms"]),
        "latency.regularizer": st.sampled_from(["target", "add#linear", "mul#log", "none"]),
        "latency.trade_off": st.floats(allow_nan=False, allow_infinity=False),
        "warmup.epochs": st.integers(0, 100),
        "search.lr": positive,
        "search.momentum": part,
        "gates.mode": st.sampled_from(["full", "two_path", "reinforce"]),
        "train.ema_decay": part,
        "comparison.yardsticks": st.booleans(),
    },
)


def at(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


@given(overrides)
def test_overrides_survive_yaml(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    config = load_config(None, values)
    for key, value in values.items():
        assert at(config, key) == (Path(value) if key == "latency.table" and value else value)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(write_document(config.anchored().model_dump(mode="json")))
    assert load_config(path, {}) == config.anchored()


@pytest.mark.parametrize(("key", "most"), [("data.workers", 1024), ("checkpoints_kept", 100)])
def test_what_would_exhaust_a_machine_is_refused(key: str, most: int) -> None:
    assert at(load_config(None, {key: most}), key) == most
    with pytest.raises(UserError, match=key):
        load_config(None, {key: most + 1})


def test_the_defaults_are_the_published_values() -> None:
    config = load_config(None, {})
    assert config == Config()
    assert (config.warmup.epochs, config.warmup.lr) == (40, 0.05)
    for phase, epochs, lr in ((config.search, 120, 0.025), (config.train, 300, 0.05)):
        assert (phase.epochs, phase.lr) == (epochs, lr)
        assert (phase.batch_size, phase.momentum, phase.weight_decay) == (256, 0.9, 4e-5)
        assert phase.label_smoothing == 0.1
    assert (config.gates.every, config.gates.lr, config.gates.networks) == (5, 1e-3, 10)
    latency = config.latency
    assert (latency.trade_off, latency.mul_alpha, latency.mul_beta) == (0.1, 0.2, 0.3)


def test_files_win_over_defaults_and_overrides_over_files(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("search: {epochs: 3, lr: 1e-3}\nseed: 4\n")
    config = load_config(path, {"search.epochs": 5})
    assert (config.search.epochs, config.search.lr, config.seed) == (5, 0.001, 4)
    assert config.train == Config().train


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("configs/*.yaml")), ids=lambda p: p.name)
def test_configurations_of_the_repository(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert isinstance(load_config(path, {}).space.build(), Space)


def test_imagenet_differs_by_what_networks_run_on() -> None:
    dropouts = {"gpu": 0.3, "cpu": 0.2, "mobile": 0.1}
    common = load_config(REPOSITORY / "configs/imagenet.yaml", {})
    assert common.runtime.device == "cuda"
    for name, dropout in dropouts.items():
        config = load_config(REPOSITORY / f"configs/imagenet_{name}.yaml", {})
        assert config.train == common.train.model_copy(update={"dropout": dropout})
        assert config.model_copy(update={"latency": None, "train": None}) == common.model_copy(
            update={"latency": None, "train": None}
        )


def test_the_recipe_for_trees_is_the_published_one() -> None:
    config = load_config(REPOSITORY / "configs/cifar10_tree.yaml", {})
    assert (config.space.name, config.latency.counted) == ("cifar_tree", "parameters")
    assert (config.data.gate_fraction, config.gates.lr) == (0.1, 0.006)
    train = config.train
    assert (train.epochs, train.cutout, train.drop_path) == (600, 16, 0.3)


def test_files_extend_others(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/first.yaml").write_text(
        "seed: 3\nsearch: {epochs: 3, lr: 1}\nlatency: {table: t.yaml, target: 30%}\n"
    )
    (tmp_path / "second.yaml").write_text("extends: below/first.yaml\nsearch: {epochs: 4}\n")
    (tmp_path / "third.yaml").write_text("extends: second.yaml\nlatency: {target: 50%}\n")
    config = load_config(tmp_path / "third.yaml", {"search.momentum": 0.5})
    assert (config.seed, config.search.epochs, config.search.lr) == (3, 4, 1)
    assert (config.latency.target, config.search.momentum) == ("50%", 0.5)
    assert config.latency.table == tmp_path / "below/t.yaml"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("extends: second.yaml", "second.yaml extends first.yaml, which extends it; remove one"),
        ("extends: first.yaml", "first.yaml extends first.yaml, which extends it"),
        ("extends: none.yaml", r"cannot read .*none\.yaml"),
        ("extends: [first.yaml]", r"'extends' in .*first\.yaml is \['first\.yaml'\]; let it name"),
    ],
)
def test_files_that_extend_nothing(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "first.yaml").write_text(content)
    (tmp_path / "second.yaml").write_text("extends: first.yaml")
    with pytest.raises(UserError, match=sentence):
        load_config(tmp_path / "first.yaml", {})


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("search.epochs=3", "search.epochs", 3),
        ("latency.target=40%", "latency.target", "40%"),
        ("data.source=a=b", "data.source", "a=b"),
        ("runtime.threads=", "runtime.threads", None),
        ("x=[1, two]", "x", [1, "two"]),
        ("comparison.yardsticks=false", "comparison.yardsticks", False),
        ("seed=010", "seed", 10),
        ("data.source=yes", "data.source", "yes"),
        ("latency.target=1:30", "latency.target", "1:30"),
        ("data.source=2001-01-02", "data.source", "2001-01-02"),
    ],
)
def test_assignments(text: str, key: str, value: Any) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["search.epochs", "", "=3", "search.epochs 3"])
def test_assignments_without_equals_sign(text: str) -> None:
    with pytest.raises(UserError, match="sets nothing; write KEY=VALUE"):
        parse_override(text)


@pytest.mark.parametrize("text", ["seed=[1", "seed={", "seed=\x00"])
def test_assignments_of_what_is_no_yaml(text: str) -> None:
    with pytest.raises(UserError, match="is not valid YAML"):
        parse_override(text)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"serch.epochs": 3}, r"unknown key 'serch'; .*\(known: .*search.*\)"),
        ({"search.epoch": 3}, r"unknown key 'search\.epoch'; .*\(known: .*epochs.*\)"),
        ({"search.epochs": 0}, r"'search\.epochs' is 0: .*greater than or equal to 1"),
        ({"search.epochs": "many"}, r"'search\.epochs' is 'many': .*integer"),
        ({"search.epochs": None}, r"'search\.epochs' is None: .*integer"),
        ({"search.epochs": 2.5}, r"'search\.epochs' is 2\.5: .*integer"),
        ({"search": 3}, r"'search' is 3: "),
        ({"search": 3, "search.epochs": 3}, "'search.epochs' names no value: 'search' has none"),
        ({"search.epochs.a": 3}, r"'search\.epochs': .*integer"),
        ({"gates.mode": "fast"}, r"'gates\.mode' is 'fast': .*'full', 'two_path' or 'reinforce'"),
        ({"search.lr": math.nan}, r"'search\.lr' is nan: .*finite"),
        ({"search.lr": -1}, r"'search\.lr' is -1: .*greater than 0"),
        ({"train.ema_decay": 1}, r"'train\.ema_decay' is 1: .*less than 1"),
        ({"runtime": {"device": "tpu"}}, r"'runtime.device' is 'tpu': .*'cpu' or 'cuda'"),
        ({"seed": True}, "seed is true, where no truth value can be"),
        ({"search": {"lr": False}}, "'search': lr is false, where no truth value can be"),
        ({"data.gate_fraction": 1.0}, r"'data\.gate_fraction' is 1\.0: .*less than 1"),
        ({"1": 2}, r"unknown key '1'"),
    ],
)
def test_what_does_not_fit_is_named(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load_config(None, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("search: [", "is not valid YAML or JSON at line 1"),
        ("search:\n  epochs: 3\n lr: 1\n", "is not valid YAML or JSON at line 3"),
        ("- 1\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("1: 2\n", "should be strings"),
        ("search: {epochs: 3}\nserach: {}\n", "unknown key 'serach'"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_config(path, {})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"cannot read none\.yaml"):
        load_config(Path("none.yaml"), {})


@given(cheapest=st.floats(0.01, 10), span=st.floats(0, 10), ms=st.floats(0.001, 100))
def test_targets_in_ms(cheapest: float, span: float, ms: float) -> None:
    costs = Costs.of([[0.0, span]], cheapest)
    for text in (f"{ms}ms", f" {ms} ms "):
        assert LatencyConfig(target=text).target_of(costs) == ms


@given(cheapest=st.floats(0.01, 10), span=st.floats(0, 10), percent=st.floats(0, 100))
def test_targets_in_percent(cheapest: float, span: float, percent: float) -> None:
    costs = Costs.of([[0.0, span]], cheapest)
    target = LatencyConfig(target=f"{percent}%").target_of(costs)
    assert target == pytest.approx(cheapest + percent / 100 * span)


@pytest.mark.parametrize(
    "target", ["fast", "", "40", 40, "ms", "%", "-5ms", "1.2.3ms", "5M", "nanms", "40%%", ".ms"]
)
def test_targets_that_are_none(target: Any) -> None:
    sentence = (
        f"target '{re.escape(str(target))}' (is no amount|has no unit); write for example 12.5ms"
    )
    with pytest.raises(UserError, match=sentence):
        load_config(None, {"latency.target": target})


def test_limits_of_tables_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "latency: {limits: {macs: 3M, energy.yaml: 3mJ}}\n"
        "devices: {phone: {limits: {./peak.yaml: 2}}, other: {}}\n"
    )
    config = load_config(tmp_path / "config.yaml", {})
    energy, peak = (str(tmp_path / name) for name in ("energy.yaml", "peak.yaml"))
    assert config.latency.limits == {"macs": "3M", energy: "3mJ"}
    assert config.devices["phone"].limits == {peak: "2"}
    assert config.devices["other"].limits == config.latency.limits
    assert config.anchored().devices["phone"].limits == {peak: "2"}


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"param": "5M"}, "'param' cannot be limited; limit macs, parameters, weight_bytes, acti"),
        ({"macs": "few"}, "the limit of macs 'few' is no amount; write for example"),
        ({"macs": "-3M"}, "the limit of macs '-3M' is no amount"),
        ({"macs": float("nan")}, "the limit of macs 'nan' is no amount"),
        ("macs", "limits"),
    ],
)
def test_limits_that_are_none(limits: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load_config(None, {"latency.limits": limits})
    assert "\n" not in str(caught.value)


def test_spaces() -> None:
    space = SpaceConfig(name="cifar_mbconv", width_mult=0.5, resolution=16).build()
    assert (space.resolution, space.stem.out_channels) == (16, 16)
    assert SpaceConfig(name="imagenet").build().resolution == 224


def test_spaces_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'mobile' is neither a space \(imagenet, ci"):
        SpaceConfig(name="mobile").build()
    with pytest.raises(UserError, match="is neither a space"):
        SpaceConfig(name=str(tmp_path)).build()
    SpaceConfig(name="imagenet").build().save(tmp_path / "own.yaml")
    own = str(tmp_path / "own.yaml")
    assert SpaceConfig(name=own).build() == SpaceConfig(name="imagenet").build()
