"""The page about a run for several networks: what was found for each device, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from statistics import fmean
from urllib.parse import quote

from markupsafe import Markup

from ..latency import LatencyTable
from ..runs import Competitor, DeviceCosts, Figures, Run
from ..spaces import Space
from . import figures, words
from .compare import SearchedPoint
from .contents import Contents
from .network_drawing import DRAWINGS, draw_networks
from .preferences import Network, Preference, by_resolution, describe_preferences
from .summary import (
    Paragraph,
    describe_conditions,
    describe_limits,
    describe_reach,
    describe_search,
    describe_time,
)


@dataclass(frozen=True, eq=False)
class Found:
    """A network of the run, and the device that it is for."""

    device: str
    contents: Contents

    @property
    def name(self) -> str:
        """Of the device and the target."""
        return self.contents.network

    @property
    def page(self) -> str:
        """Where its own page is, from this one."""
        return f"networks/{quote(self.name)}/report.html"

    @property
    def is_like(self) -> str:
        """The name of the same network, where it was found before for another device or target."""
        same = self.contents.trained_as
        return same if same != self.name else ""

    @property
    def blocks(self) -> Network | None:
        """Its searched blocks; None before it is derived."""
        space, architecture = self.contents.space, self.contents.architecture
        if space is None or architecture is None:
            return None
        layers = [layer for layer in architecture.layers() if layer.kind == "block"]
        return layers[len(space.fixed_blocks) :]

    def on(self, device: str) -> DeviceCosts:
        """What it takes on a device."""
        return self.contents.result.devices.get(device, DeviceCosts())


@dataclass(frozen=True)
class Front:
    """Accuracy against latency on a device: the chart, or None while nothing is known.

    Attributes:
        lines: yardsticks that are lines there, in words.
        beyond: those that are too slow to be on it.
    """

    device: str
    chart: Markup | None
    lines: str = ""
    beyond: str = ""


@dataclass(frozen=True)
class Beside:
    """What stands beside the networks found: a published network, or the mean of random ones.

    Attributes:
        name: what it is.
        accuracy: if it was trained.
        costs: by the names of devices.
    """

    name: str
    accuracy: float | None
    costs: dict[str, DeviceCosts]

    def on(self, device: str) -> DeviceCosts:
        """What it takes on a device."""
        return self.costs.get(device, DeviceCosts())


class Specialised:
    """The contents of a run for several networks.

    Args:
        run: going on, stopped or finished.

    Raises:
        UserError: a file of the run cannot be understood.
    """

    def __init__(self, run: Run) -> None:
        self.found = [
            Found(device, Contents.load(run, name)) for name, device in run.networks.items()
        ]
        self.any = self.found[0].contents
        self.devices = list(dict.fromkeys(run.networks.values()))

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return self.any.name

    @property
    def tables(self) -> dict[str, LatencyTable | None]:
        """The latency table of each device."""
        return {each.device: each.contents.latency for each in self.found}

    @property
    def finished(self) -> list[Found]:
        """The networks whose training has ended."""
        return [each for each in self.found if each.contents.result.accuracy is not None]

    @property
    def paragraphs(self) -> Iterator[Paragraph]:
        """What was searched, for which devices, and what it took."""
        space = self.any.space
        classes = next((each.contents.result.classes for each in self.finished), ())
        if space is not None:
            yield Paragraph("What", describe_search(space, classes))
        for device, table in self.tables.items():
            if table is not None and space is not None:
                told = f"{describe_conditions(table)}. {describe_reach(table, space)}."
                yield Paragraph(device, told)
        for each in self.found:
            if each.contents.result.limits:
                yield Paragraph(each.name, describe_limits(each.contents))
        if seconds := self.seconds:
            several = words.plural(len(self.found), "network")
            yield Paragraph("How", f"{describe_time(seconds)}, all {several} together.")

    @property
    def seconds(self) -> Counter[str]:
        """What it took, by the kind of the phase."""
        seconds: Counter[str] = Counter()
        for each in self.found:
            if not each.is_like:  # Its training was that of the other.
                seconds.update(each.contents.result.seconds)
        return seconds

    @property
    def drawing(self) -> dict[str, Markup]:
        """Name of a width to the drawing of all networks for it; empty before there is one."""
        known = [each.contents.architecture for each in self.found]
        networks = [each for each in known if each is not None]
        return {
            name: Markup(draw_networks(networks, width))
            for name, width in DRAWINGS.items()
            if networks
        }

    @property
    def fronts(self) -> list[Front]:
        """For every device."""
        return [self._front(device) for device in self.devices]

    @property
    def preferences(self) -> list[str]:
        """What the devices prefer, in words."""
        return describe_preferences(self._blocks)

    @property
    def preference_rows(self) -> dict[str, list[Preference]]:
        """The same in numbers: at every resolution, and over all, by device."""
        return {
            device: [*by_resolution(networks).values(), Preference.of(networks)]
            for device, networks in self._blocks.items()
        }

    @property
    def resolutions(self) -> list[int]:
        """Of the searched blocks' outputs."""
        return list(by_resolution(list(chain.from_iterable(self._blocks.values()))))

    @property
    def best_at_home(self) -> str:
        """How many networks are the most accurate of all that are as fast on their device."""
        own = [each for each in self.finished if each.on(each.device).predicted is not None]
        best = [each for each in own if not any(_beats(other, each) for other in own)]
        return (
            f"Of {words.plural(len(own), 'network')}, {len(best)} are beaten by no other on their "
            "own device: none that is at least as fast there is more accurate."
        )

    @property
    def beside(self) -> list[Beside]:
        """Random networks of the latency of each, as their mean, and the yardsticks."""
        random = [self._mean_of_random(each) for each in self.finished]
        yardsticks: dict[str, dict[str, DeviceCosts]] = {}
        for each in self.found:
            for network in each.contents.comparison.yardsticks:
                costs = DeviceCosts(measured=network.measured, unit=network.unit)
                yardsticks.setdefault(network.name, {})[each.device] = costs
        named = [Beside(name, None, costs) for name, costs in yardsticks.items()]
        return [*(each for each in random if each is not None), *named]

    def _mean_of_random(self, each: Found) -> Beside | None:
        rivals = each.contents.comparison.random
        if not rivals:
            return None
        costs = {
            device: DeviceCosts(
                predicted=_mean(_predict(table, self.any.space, rival) for rival in rivals),
                measured=_mean(r.measured for r in rivals) if device == each.device else None,
                unit=each.on(device).unit,
            )
            for device, table in self.tables.items()
        }
        many = words.plural(len(rivals), "random network")
        accuracy = _mean(rival.accuracy for rival in rivals)
        return Beside(f"{many} like {each.name}, mean", accuracy, costs)

    @property
    def has_yardsticks(self) -> bool:
        """Whether published networks were measured beside them."""
        return any(each.contents.comparison.yardsticks for each in self.found)

    @property
    def _blocks(self) -> dict[str, list[Network]]:
        """The searched blocks of the networks for each device that has some."""
        found = {
            device: [
                each.blocks
                for each in self.found
                if each.device == device and each.blocks is not None
            ]
            for device in self.devices
        }
        return {device: networks for device, networks in found.items() if networks}

    def _front(self, device: str) -> Front:
        table, space = self.tables[device], self.any.space
        searched = {
            each: _point(each.name, each.contents.result, each.on(device).predicted)
            for each in self.finished
        }
        random = [
            _point("", rival, _predict(table, space, rival))
            for each in self.finished
            for rival in each.contents.comparison.random
        ]
        yardsticks: Sequence[Competitor] = next(
            (each.contents.comparison.yardsticks for each in self.found if each.device == device),
            (),
        )
        groups = {
            "for this device": _known(
                point for each, point in searched.items() if each.device == device
            ),
            "for other devices": _known(
                point for each, point in searched.items() if each.device != device
            ),
            "random networks": _known(random),
        }
        if not groups["for this device"]:
            return Front(device, None)
        slowest = max(point.cost for point in chain.from_iterable(groups.values()))
        beyond = [each for each in yardsticks if (each.measured or 0) > 1.5 * slowest]
        near = [each for each in yardsticks if each not in beyond]
        chart = Markup(figures.front(device, table.unit if table else "ms", groups, near))
        lines = [each for each in near if each.accuracy is None]
        return Front(device, chart, _listed(lines), _listed(beyond))


