"""Latency tables: files, sums over layers, expectations."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxyless_ext import spaces
from proxyless_ext.errors import UserError
from proxyless_ext.latency import Conditions, Entry, LatencyTable, Reference

PUBLISHED = Path(__file__).parents[2] / "shared/reference/mobile_trim.yaml"
published_only = pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published table")

SPACE = spaces.Space(
    name="small",
    resolution=8,
    num_classes=3,
    stem=spaces.Stem(out_channels=8, stride=1),
    candidates=("k3e3", "k5e6", "zero"),
    stages=(
        spaces.Stage(channels=8, cells=2),
        spaces.Stage(channels=16, cells=2, stride=2),
    ),
    feature_mix=24,
)
KEY = "Conv-input:8x8x3-output:8x8x8"


def space_layers(space):
    candidates = itertools.chain.from_iterable(space.edge_layers())
    return [layer for layer in (*space.fixed_layers(), *candidates) if not layer.is_skipped]


def table_of(space, seed=0):
    """A table with a latency of its own for every layer."""
    generator = torch.Generator().manual_seed(seed)
    keys = sorted({layer.key for layer in space_layers(space)})
    means = torch.rand(len(keys), generator=generator, dtype=torch.float64) + 0.1
    return LatencyTable(
        {
            key: Entry(count=2, mean=mean, var=0.5)
            for key, mean in zip(keys, means.tolist(), strict=True)
        }
    )


def all_choices(space):
    return list(itertools.product(*(range(len(edge.candidates)) for edge in space.edges)))


def test_a_network_costs_the_sum_of_its_layers():
    table = LatencyTable(
        {
            KEY: Entry(count=1, mean=1, var=0),
            "expanded_conv-input:8x8x8-output:8x8x8-expand:3-kernel:3-stride:1-idskip:1": Entry(
                count=1, mean=10, var=0
            ),
            "expanded_conv-input:8x8x8-output:4x4x16-expand:6-kernel:5-stride:2-idskip:0": Entry(
                count=1, mean=100, var=0
            ),
            "Conv_1-input:4x4x16-output:4x4x24": Entry(count=1, mean=1000, var=0),
            "Logits-input:4x4x24-output:3": Entry(count=1, mean=10000, var=0),
        }
    )
    # k3e3, k3e3, k5e6, and a skipped block that the table need not know.
    assert table.predict(SPACE.architecture([0, 0, 1, 2])) == 11121
    assert table.predict(SPACE.architecture([0, 2, 1, 2])) == 11111


def test_a_skipped_layer_costs_nothing():
    skipped = spaces.Layer("block", "zero", 8, 8, 8, shortcut=True)
    alone = spaces.Layer("block", "zero", 8, 8, 8, shortcut=False)
    assert LatencyTable({}).latency(skipped) == LatencyTable({}).latency(alone) == 0


def test_a_missing_key_names_the_key_and_the_command():
    table = table_of(SPACE)
    del table.entries[KEY]
    with pytest.raises(UserError) as error:
        table.predict(SPACE.architecture([0, 0, 0, 0], "mine"))
    assert KEY in str(error.value)
    assert "`proxyless latency measure mine`" in str(error.value)
    for ask in (
        table.bounds,
        lambda space: table.costs(space).expected(torch.ones(4, 3)),
    ):
        with pytest.raises(UserError, match=r"`proxyless latency measure small\.yaml --classes 3`"):
            ask(SPACE)
    builtin = spaces.imagenet(10, resolution=96)
    with pytest.raises(UserError, match=r"`[\w ]* imagenet --resolution 96 --classes 10`"):
        table.costs(builtin)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 16}, r"layers \(it has 8 pixels instead of 16\); measure"),
        ({"num_classes": 5}, r"lacks 1 of \d+ layers \(it has 3 classes instead of 5\); measure"),
        ({"resolution": 4, "num_classes": 5}, r"\(it has 8 pixels instead of 4, 3 classes inst"),
        ({"feature_mix": 32}, "lacks 2 of [0-9]+ layers; measure"),
    ],
)
def test_a_table_for_other_pictures_says_so(changes, message):
    with pytest.raises(UserError, match=message):
        table_of(SPACE).costs(SPACE.model_copy(update=changes))


def test_the_edge_matrix_has_candidates_in_order_and_zeros_behind_them():
    table = table_of(SPACE)
    matrix = table.costs(SPACE).edges
    assert matrix.dtype == torch.float64
    assert matrix.shape == (4, 3)
    for edge, layers in enumerate(SPACE.edge_layers()):
        for candidate, layer in enumerate(layers):
            expected = 0 if layer.is_skipped else table.entries[layer.key].mean
            assert matrix[edge, candidate] == expected
    assert len(SPACE.edges[2].candidates) == 2
    assert matrix[2, 2] == 0


@given(st.integers(0, 1000))
def test_expected_latency_is_the_mean_over_all_networks(seed):
    table = table_of(SPACE, seed)
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    alpha[2, 2] = -torch.inf
    p = alpha.softmax(1)
    mean = math.fsum(
        p[range(4), choices].prod().item() * table.predict(SPACE.architecture(choices))
        for choices in all_choices(SPACE)
    )
    assert table.costs(SPACE).expected(p).item() == pytest.approx(mean, rel=1e-12)


def test_expected_latency_is_differentiable():
    table = table_of(SPACE)
    p = torch.full((4, 3), 1 / 3, requires_grad=True)
    expected = table.costs(SPACE).expected(p)
    expected.backward()
    assert expected.dtype == torch.float64
    torch.testing.assert_close(p.grad, table.costs(SPACE).edges.float())


def test_expected_latency_of_one_network_is_its_prediction():
    table = table_of(SPACE)
    for choices in all_choices(SPACE):
        p = torch.nn.functional.one_hot(torch.tensor(choices), 3)
        predicted = table.predict(SPACE.architecture(choices))
        assert table.costs(SPACE).expected(p).item() == pytest.approx(predicted, rel=1e-12)


@given(st.integers(0, 1000))
def test_bounds_are_those_of_all_networks(seed):
    table = table_of(SPACE, seed)
    latencies = [table.predict(SPACE.architecture(choices)) for choices in all_choices(SPACE)]
    assert table.bounds(SPACE) == pytest.approx((min(latencies), max(latencies)), rel=1e-12)


def test_padding_is_not_the_cheapest_candidate():
    table = table_of(SPACE)
    row = table.costs(SPACE).edges[2]
    costs = table.costs(SPACE)
    others = costs.bounds[0] - costs.fixed  # All other edges can be skipped but one.
    assert others >= row[:2].min().item() > 0


def test_a_saved_table_is_read_back_exactly(tmp_path):
    conditions = Conditions(backend="onnxruntime", batch_size=4, threads=2, repetitions=7)
    reference = Reference.of(SPACE, [[0, 2, 1, 2], [1, 0, 0, 0]], 1 / 3)
    conditions = conditions.model_copy(update={"reference": reference})
    table = LatencyTable(table_of(SPACE).entries, conditions)
    table.save(tmp_path / "table.yaml")
    read = LatencyTable.load(tmp_path / "table.yaml")
    assert read.entries == table.entries
    assert read.conditions == conditions
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]


def test_a_file_is_the_published_layout_with_conditions(tmp_path):
    path = tmp_path / "table.yaml"
    LatencyTable({KEY: Entry(count=2, mean=1.5, var=0.25)}, Conditions()).save(path)
    tree = yaml.safe_load(path.read_text())
    assert tree.pop("conditions")["backend"] == "eager"
    assert tree == {KEY: {"count": 2, "mean": 1.5, "var": 0.25}}
    assert "? " not in path.read_text()  # Long keys are plain lines, as in the published file.


def test_a_published_file_has_no_conditions(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(f"{KEY}:\n  count: 982\n  mean: 4\n  var: 0.25\n")
    table = LatencyTable.load(path)
    assert table.conditions is None
    assert table.entries == {KEY: Entry(count=982, mean=4.0, var=0.25)}


def test_a_file_of_once_for_all_has_standard_deviations(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(f"{KEY}:\n  count: 54\n  mean: 4\n  std: 0.5\n")
    assert LatencyTable.load(path).entries == {KEY: Entry(count=54, mean=4.0, var=0.25)}


@pytest.mark.parametrize(
    "fields",
    [
        "{count: 1, mean: -0.1, var: 0}",
        "{count: 1, mean: .nan, var: 0}",
        "{count: 1, mean: .inf, var: 0}",
        "{count: 1, mean: 1, var: -1}",
        "{count: 1, mean: 1, var: .nan}",
        "{count: 0, mean: 1, var: 0}",
        "{count: 1.5, mean: 1, var: 0}",
        "{count: true, mean: 1, var: 0}",
        "{count: 1, mean: '1', var: 0}",
        "{count: 1, mean: null, var: 0}",
        "{count: 1, mean: 1}",
        "{count: 1, mean: 1, var: 0, median: 1}",
        "{count: 1, mean: 1, var: 0, std: 0}",
        "{count: 0, mean: 1, std: 0}",
        "{count: 1, mean: -1, std: 0}",
        "{count: 1, mean: 1, std: -1}",
        "{count: 1, mean: 1, std: 1.0e+200}",
        "3.5",
        "[1, 2, 3]",
        "null",
    ],
)
def test_an_impossible_entry_is_named(tmp_path, fields):
    path = tmp_path / "table.yaml"
    path.write_text(f"{KEY}: {fields}\n")
    with pytest.raises(UserError) as error:
        LatencyTable.load(path)
    assert str(path) in str(error.value)
    assert KEY in str(error.value)
    assert "\n" not in str(error.value)


RECORDED = yaml.safe_dump(Conditions().model_dump(mode="json"), default_flow_style=True).strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: [", "not valid YAML"),
        ("- 1\n- 2\n", "keys and values"),
        ("", "keys and values"),
        ("{}", "holds no latencies"),
        (f"conditions: {RECORDED}", "holds no latencies"),
        (f"7: {{count: 1, mean: 1, var: 0}}\n{KEY}: {{count: 1, mean: 1, var: 0}}", "'7'"),
        (f"conditions: 5\n{KEY}: {{count: 1, mean: 1, var: 0}}", "'conditions'"),
        # What a file leaves out is not filled in from this machine.
        (f"conditions: {{backend: eager}}\n{KEY}: {{count: 1, mean: 1, var: 0}}", "lack .*process"),
        (f"conditions: {RECORDED.replace('eager', 'abacus')}\n{KEY}: {{}}", "backend.*abacus"),
        (f"conditions: {RECORDED.replace('threads: 1', 'threads: 0')}\n{KEY}: {{}}", "threads"),
    ],
)
def test_an_impossible_file_is_a_sentence(tmp_path, text, message):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        LatencyTable.load(path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        LatencyTable.load(tmp_path / "none.yaml")


def test_onnxruntime_is_not_measured_on_cuda():
    with pytest.raises(UserError, match="backend eager or compile for cuda"):
        Conditions(backend="onnxruntime", device="cuda", processor="some GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_cuda_conditions_need_a_cuda_device():
    with pytest.raises(UserError, match="no usable CUDA device"):
        Conditions(device="cuda")


@published_only
def test_published_latencies_of_the_imagenet_space():
    table, space = LatencyTable.load(PUBLISHED), spaces.imagenet()
    stem, block, mix, classifier = (table.latency(layer) for layer in space.fixed_layers())
    assert stem + mix + classifier == pytest.approx(7.4820, abs=5e-5)
    assert block == pytest.approx(3.8821, abs=5e-5)
    assert table.bounds(space) == pytest.approx((29.6088, 191.0299), abs=5e-5)
    alpha = torch.full((21, 7), -torch.inf)
    for row, edge in zip(alpha, space.edges, strict=True):
        row[: len(edge.candidates)] = 0
    assert table.costs(space).expected(alpha.softmax(1)).item() == pytest.approx(113.9881, abs=5e-5)
    assert table.conditions is None


@published_only
def test_the_published_table_lacks_three_keys_of_the_published_network():
    from proxyless_ext.zoo import architecture

    table, network = LatencyTable.load(PUBLISHED), architecture("proxyless_mobile")
    with pytest.raises(UserError, match="`proxyless latency measure proxyless_mobile`") as error:
        table.predict(network)
    said = re.search("lacks 3 of .* or add them to it: (.*)", str(error.value))
    missing = said[1].split(", ")
    table.entries |= {key: Entry(count=1, mean=1, var=0) for key in missing}
    table.predict(network)
    assert set(missing) == {
        "expanded_conv-input:112x112x16-output:56x56x32-expand:3-kernel:5-stride:2-idskip:0",
        "expanded_conv-input:56x56x32-output:56x56x32-expand:3-kernel:3-stride:1-idskip:1",
        "expanded_conv-input:56x56x32-output:28x28x40-expand:3-kernel:7-stride:2-idskip:0",
    }


# This machine.


def test_a_table_of_another_machine_is_told(monkeypatch):
    assert Conditions().are_of_this_machine
    assert not Conditions(processor="another").are_of_this_machine
    assert not Conditions(device="cuda", processor="some GPU").are_of_this_machine


def test_what_blocks_run_as_is_recorded():
    assert Conditions().blocks == "fused"
    assert Conditions(blocks="plain").model_dump()["blocks"] == "plain"
    assert Conditions(backend="onnxruntime").blocks == "plain"
    with pytest.raises(UserError, match="onnxruntime has no fused blocks; use blocks plain"):
        Conditions(backend="onnxruntime", blocks="fused")
