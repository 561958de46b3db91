"""The page about a run for several sizes: which width and resolution is best on each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..runs import Result, Run
from ..spaces import read_mapping
from . import figures, words
from .compare import SearchedPoint, pareto_front
from .specialised import Found, Specialised
from .summary import Paragraph, describe_time


@dataclass(frozen=True)
class Sized:
    """What a size has for one device and target.

    Attributes:
        size: its name.
        found: the trained network; None where there is none.
        is_beyond: whether there is none because the target is out of the size's reach.
    """

    size: str
    found: Found | None
    is_beyond: bool

    @property
    def page(self) -> str:
        """Where the page of the network is, from this one."""
        return f"sizes/{self.size}/{self.found.page}" if self.found else ""

    @property
    def result(self) -> Result:
        """Its figures."""
        return self.found.contents.result if self.found else Result()


@dataclass(frozen=True)
class OnDevice:
    """The networks of all sizes for one device.

    Attributes:
        device: its name.
        columns: what each size has, by the targets that were asked for.
    """

    device: str
    columns: dict[str, list[Sized]]

    @property
    def rows(self) -> list[tuple[Sized, ...]]:
        """The same by sizes."""
        return list(zip(*self.columns.values(), strict=True))

    @property
    def best(self) -> list[float | None]:
        """The highest accuracy for each target; None before a network is trained."""
        return [
            max((accuracy for accuracy, _ in _ranked(column)), default=None)
            for column in self.columns.values()
        ]

    @property
    def unit(self) -> str:
        """Of costs on the device."""
        return next(each.result.unit for row in self.rows for each in row if each.found)

    @property
    def points(self) -> list[SearchedPoint]:
        """The trained networks, grouped by their sizes."""
        return [
            SearchedPoint(target, each.result.accuracy, each.result.predicted, each.size)
            for target, column in self.columns.items()
            for each in column
            if each.result.accuracy is not None and each.result.predicted is not None
        ]

    @property
    def chart(self) -> Markup | None:
        """Accuracy against cost; None before a network is trained."""
        return Markup(figures.sizes(self.device, self.unit, self.points)) if self.points else None

    @property
    def verdict(self) -> str:
        """Which sizes are best, in words."""
        if not self.points:
            return "No network for it has been trained yet."
        of_targets = (_describe_target(target, each) for target, each in self.columns.items())
        return " ".join(filter(None, (_describe_front(self.points, self.unit), *of_targets)))


class Sizes:
    """The contents of a run for several sizes.

    Args:
        run: going on, stopped or finished.

    Raises:
        UserError: a file of the run cannot be understood.
    """

    def __init__(self, run: Run) -> None:
        self.name = run.folder.resolve().name
        self.config = run.config_path.read_text()
        self.environment = read_mapping(run.environment_path)
        self.asked = run.networks
        self.parts = run.sizes
        self.searched = {
            size: Specialised(part)
            for size, part in self.parts.items()
            if part.has_begun and part.networks
        }

    @property
    def paragraphs(self) -> Iterator[Paragraph]:
        """What was searched, what is best on each device, and what it took."""
        sizes = words.plural(len(self.parts), "size")
        yield Paragraph(
            "What",
            f"A space at {sizes}, each with a supernet of its own. A size is called after its "
            "width multiplier, w, and the height and width of its pictures in pixels, r.",
        )
        for device in self.devices:
            yield Paragraph(device.device, device.verdict)
        seconds: Counter[str] = Counter()
        for part in self.searched.values():
            seconds.update(part.seconds)
        if seconds:
            yield Paragraph("How", f"{describe_time(seconds)}, all {sizes} together.")

    @property
    def devices(self) -> list[OnDevice]:
        """The networks for each device."""
        return [
            OnDevice(
                device,
                {
                    name.removeprefix(f"{device}-"): [
                        self._sized(size, name) for size in self.parts
                    ]
                    for name, owner in self.asked.items()
                    if owner == device
                },
            )
            for device in dict.fromkeys(self.asked.values())
        ]

    @property
    def has_percentages(self) -> bool:
        """Whether a target is another one at every size."""
        return any(name.endswith("%") for name in self.asked)

    def state(self, size: str) -> str:
        """How far a size has come."""
        part = self.parts[size]
        if not part.has_begun:
            return "not begun"
        if not part.networks:
            return words.BEYOND
        return "finished" if part.has_ended else "begun"

    def reach(self, size: str, device: str) -> str | None:
        """What the networks of a size take on a device; None while that is unknown."""
        part = self.searched.get(size)
        if part is None or part.any.space is None or (table := part.tables.get(device)) is None:
            return None
        return " to ".join(words.cost(cost, table.unit) for cost in table.bounds(part.any.space))

    def _sized(self, size: str, name: str) -> Sized:
        """What a size has of the networks that were asked for."""
        part, searched = self.parts[size], self.searched.get(size)
        finished = searched.finished if searched else []
        found = next((each for each in finished if each.name == name), None)
        return Sized(size, found, is_beyond=part.has_begun and name not in part.networks)


def _ranked(column: Sequence[Sized]) -> list[tuple[float, str]]:
    """Accuracies and sizes of trained networks, the best first."""
    trained = [(each.result.accuracy, each.size) for each in column]
    known = [(accuracy, size) for accuracy, size in trained if accuracy is not None]
    return sorted(known, key=lambda each: -each[0])


def _describe_front(points: Sequence[SearchedPoint], unit: str) -> str:
    """Which networks no other beats, from the cheapest on, and which sizes have none of them."""
    front = pareto_front(points)
    best = {each.group for each in front}
    told = ", then ".join(
        f"{each.group} ({words.cost(each.cost, unit)}, {words.percent(each.accuracy)})"
        for each in front
    )
    beaten = ", ".join(dict.fromkeys(each.group for each in points if each.group not in best))
    others = f" Every network of {beaten} is beaten by one that costs no more." if beaten else ""
    return f"Most accurate for their {words.cost_name(unit)}: {told}.{others}"


def _describe_target(target: str, column: Sequence[Sized]) -> str:
    """Which size does best for a target, where that is the same at every size."""
    ranked = _ranked(column)
    if target.endswith("%") or not ranked:
        return ""
    (first, best), *others = ranked
    told = f"At {target} {best} does best: {words.percent(first)}"
    if others:
        second, next_best = others[0]
        ahead = f"{words.points(first - second)} ahead of" if first > second else "the same as"
        told = f"{told}, {ahead} {next_best}"
    beyond = ", ".join(each.size for each in column if each.is_beyond)
    return f"{told}; it is out of reach at {beyond}." if beyond else f"{told}."
