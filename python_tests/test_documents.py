"""YAML and JSON: nothing is guessed, nothing is dropped, and what is written comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import SPACE

from proxyless_ext.config import load_config, parse_override
from proxyless_ext.documents import parse_document, write_document
from proxyless_ext.errors import UserError
from proxyless_ext.latency import LatencyTable
from proxyless_ext.spaces import Architecture, Space
from proxyless_ext.zoo import import_config

ODD = [
    "yes", "no", "on", "off", "y", "n", "true", "null", "~", "", "=", "<<", "1:30", "010", "0o17",
    "0x1F", "1e5", "1_000", ".5", "+1", ".inf", ".nan", "NaN", "2001-01-02", "- a", "a: b", "# a",
    " a ", "\n", "\t", "\u2028", "\x01", "\x7f", "\U0001f600", "\udcf6", "é", "'", '"', "@a", "%a",
]  # fmt: skip

texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=()), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_is_written_comes_back(value: Any) -> None:
    assert parse_document(write_document(value), "it") == value


@given(values)
def test_readers_of_older_yaml_get_the_same(value: Any) -> None:
    assert yaml.safe_load(write_document(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("Off", "Off"),
        ("True", True),
        ("1:30", "1:30"),
        ("010", 10),
        ("-010", -10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1e5", 1e5),
        ("1.", 1.0),
        ("2001-13-45", "2001-13-45"),
        ("~", None),
        ("", None),
        ("<<: 1", {"<<": 1}),
        ("{a: 1}", {"a": 1}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_document(text, "it")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: 1\nseed: 2\ndata: 3", "the key 'data' stands twice, at lines 1 and 3; keep one of"),
        ("a:\n  b: 1\n  b: 1", "the key 'b' stands twice, at lines 2 and 3"),
        ("1: a\n0x1: b", "the key '1' stands twice, at lines 1 and 2"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice; keep one of them"),
        ('[{"a": {"b": 1, "b": 1}}]', "the key 'b' stands twice"),
        ("a: &x [1]\nb: *x", "what begins at line 1 is used again by an alias; repeat it"),
        ("a: &x [*x]", "is used again by an alias"),
        ("? [1, 2]\n: 3", "the key at line 1 is no single value"),
        ("? {a: 1}\n: 3", "the key at line 1 is no single value"),
        ("a: [", "it is not valid YAML or JSON at line 1; correct it"),
        ("a: b: c", "it is not valid YAML or JSON at line 1; correct it"),
        ("\ta: 1", "it is not valid YAML or JSON"),
        ("!!python/object:os.system {}", "it is not valid YAML or JSON"),
        ("[" * 100_000, "it is nested too deeply; correct it"),
        ("a: 1\n---\nb: 2", "it is not valid YAML or JSON"),
    ],
)
def test_what_is_no_document_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_document(text, "it")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("read", "suffix"),
    [
        (lambda path: load_config(path, {}), ".yaml"),
        (Space.load, ".yaml"),
        (LatencyTable.load, ".yaml"),
        (Architecture.load, ".json"),
        (import_config, ".config"),
        (lambda path: parse_override(f"data={path.read_text()}"), ".yaml"),
    ],
)
def test_everything_that_is_read_refuses_a_key_that_stands_twice(
    tmp_path: Path, read: Any, suffix: str
) -> None:
    path = tmp_path / f"twice{suffix}"
    path.write_text('{"name": 1, "name": 2}')
    with pytest.raises(UserError, match="the key 'name' stands twice"):
        read(path)


def test_a_space_of_any_name_comes_back(tmp_path: Path) -> None:
    for name in ODD:
        space = SPACE.model_copy(update={"name": name})
        if "\udcf6" not in name:
            space.save(tmp_path / "space.yaml")
            assert Space.load(tmp_path / "space.yaml") == space
