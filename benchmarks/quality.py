"""How good searches are, looked up in a ground truth: tables and a figure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matplotlib.ticker import PercentFormatter
from scipy.stats import kendalltau, ttest_1samp

from proxyless_ext.config import LatencyConfig
from proxyless_ext.latency import LatencyTable
from proxyless_ext.report.colours import BLUE, GREY, INK, MUTED, ORANGE
from proxyless_ext.report.plot import add_legend, new_figure, save, styled
from proxyless_ext.runs import ScoredNetwork
from proxyless_ext.search.finalists import rounds
from proxyless_ext.search.short_list import best_first
from proxyless_ext.spaces import StrictModel, parse_operation

from .truth import Training, Truth, TruthNetwork

DRAWS = 2000
"""Of random rivals, for every search."""

TOP = 10

HEADS = (
    "search",
    *("runs", "trainings", "percentile", "regret"),
    *("as good as best of 20", "p", "as best of 10", "as best of 20 by loss", "p"),
)
PARTS = (
    "search",
    *("tau by loss", "by path scores", "by both", "by alphas"),
    *("precision at 10", "best of these", "finalists"),
)


class SearchScore(StrictModel):
    """What one search came to.

    Attributes:
        seed, target: of the search.
        finalists: the best of its short list; the one it found where it had none.
        round: the first one of the finalists, as a part of a training.
        scored: every network of the band, by the supernet and the alphas at the end.
        trainings: what it cost up to there, in trainings of one network.
    """

    seed: int
    target: str
    finalists: tuple[tuple[int, ...], ...]
    round: float
    scored: tuple[ScoredNetwork, ...]
    trainings: float


def by_test(training: Training) -> float:
    """Chooses by the very pictures that the truth is told by, which is an advantage."""
    return training.accuracy


def by_loss(training: Training) -> float:
    """Chooses by what finalists are chosen by."""
    return -training.loss_between(0.5, 1.0)


class KnownBand:
    """A band of latency, and what its networks come to."""

    def __init__(self, truth: Truth, latency: LatencyConfig) -> None:
        assert latency.table is not None
        target = latency.target_of(LatencyTable.load(latency.table).costs(truth.space))
        self.truth = truth
        self.networks = truth.band(target, latency.tolerance)
        self.accuracies = sorted(network.accuracy for network in self.networks)

    @cached_property
    def sd(self) -> float:
        """Standard deviation of the networks' accuracies."""
        return statistics.stdev(self.accuracies)

    def percentile(self, network: TruthNetwork) -> float:
        """The part of the other networks that are worse, of equals the half."""
        worse = sum(accuracy < network.accuracy for accuracy in self.accuracies)
        equal = sum(accuracy == network.accuracy for accuracy in self.accuracies) - 1
        return (worse + equal / 2) / (len(self.networks) - 1)

    def regret(self, network: TruthNetwork) -> float:
        """How far it is behind the best, in standard deviations of the band."""
        return (self.accuracies[-1] - network.accuracy) / self.sd

    def matches(
        self,
        network: TruthNetwork,
        rivals: int,
        seed: int,
        worth: Callable[[Training], float] = by_test,
    ) -> float:
        """How often it is as good as the best of random networks, or better.

        Args:
            network: of the band.
            rivals: how many are drawn.
            seed: draws them.
            worth: what the best is chosen by, in one training; it is judged by the truth.
        """
        rng = random.Random(seed)
        count = min(rivals, len(self.networks))
        wins = 0
        for _ in range(DRAWS):
            training = rng.randrange(len(network.trainings))
            drawn = rng.sample(self.networks, count)
            best = max(drawn, key=lambda each: worth(each.trainings[training]))
            wins += network.accuracy >= best.accuracy
        return wins / DRAWS


@dataclass(frozen=True)
class Found:
    """What a search found, among the networks of its band.

    Attributes:
        score: of the search.
        band: of its target.
        network: the one that was left of the finalists.
        trainings: what it cost, finalists included.
    """

    score: SearchScore
    band: KnownBand
    network: TruthNetwork
    trainings: float

    @classmethod
    def of(cls, score: SearchScore, band: KnownBand) -> Found:
        """Let the finalists compete as in `search.finalists`, by the trainings of the truth.

        Seeds take turns, so that every other search trains with the second.
        """
        left = [band.truth[choices] for choices in score.finalists]
        seed = score.seed % len(left[0].trainings)
        trainings = score.trainings
        for each in rounds(len(left), score.round):
            left = left[: each.finalists]
            end = score.round * each.end
            trainings += score.round * (each.end - each.start) * len(left)
            left.sort(key=lambda network: network.trainings[seed].loss_between(end / 2, end))
        return cls(score, band, left[0], trainings)


TRIVIAL: dict[str, Callable[[TruthNetwork, Truth], float]] = {
    "most MACs": lambda network, _: network.macs,
    "most parameters": lambda network, _: network.parameters,
    "fewest parameters": lambda network, _: -network.parameters,
    "deepest, then most MACs": lambda network, truth: (
        network.macs / 1e12
        + sum(
            not parse_operation(block.operation).skips
            for block in truth.space.architecture(network.choices).blocks
        )
    ),
}


def look_up(
    truth: Truth, latency: LatencyConfig, scores: Mapping[str, Sequence[SearchScore]]
) -> dict[str, list[Found]]:
    """What searches found, by the name of their settings."""
    targets = {score.target for each in scores.values() for score in each}
    bands = {
        target: KnownBand(truth, latency.model_copy(update={"target": target}))
        for target in targets
    }
    return {
        name: [Found.of(score, bands[score.target]) for score in each]
        for name, each in scores.items()
    }


