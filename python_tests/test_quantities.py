"""Amounts with units, as they are read and written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless_ext.errors import UserError
from proxyless_ext.quantities import COUNTED, amount_within, show


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("12.5ms", "ms", 12.5),
        (" 0.2 s ", "ms", 200),
        ("30us", "ms", 0.03),
        ("30µs", "ms", 0.03),
        ("300MMACs", "MACs", 3e8),
        ("300 M MACs", "MACs", 3e8),
        ("1.2GMACs", "MACs", 1.2e9),
        ("7MACs", "MACs", 7),
        ("5.7Mparams", "params", 5.7e6),
        ("5.7M", "params", 5.7e6),
        ("2MB", "B", 2e6),
        ("512kB", "B", 512e3),
        ("512KB", "B", 512e3),
        ("3e-3J", "mJ", 3),
        ("3", "mJ", 3),
        ("4k", "mJ", 4000),
        ("5 frames per J", "frames per J", 5),
        ("40%", "ms", 14),
    ],
)
def test_amounts(text: str, unit: str, value: float) -> None:
    assert amount_within(text, "target", (10.0, 20.0), unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit", "sentence"),
    [
        ("3mJ", "ms", "target '3mJ' is in mJ, and networks here cost ms; write it in ms, or give"),
        ("12ms", "params", "is in ms, and networks here cost params; write it in params, or give"),
        ("2MB", "ms", "is in B, .* give a table in B, which `proxyless latency count` makes"),
        ("5m", "ms", "is in m, and networks here cost ms"),
        ("5mMACs", "params", "is in MACs, and networks here cost params"),
        ("MACs", "MACs", "target 'MACs' is no amount; write for example 12.5ms, 5.7Mparams or 40%"),
        ("-1ms", "ms", "is no amount"),
        ("nan", "ms", "is no amount"),
        ("4%%", "ms", "is no amount"),
        ("120%", "ms", "target '120%' is beyond the dearest network; give at most 100%"),
    ],
)
def test_what_is_no_amount_of_the_unit(text: str, unit: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        amount_within(text, "target", (10.0, 20.0), unit)


@given(st.floats(1, 1e12), st.sampled_from([*COUNTED, "ms", "mJ"]))
def test_what_is_shown_can_be_read_again(value: float, unit: str) -> None:
    read = amount_within(show(value, unit), "target", (0.0, 1.0), unit)
    assert math.isclose(read, value, rel_tol=5.1e-4)
