"""Whether a search was worth it: the network it found beside others that were trained alike.

One training of one network tells little, so the sentence says how sure it is: by how random
networks spread, and by how many pictures their accuracies are of. The spread holds the sampling
error of the pictures where networks err on different ones, but networks that have learnt little may
agree by accident, as those do that call all pictures the same. A network of the
same latency could have been drawn at random; so could as many as the search's compute would have
trained, and the best of them taken.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..runs import Comparison, Competitor
from .words import percent, points

CONFIDENCE = 0.95

NEGLIGIBLE = 1e-6
"""A standard deviation below it is one of equals, among which no test decides."""


def verdict(
    derived: Competitor,
    comparison: Comparison,
    trainings: float | None,
    pictures: int | None = None,
) -> str | None:
    """The verdict in words; None where fewer than two random networks were trained.

    Args:
        derived: the network found.
        comparison: the others.
        trainings: what the search cost, in trainings of one network; None if it is not known.
        pictures: that accuracies are of; None if that is not known.
    """
    random, listed = _accuracies(comparison.random), _accuracies(comparison.short_list)
    if derived.accuracy is None or len(random) < 2:
        return None
    from scipy import stats  # Here, because it takes long to import.

    mean, deviation = statistics.fmean(random), statistics.stdev(random)
    difference = round(derived.accuracy - mean, 9)  # Of equals there is none.
    # Of one more network from the same distribution, as chance would have given it.
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(random) - 1)
    spread = quantile * deviation * math.sqrt(1 + 1 / len(random))
    sampling = _sampling_margin(derived.accuracy, mean, pictures)
    margin = min(max(spread, sampling), 1.0)  # Of accuracies, which differ by no more.
    beaten = sum(derived.accuracy > other for other in random)
    parts = [
        f"The network found reaches {percent(derived.accuracy)}: {_beside(difference)} the mean of "
        f"{len(random)} random networks of its latency (95 % interval of such a difference by "
        f"chance: ± {points(margin)}), and it beats {beaten} of them"
    ]
    is_better = difference > margin
    if len(listed) > 1 and min(deviation, statistics.stdev(listed)) > NEGLIGIBLE:
        gain = statistics.fmean(listed) - mean
        chance = stats.ttest_ind(listed, random, equal_var=False, alternative="greater").pvalue
        is_better |= min(difference, gain) > sampling and chance < 1 - CONFIDENCE
        parts.append(
            f"{len(listed)} others of its short list are on average {_beside(gain)} that mean "
            f"(p = {chance:.2g})"
        )
    is_worth_it = is_better
    if trainings is not None:
        best = mean + deviation * _expected_maximum(trainings)
        is_worth_it &= derived.accuracy >= best
        parts.append(
            f"the search cost as much as {trainings:.1f} trainings, and the best of so many random "
            f"networks can be expected to reach {percent(best)}"
        )
    if is_worth_it:
        end = "the search was worth it"
    elif is_better:
        end = "better than chance, but the same compute would have found its like at random"
    else:
        end = "not shown to be better than chance"
    return f"{'; '.join(parts)}: {end}."


def _sampling_margin(one: float, other: float, pictures: int | None) -> float:
    """By how much two accuracies may differ, binomially, because of the pictures they are of."""
    if pictures is None:
        return 0.0
    variance = (one * (1 - one) + other * (1 - other)) / pictures
    return statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(variance)


def _accuracies(networks: Sequence[Competitor]) -> list[float]:
    return [network.accuracy for network in networks if network.accuracy is not None]


def _beside(difference: float) -> str:
    return f"{points(abs(difference))} {'above' if difference >= 0 else 'below'}"


def _expected_maximum(count: float) -> float:
    """Of so many draws from the standard normal distribution (Blom, 1958)."""
    count = max(count, 1.0)
    return statistics.NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
