from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proxyless_ext.errors import UserError
from proxyless_ext.latency import Check, Entry, NetworkRow
from proxyless_ext.report import (
    SearchedPoint,
    draw_comparison,
    draw_pareto,
    draw_prediction,
)
from proxyless_ext.report.compare import pareto_front

ROWS = [
    NetworkRow("proxyless_gpu", 7_119_848, 465_260_160, Entry(count=30, mean=51.2, var=4.0)),
    NetworkRow("a $b$ <net> & é", 950, 1_213_155_872, Entry(count=30, mean=0.0513, var=0.0)),
]
POINTS = [
    SearchedPoint("20 %", 0.71, 1.9, "searched"),
    SearchedPoint("40 %", 0.75, 3.1, "searched"),
    SearchedPoint("1", 0.69, 3.0, "random"),
]
CHECK = Check(torch.tensor([0.5, 1.5]).double(), torch.tensor([1.1, 2.9]).double(), slowdown=2.0)


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]


def test_comparison_names_each_network_with_its_costs(tmp_path):
    written = texts(draw_comparison(ROWS, tmp_path / "latencies.svg"))
    assert "proxyless_gpu" in written
    assert "a $b$ <net> & é" in written
    assert "51.2 ms   7.12 M parameters, 465 M MACs" in written
    assert "0.0513 ms   950 parameters, 1.21 G MACs" in written


def test_pareto_and_prediction_say_what_they_show(tmp_path):
    written = texts(draw_pareto(POINTS, tmp_path / "pareto.svg"))
    assert {"20 %", "40 %", "1", "searched", "random", "Pareto front"} <= set(written)
    written = texts(draw_prediction(CHECK, tmp_path / "prediction.svg"))
    assert {
        "predicted, times the slowdown of 2.000, ms",
        "measured, ms",
        "R² 0.988, median error 6.3 %",
    } <= set(written)


@pytest.mark.parametrize("name", ["chart.svg", "chart.png", "chart.pdf"])
def test_files_are_of_the_kind_asked_for_and_always_the_same(tmp_path, name):
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[name[-3:]]
    (tmp_path / "again").mkdir()
    for draw in (
        lambda path: draw_comparison(ROWS[:1], path),
        lambda path: draw_pareto(POINTS, path),
        lambda path: draw_prediction(CHECK, path),
    ):
        content = draw(tmp_path / name).read_bytes()
        assert content.startswith(start)
        assert draw(tmp_path / "again" / name).read_bytes() == content


def test_nothing_to_draw_is_an_empty_chart(tmp_path):
    for path in (
        draw_comparison([], tmp_path / "comparison.svg"),
        draw_pareto([], tmp_path / "pareto.svg"),
    ):
        assert texts(path)


@pytest.mark.parametrize("name", ["chart", "chart.jpg", "chart.PNG.txt"])
def test_unknown_file_formats_are_refused_before_writing(tmp_path, name):
    with pytest.raises(UserError, match=r"ends in \.svg, \.png or \.pdf$"):
        draw_comparison(ROWS, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        draw_comparison(ROWS, tmp_path / "none" / "chart.svg")


coordinates = st.tuples(st.integers(0, 6), st.integers(1, 6))  # Few values: many ties.


@given(st.lists(coordinates, max_size=12))
def test_pareto_front_is_what_no_other_network_beats(places):
    points = [SearchedPoint(str(i), a / 6, float(ms), "") for i, (a, ms) in enumerate(places)]

    def beaten(point: SearchedPoint) -> bool:
        return any(
            other.accuracy >= point.accuracy
            and other.cost <= point.cost
            and (other.accuracy, other.cost) != (point.accuracy, point.cost)
            for other in points
        )

    front = pareto_front(points)
    expected = sorted({(p.cost, p.accuracy) for p in points if not beaten(p)})
    assert [(p.cost, p.accuracy) for p in front] == expected
