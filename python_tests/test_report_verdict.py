"""What is said about a search, against simulations of what it claims."""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter

import pytest

from proxyless_ext.report.verdict import _expected_maximum, verdict
from proxyless_ext.runs import Comparison, Competitor


def competitors(accuracies: list[float]) -> tuple[Competitor, ...]:
    return tuple(Competitor(name="other", accuracy=accuracy) for accuracy in accuracies)


def say(
    found: float,
    others: list[float],
    listed: list[float] | None = None,
    cost: float | None = None,
    pictures: int | None = None,
) -> str:
    comparison = Comparison(random=competitors(others), short_list=competitors(listed or []))
    text = verdict(Competitor(name="derived", accuracy=found), comparison, cost, pictures)
    assert text is not None
    return text


OTHERS = [0.700, 0.710, 0.690, 0.705, 0.695]  # Mean 70 %, standard deviation 0.79 points.


def test_a_good_search() -> None:
    text = say(0.74, OTHERS, [0.73, 0.725, 0.735], cost=10)
    assert "reaches 74.0 %: 4.0 points above the mean of 5 random networks" in text
    assert "it beats 5 of them" in text
    assert "3 others of its short list are on average 3.0 points above that mean (p = " in text
    assert "as much as 10.0 trainings" in text
    assert text.endswith(": the search was worth it.")


def test_one_that_its_own_compute_would_have_found_at_random() -> None:
    text = say(0.728, OTHERS, cost=100_000)
    assert "better than chance, but the same compute would have found its like" in text


@pytest.mark.parametrize("found", [0.66, 0.70, 0.715])
def test_one_that_shows_nothing(found: float) -> None:
    text = say(found, OTHERS, [0.70, 0.699], cost=2)
    assert text.endswith("not shown to be better than chance.")
    assert ("below the mean" in text) == (found < 0.7)


def test_a_good_short_list_counts() -> None:
    assert "not shown" in say(0.715, OTHERS)
    assert "worth it" in say(0.715, OTHERS, [0.72, 0.722, 0.718, 0.721])


def test_equal_networks_decide_nothing() -> None:
    assert "not shown" in say(0.7, [0.7, 0.7, 0.7], [0.7, 0.7], cost=3)


def test_no_interval_is_wider_than_accuracies_are() -> None:
    assert "± 100.0 points" in say(0.6, [0.3, 0.6])


def test_without_others_nothing_is_said() -> None:
    derived = Competitor(name="derived", accuracy=0.7)
    assert verdict(derived, Comparison(random=competitors([0.7])), 3.0) is None
    assert verdict(Competitor(name="derived"), Comparison(random=competitors(OTHERS)), 3.0) is None


def test_the_interval_holds_what_it_promises() -> None:
    """One more random network is within it in 95 of 100 cases."""
    rng = random.Random(0)
    inside = 0
    for _ in range(2000):
        *others, found = (rng.gauss(0.7, 0.01) for _ in range(7))
        text = say(found, others)
        difference = abs(found - statistics.fmean(others))
        margin = float(re.search(r"± ([\d.]+) points", text)[1])  # type: ignore[index]
        inside += 100 * difference <= margin
    assert 0.93 < inside / 2000 < 0.97


@pytest.mark.parametrize("has_learnt", [False, True])
def test_networks_of_equal_worth_are_seldom_praised(has_learnt: bool) -> None:
    """Some that call all pictures one class, the network found another than the rest, and some that
    err independently: neither on the pictures nor elsewhere is one better.
    """
    rng = random.Random(1)
    pictures, praised = 200, 0
    for _ in range(400):
        if has_learnt:
            accuracies = [sum(rng.random() < 0.8 for _ in range(pictures)) for _ in range(6)]
        else:
            labels = Counter(rng.choices(range(10), k=pictures))
            accuracies = [labels[0], *[labels[1]] * 5]
        found, *others = (each / pictures for each in accuracies)
        praised += "not shown" not in say(found, others, listed=[found, found], pictures=pictures)
    assert praised / 400 < 0.05


def test_few_pictures_widen_the_interval() -> None:
    text = say(0.74, OTHERS, [0.73, 0.725, 0.735], pictures=900)
    margin = 196 * ((0.74 * 0.26 + 0.7 * 0.3) / 900) ** 0.5
    assert f"± {margin:.1f} points" in text
    assert text.endswith("not shown to be better than chance.")
    assert say(0.74, OTHERS, pictures=10**6) == say(0.74, OTHERS)


@pytest.mark.parametrize("count", [1, 2, 5, 20, 100])
def test_the_best_of_so_many(count: int) -> None:
    rng = random.Random(count)
    best = [max(rng.gauss(0, 1) for _ in range(count)) for _ in range(4000)]
    assert _expected_maximum(count) == pytest.approx(statistics.fmean(best), abs=0.06)
