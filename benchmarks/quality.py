"""How good searches are, looked up in a ground truth: tables and a figure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import PercentFormatter
from scipy.stats import kendalltau, ttest_1samp
from truth import Truth, TruthNetwork

from proxyless_ext.config import Config
from proxyless_ext.latency import LatencyTable
from proxyless_ext.report.colours import BLUE, GREY, INK, MUTED, ORANGE
from proxyless_ext.report.plot import add_legend, new_figure, save, styled
from proxyless_ext.runs import ScoredNetwork
from proxyless_ext.spaces import Data

DRAWS = 2000
"""Of random rivals, for every search."""

TOP = 10


class SearchScore(Data):
    """What one search came to.

    Attributes:
        seed, target: of the search.
        found: the network, by its choices.
        finalists: those that went on to be trained.
        scored: every network of the band, by the supernet and the alphas at the end.
        trainings: what it cost, in trainings of the network found.
    """

    seed: int
    target: str
    found: tuple[int, ...]
    finalists: tuple[tuple[int, ...], ...]
    scored: tuple[ScoredNetwork, ...]
    trainings: float


class KnownBand:
    """A band of latency, and what its networks come to."""

    def __init__(self, truth: Truth, config: Config, target: str) -> None:
        assert config.latency.table is not None
        bounds = LatencyTable.load(config.latency.table).bounds(truth.space)
        latency = config.latency.model_copy(update={"target": target})
        self.target_ms = latency.target_ms(*bounds)
        self.networks = truth.band(self.target_ms, config.latency.tolerance)
        self.accuracies = sorted(network.accuracy for network in self.networks)
        self.sd = statistics.stdev(self.accuracies)
        self.truth = truth

    def percentile(self, network: TruthNetwork) -> float:
        """The part of the other networks that are worse, of equals the half."""
        worse = sum(accuracy < network.accuracy for accuracy in self.accuracies)
        equal = sum(accuracy == network.accuracy for accuracy in self.accuracies) - 1
        return (worse + equal / 2) / (len(self.networks) - 1)

    def regret(self, network: TruthNetwork) -> float:
        """How far it is behind the best, in standard deviations of the band."""
        return (self.accuracies[-1] - network.accuracy) / self.sd

    def beats(self, network: TruthNetwork, rivals: int, seed: int) -> float:
        """How often it is as good as the best of random networks, or better.

        The best is chosen by the test of one training, and judged by the truth.
        """
        rng = random.Random(seed)
        count = min(rivals, len(self.networks))
        wins = 0
        for _ in range(DRAWS):
            drawn = rng.sample(self.networks, count)
            training = rng.randrange(len(network.trainings))
            best = max(drawn, key=lambda each: each.trainings[training].accuracy)
            wins += network.accuracy >= best.accuracy
        return wins / DRAWS


TRIVIAL: dict[str, Callable[[TruthNetwork, Truth], float]] = {
    "most MACs": lambda network, _: network.macs,
    "fewest parameters": lambda network, _: -network.parameters,
    "most parameters": lambda network, _: network.parameters,
    "deepest": lambda network, truth: sum(
        edge.candidates[choice] != "zero"
        for edge, choice in zip(truth.space.edges, network.choices, strict=True)
    ),
}


def describe(
    truth: Truth, config: Config, scores: Mapping[str, Sequence[SearchScore]]
) -> Iterator[str]:
    """The tables: what was found, what else there is, and what the parts of the search know."""
    targets = dict.fromkeys(score.target for each in scores.values() for score in each)
    bands = {target: KnownBand(truth, config, target) for target in targets}
    yield "| search | runs | trainings | percentile | regret | >= best of 20 | p | >= best of 10 |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, each in scores.items():
        for target in targets:
            yield _found_row(f"{name}, {target}", [s for s in each if s.target == target], bands)
        yield _found_row(f"**{name}**", each, bands)
    for name, value in TRIVIAL.items():
        yield _trivial_row(name, value, bands)
    yield ""
    yield "| search | tau by loss | by alphas | precision at 10 | best of the 10 | of finalists |"
    yield "|---|---|---|---|---|---|"
    for name, each in scores.items():
        for target in targets:
            yield _parts_row(f"{name}, {target}", [s for s in each if s.target == target], bands)
        yield _parts_row(f"**{name}**", each, bands)


def _found_row(name: str, scores: Sequence[SearchScore], bands: Mapping[str, KnownBand]) -> str:
    """What searches found."""
    found = [
        (score, bands[score.target], bands[score.target].truth[score.found]) for score in scores
    ]
    percentiles = [band.percentile(network) for _, band, network in found]
    regrets = [band.regret(network) for _, band, network in found]
    twenty = [band.beats(network, 20, score.seed) for score, band, network in found]
    ten = [band.beats(network, 10, score.seed) for score, band, network in found]
    cells = [
        *(name, str(len(scores)), f"{statistics.fmean(s.trainings for s in scores):.1f}"),
        *(f"{100 * statistics.fmean(percentiles):.1f}", f"{statistics.fmean(regrets):.2f} sd"),
        *(f"{statistics.fmean(twenty):.0%}", _p_value(scores, twenty)),
        f"{statistics.fmean(ten):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _p_value(scores: Sequence[SearchScore], wins: Sequence[float]) -> str:
    """That the rate is above a half only by chance; runs of one seed count as one."""
    by_seed: dict[int, list[float]] = {}
    for score, win in zip(scores, wins, strict=True):
        by_seed.setdefault(score.seed, []).append(win)
    means = [statistics.fmean(each) for each in by_seed.values()]
    if len(means) < 2 or len(set(means)) == 1:
        return "-"
    return f"{ttest_1samp(means, 0.5, alternative='greater').pvalue:.2g}"


def _trivial_row(
    name: str, value: Callable[[TruthNetwork, Truth], float], bands: Mapping[str, KnownBand]
) -> str:
    chosen = [
        (band, max(band.networks, key=lambda each: value(each, band.truth)))
        for band in bands.values()
    ]
    percentile = statistics.fmean(band.percentile(network) for band, network in chosen)
    regret = statistics.fmean(band.regret(network) for band, network in chosen)
    return f"| {name} | {len(chosen)} | 0 | {100 * percentile:.1f} | {regret:.2f} sd | - | - | - |"


def _parts_row(name: str, scores: Sequence[SearchScore], bands: Mapping[str, KnownBand]) -> str:
    """What the supernet and the alphas know of the band."""
    rows = []
    for score in scores:
        band = bands[score.target]
        truths = [band.truth[each.choices] for each in score.scored]
        accuracies = [network.accuracy for network in truths]
        by_loss = sorted(score.scored, key=lambda each: each.loss)[:TOP]
        best = [band.truth[each.choices] for each in by_loss]
        order = sorted(accuracies, reverse=True)
        finalists = [band.percentile(band.truth[each]) for each in score.finalists]
        rows.append(
            (
                kendalltau([-each.loss for each in score.scored], accuracies).statistic,
                kendalltau([each.log_probability for each in score.scored], accuracies).statistic,
                statistics.fmean(network.accuracy >= order[TOP - 1] for network in best),
                max(band.percentile(network) for network in best),
                statistics.fmean(finalists),
            )
        )
    loss, alphas, precision, best_of, finalists_mean = map(
        statistics.fmean, zip(*rows, strict=True)
    )
    return (
        f"| {name} | {loss:.2f} | {alphas:.2f} | {precision:.0%} | {100 * best_of:.0f} "
        f"| {100 * finalists_mean:.0f} |"
    )


@styled
def draw_scores(
    truth: Truth, config: Config, scores: Mapping[str, Sequence[SearchScore]], path: Path
) -> None:
    """Every search's percentile, by settings and target."""
    targets = dict.fromkeys(score.target for each in scores.values() for score in each)
    bands = {target: KnownBand(truth, config, target) for target in targets}
    figure = new_figure(740, 150 + 60 * len(scores))
    axes = figure.subplots()
    for row, each in enumerate(scores.values()):
        for target, colour, shift in zip(
            targets, (BLUE, ORANGE, GREY), (-0.2, 0, 0.2), strict=False
        ):
            found = [
                bands[target].percentile(truth[score.found])
                for score in each
                if score.target == target
            ]
            label = f"target {target}" if row == 0 else None
            axes.scatter(
                found, [row + shift] * len(found), color=colour, s=30, alpha=0.6, label=label
            )
        mean = statistics.fmean(bands[s.target].percentile(truth[s.found]) for s in each)
        axes.vlines(mean, row - 0.35, row + 0.35, INK, linewidth=2)
    axes.set_yticks(range(len(scores)), list(scores), color=INK)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("part of the band that is worse than the network found", color=MUTED)
    add_legend(axes, 3)
    save(figure, path)