def _mean(values: Iterable[float | None]) -> float | None:
    """None where one is not known."""
    known = list(values)
    return None if None in known else fmean(value for value in known if value is not None)


def _listed(networks: Iterable[Competitor]) -> str:
    """Those whose latency was measured, the fastest first."""
    known = [(each.measured, each) for each in networks if each.measured is not None]
    known.sort(key=itemgetter(0))
    return ", ".join(f"{each.name} ({words.cost(value, each.unit)})" for value, each in known)


def _beats(other: Found, each: Found) -> bool:
    """Whether a network is better than another on that one's device."""
    theirs, own = other.on(each.device).predicted, each.on(each.device).predicted
    accuracy, better = each.contents.result.accuracy, other.contents.result.accuracy
    if theirs is None or own is None or accuracy is None or better is None:
        return False
    return theirs <= own and better > accuracy


def _predict(table: LatencyTable | None, space: Space | None, network: Figures) -> float | None:
    if table is None or space is None or network.choices is None:
        return None
    return table.predict(space.architecture(network.choices))


def _point(name: str, network: Figures, cost: float | None) -> SearchedPoint | None:
    if network.accuracy is None or cost is None:
        return None
    return SearchedPoint(name, network.accuracy, cost, "")


def _known(points: Iterable[SearchedPoint | None]) -> list[SearchedPoint]:
    return [point for point in points if point is not None]
