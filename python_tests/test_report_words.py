import pytest

from proxyless_ext.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (4_080_512, "4.08 M"),
        (9_994_999, "9.99 M"),
        (9_995_001, "10.0 M"),
        (99_950_000, "100 M"),
        (320_427_584, "320 M"),
        (1_213_155_872, "1.21 G"),
    ],
)
def test_count_has_three_digits(value, text):
    assert words.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.00041, "0.000410 ms"),
        (0.0513, "0.0513 ms"),
        (0.9996, "1.00 ms"),
        (5.1, "5.10 ms"),
        (9.996, "10.0 ms"),
        (29.6088, "29.6 ms"),
        (99.96, "100 ms"),
        (1234.5, "1234 ms"),
    ],
)
def test_costs_have_three_digits(value, text):
    assert words.cost(value, "ms") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (492, "8 min 12 s"),
        (3599.6, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_duration_never_says_sixty(value, text):
    assert words.duration(value) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (999_999, "999,999"),
        (1_000_000, "1.0 \N{MULTIPLICATION SIGN} 10⁶"),
        (9_960_000, "1.0 \N{MULTIPLICATION SIGN} 10⁷"),
        (221_502_229_807_900_608, "2.2 \N{MULTIPLICATION SIGN} 10¹⁷"),
        (7**756, "7.8 \N{MULTIPLICATION SIGN} 10⁶³⁸"),
    ],
)
def test_networks_of_any_number(number, text):
    assert words.networks(number) == text
