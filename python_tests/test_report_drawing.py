from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless_ext import zoo
from proxyless_ext.report import draw_network, draw_networks
from proxyless_ext.report.colours import INK, operation_colour, text_colour
from proxyless_ext.spaces import (
    MBCONV_CANDIDATES,
    Architecture,
    BlockConfig,
    Space,
    Stage,
    Stem,
    cifar_mbconv,
    imagenet,
    parse_operation,
)

SVG = "{http://www.w3.org/2000/svg}"
ALL_OPERATIONS = [f"k{k}e{e}" for k in (3, 5, 7) for e in range(1, 7)] + ["zero", "identity"]


def parse(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def boxes(picture: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    """What is said of each layer, and the rectangle drawn for it, in order."""
    return [
        (group.find(f"{SVG}title").text, group.find(f"{SVG}rect"))
        for group in picture.iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    ]


def size(rect: ElementTree.Element) -> tuple[float, float]:
    return float(rect.get("width")), float(rect.get("height"))


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    """Any architecture: stages of any depth, width and stride, blocks of any operation."""
    channels = draw(st.integers(1, 99))
    blocks = []
    for _ in range(draw(st.integers(1, 5))):
        width, stride = draw(st.integers(1, 2000)), draw(st.sampled_from([1, 2]))
        for operation in draw(st.lists(st.sampled_from(ALL_OPERATIONS), min_size=1, max_size=9)):
            if not parse_operation(operation).fits(channels, width, stride):
                operation = "k5e4"
            blocks.append(
                BlockConfig(
                    operation=operation,
                    in_channels=channels,
                    out_channels=width,
                    stride=stride,
                    shortcut=stride == 1 and channels == width,
                )
            )
            channels, stride = width, 1
    return Architecture(
        name=draw(st.text()),
        resolution=draw(st.integers(1, 512)),
        num_classes=draw(st.integers(1, 21841)),
        stem=Stem(out_channels=blocks[0].in_channels, stride=draw(st.sampled_from([1, 2]))),
        blocks=tuple(blocks),
        feature_mix=draw(st.integers(1, 2000)),
    )


@given(networks(), st.integers(320, 1400))
def test_every_layer_is_drawn_once_in_order_inside_the_picture(architecture, width):
    picture = parse(draw_network(architecture, width))
    layers = architecture.layers()
    drawn = boxes(picture)
    assert len(drawn) == len(layers)
    for (text, rect), layer in zip(drawn, layers, strict=True):
        assert f"{layer.in_channels} to {layer.out_channels}" in text
        left, right = float(rect.get("x")), float(rect.get("x")) + size(rect)[0]
        assert 0 <= left < right <= width
        if layer.operation.startswith("k"):
            kernel, ratio = layer.operation[1], layer.operation[3]
            assert f"MBConv {kernel}\N{MULTIPLICATION SIGN}{kernel}, expansion {ratio}," in text


@given(networks(), st.integers(320, 1400))
def test_nothing_overlaps(architecture, width):
    picture = parse(draw_network(architecture, width))
    rows = [group for group in picture.findall(f"{SVG}g") if group.get("transform")]
    for row in rows:
        for rects in (row.findall(f"{SVG}rect"), [rect for _, rect in boxes(row)]):
            for left, right in pairwise(rects):
                assert float(left.get("x")) + size(left)[0] < float(right.get("x"))
    tops = [float(row.get("transform").split()[1].rstrip(")")) for row in rows]
    height = float(rows[0].find(f"{SVG}rect").get("height"))
    assert all(lower - upper > height for upper, lower in pairwise(tops))
    assert float(picture.get("height")) > tops[-1] + height


def test_size_of_a_box_says_kernel_and_expansion():
    space = imagenet()
    rects = {
        name: size(boxes(parse(draw_network(space.architecture([index] * 21))))[2][1])
        for index, name in enumerate(MBCONV_CANDIDATES[:6])
    }
    for ratio in (3, 6):
        widths = [rects[f"k{kernel}e{ratio}"][0] for kernel in (3, 5, 7)]
        assert widths == sorted(set(widths))
    for kernel in (3, 5, 7):
        assert rects[f"k{kernel}e3"][1] < rects[f"k{kernel}e6"][1]
        assert rects[f"k{kernel}e3"][0] == rects[f"k{kernel}e6"][0]


@pytest.mark.parametrize("width", [1160, 328])
def test_trees_are_columns_of_their_edges(width):
    architecture = zoo.architecture("proxyless_cifar")
    drawing = draw_network(architecture, width)
    assert len(drawing) < 100_000
    picture = parse(drawing)
    columns = [group for group in picture.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    assert len(columns) == 54 + 3
    for column, block in zip(columns[1:55], architecture.blocks, strict=True):
        trunk, *edges = column.findall(f"{SVG}rect")
        assert [edge.get("fill") for edge in edges] == [operation_colour(e) for e in block.edges]
        edge = edges[0]
        assert float(trunk.get("x")) < float(edge.get("x"))
        assert float(trunk.get("x")) + size(trunk)[0] > float(edge.get("x")) + size(edge)[0]
        tops = [float(each.get("y")) for each in (trunk, *edges)]
        assert tops == sorted(set(tops))
        assert tops[-1] + size(edges[-1])[1] < tops[0] + size(trunk)[1]
        text = column.find(f"{SVG}title").text
        assert text.replace(",", "").endswith(" ".join(block.edges))
    drawn = {text.text for text in picture.iter(f"{SVG}text")}
    assert {"sep3d2", "maxpool3", "stride 2"} <= drawn
    assert "width: kernel size" not in drawn


def test_skipped_and_halving_layers_are_marked():
    space = cifar_mbconv()
    choices = [len(edge.candidates) - 1 for edge in space.edges]  # Zero wherever it fits.
    architecture = space.architecture(choices)
    drawn = boxes(parse(draw_network(architecture)))
    for (_, rect), layer in zip(drawn, architecture.layers(), strict=True):
        assert (rect.get("stroke-dasharray") is not None) == layer.is_skipped
        assert (rect.get("stroke-width") == "2") == (layer.stride == 2)
    halving = sum(layer.stride == 2 for layer in architecture.layers())
    text = [element.text for element in parse(draw_network(architecture)).iter(f"{SVG}text")]
    assert text.count("↓2") == halving + 1  # And once in the legend.


def test_panels_name_resolution_and_channels_of_every_stage():
    architecture = cifar_mbconv(num_classes=7).architecture([0] * 16)
    text = [element.text for element in parse(draw_network(architecture)).iter(f"{SVG}text")]
    for label in ("16", "24", "40", "80", "96", "160", "240", "640", "7 classes"):
        assert text.count(label) == 1, label
    sizes = [f"{size}\N{MULTIPLICATION SIGN}{size}" for size in (32, 16, 8, 4, 1)]
    assert [text.count(size) for size in sizes] == [3, 1, 2, 3, 1]


def test_a_narrow_picture_has_more_rows_of_the_same_boxes():
    architecture = imagenet().architecture([5] * 21)
    wide, narrow = (parse(draw_network(architecture, width)) for width in (1160, 328))
    assert float(narrow.get("height")) > float(wide.get("height"))
    assert [size(rect) for _, rect in boxes(wide)] == [size(rect) for _, rect in boxes(narrow)]


def test_a_stage_wider_than_the_picture_goes_on_in_the_next_row():
    space = Space(
        name="deep",
        resolution=8,
        num_classes=2,
        candidates=("k7e6",),
        stages=(Stage(channels=32, cells=40),),
        feature_mix=8,
    )
    drawn = boxes(parse(draw_network(space.architecture([0] * 40), 400)))
    assert len(drawn) == 43
    assert all(float(rect.get("x")) + size(rect)[0] <= 400 for _, rect in drawn)


def test_several_networks_are_drawn_under_their_names_as_each_alone():
    space = cifar_mbconv()
    architectures = [space.architecture([i] * 16, f"network {i}") for i in range(3)]
    picture = parse(draw_networks(architectures))
    names = [element.text for element in picture.findall(f"{SVG}text")]
    assert names[:3] == ["network 0", "network 1", "network 2"]
    alone = [boxes(parse(draw_network(architecture))) for architecture in architectures]
    together = boxes(picture)
    assert [text for text, _ in together] == [text for drawn in alone for text, _ in drawn]


@pytest.mark.parametrize("name", ["<b>&\"'", "a\x00\x1b\ud800b", "網", "x" * 500, ""])
def test_any_name_gives_valid_xml(name):
    architecture = cifar_mbconv().architecture([0] * 16, "name")
    picture = parse(draw_networks([architecture.model_copy(update={"name": name})]))
    title = picture.find(f"{SVG}text").text or ""
    assert len(title) == len(name)
    assert [a for a, b in zip(title, name, strict=True) if a != b] in ([], ["\ufffd"] * 3)


def test_drawing_is_deterministic_and_needs_no_network():
    architecture = imagenet().architecture([3] * 21)
    first, second = draw_network(architecture), draw_network(architecture)
    assert first == second
    assert first.count("http") == 1  # The name space.


def luminance(colour: str) -> float:
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def linear(colour: str) -> np.ndarray:
    """Linear RGB [3] of an sRGB colour."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* [3] of linear RGB, white D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ rgb / [0.9505, 1.0, 1.089])  # None is nearly black.
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("operation", ALL_OPERATIONS)
def test_text_on_a_box_has_the_contrast_that_wcag_asks_for(operation):
    background = operation_colour(operation)
    text = text_colour(background)
    dark, light = sorted([luminance(background), luminance(text)])
    assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert text in ("#ffffff", INK)


# Machado, Oliveira, Fernandes 2009: what full protanopia, deuteranopia and tritanopia make of RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_candidates_stay_apart_for_colour_blind_readers(blindness):
    seen = {
        name: lab(np.clip(np.array(BLINDNESS[blindness]) @ linear(operation_colour(name)), 0, 1))
        for name in MBCONV_CANDIDATES
    }
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)