def describe(found: Mapping[str, Sequence[Found]]) -> Iterator[str]:
    """The tables: what was found, what else there is, and what the parts of the search know."""
    yield from _table(HEADS, found, _found_cells)
    bands = {each.score.target: each.band for searches in found.values() for each in searches}
    for name, value in TRIVIAL.items():
        yield _row([name, *_trivial_cells(value, list(bands.values()))])
    yield ""
    yield from _table(PARTS, found, _part_cells)


def _table(
    heads: Sequence[str],
    found: Mapping[str, Sequence[Found]],
    cells: Callable[[Sequence[Found]], Sequence[str]],
) -> Iterator[str]:
    """A row for each name and target, and one for each name."""
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for name, searches in found.items():
        for target in sorted({each.score.target for each in searches}):
            chosen = [each for each in searches if each.score.target == target]
            yield _row([f"{name}, {target}", *cells(chosen)])
        yield _row([f"**{name}**", *cells(searches)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _found_cells(searches: Sequence[Found]) -> list[str]:
    """What searches found."""
    percentile = statistics.fmean(each.band.percentile(each.network) for each in searches)
    regret = statistics.fmean(each.band.regret(each.network) for each in searches)
    twenty, ten, twenty_by_loss = (
        [each.band.matches(each.network, rivals, each.score.seed, worth) for each in searches]
        for rivals, worth in ((20, by_test), (10, by_test), (20, by_loss))
    )
    return [
        str(len(searches)),
        f"{statistics.fmean(each.trainings for each in searches):.1f}",
        f"{100 * percentile:.1f}",
        f"{regret:.2f} sd",
        f"{statistics.fmean(twenty):.0%}",
        _p_value(searches, twenty),
        f"{statistics.fmean(ten):.0%}",
        f"{statistics.fmean(twenty_by_loss):.0%}",
        _p_value(searches, twenty_by_loss),
    ]


def _p_value(searches: Sequence[Found], wins: Sequence[float]) -> str:
    """That the rate is above a half only by chance; searches of one seed count as one."""
    by_seed: dict[int, list[float]] = {}
    for each, win in zip(searches, wins, strict=True):
        by_seed.setdefault(each.score.seed, []).append(win)
    means = [statistics.fmean(each) for each in by_seed.values()]
    if len(set(means)) < 2:
        return "-"
    return f"{ttest_1samp(means, 0.5, alternative='greater').pvalue:.2g}"


def _trivial_cells(
    value: Callable[[TruthNetwork, Truth], float], bands: Sequence[KnownBand]
) -> list[str]:
    chosen = [
        (band, max(band.networks, key=lambda network: value(network, band.truth))) for band in bands
    ]
    percentile = statistics.fmean(band.percentile(network) for band, network in chosen)
    regret = statistics.fmean(band.regret(network) for band, network in chosen)
    return [str(len(bands)), "0", f"{100 * percentile:.1f}", f"{regret:.2f} sd", *["-"] * 5]


def _part_cells(searches: Sequence[Found]) -> list[str]:
    """What the supernet and the alphas know of the band, as means over searches."""
    rows = []
    for each in searches:
        band, scored = each.band, each.score.scored
        networks = {network.choices: band.truth[network.choices] for network in scored}
        accuracies = [network.accuracy for network in networks.values()]
        order = best_first(scored, lambda loss, _: loss)
        best = [networks[network.choices] for network in order[:TOP]]
        places = {network.choices: -place for place, network in enumerate(order)}
        bar = sorted(accuracies)[-TOP]
        finalists = [band.percentile(band.truth[choices]) for choices in each.score.finalists]
        rows.append(
            (
                *(
                    kendalltau(scores, accuracies).statistic
                    for scores in (
                        [-network.loss for network in scored],
                        [-network.path_loss for network in scored],
                        [places[network.choices] for network in scored],
                        [network.log_probability for network in scored],
                    )
                ),
                statistics.fmean(network.accuracy >= bar for network in best),
                max(map(band.percentile, best)),
                statistics.fmean(finalists),
            )
        )
    *taus, precision, top, finalist = map(statistics.fmean, zip(*rows, strict=True))
    percentiles = [f"{100 * top:.0f}", f"{100 * finalist:.0f}"]
    return [*(f"{tau:.2f}" for tau in taus), f"{precision:.0%}", *percentiles]


@styled
def draw(found: Mapping[str, Sequence[Found]], path: Path) -> None:
    """Where in its band every search ended, by settings and target."""
    targets = sorted({each.score.target for searches in found.values() for each in searches})
    figure = new_figure(740, 130 + 70 * len(found))
    axes = figure.subplots()
    looks = list(zip(targets, (BLUE, ORANGE, GREY), (-0.2, 0, 0.2), strict=False))
    for row, searches in enumerate(found.values()):
        places = [each.band.percentile(each.network) for each in searches]
        for target, colour, shift in looks:
            chosen = [
                place
                for place, each in zip(places, searches, strict=True)
                if each.score.target == target
            ]
            label = f"target {target}" if row == 0 else None
            heights = [row + shift] * len(chosen)
            axes.scatter(chosen, heights, s=34, color=colour, alpha=0.6, label=label)
        mean = statistics.fmean(places)
        name = "mean" if row == 0 else ""
        axes.vlines(mean, row - 0.38, row + 0.38, INK, linewidth=2, label=name)
    axes.set_yticks(range(len(found)), list(found), color=INK)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("part of the band's networks that are worse than the one found", color=MUTED)
    add_legend(axes, 4)
    save(figure, path)
