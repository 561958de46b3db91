"""The page about one run: everything there is to see, in one HTML file that needs nothing else."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ..errors import UserError
from ..files import make_folder, write_atomically
from ..runs import Competitor, Run
from ..spaces import Layer, Space, parse_operation
from . import figures, words
from .colours import operation_colour
from .contents import Contents
from .network_drawing import DRAWINGS, draw_network
from .sizes import Sizes
from .specialised import Specialised
from .summary import key_figures, summarise

_PHASES = (
    ("warmup", "Warm-up", (("", "training"), ("val_", "validation"))),
    ("search", "Search", (("", "weight steps"), ("gate_", "gate steps"))),
    ("train", "Training of the derived network", (("", "training"), ("val_", "validation"))),
)


@dataclass(frozen=True)
class EdgePanel:
    """One choice in the figure of probabilities: its edges, what was chosen, and how probable that
    is, and the chart. The edges inside a block have one for all, with means of probabilities.
    """

    label: str
    shapes: str
    choice: str
    probability: float
    chart: Markup


@dataclass(frozen=True)
class LayerCosts:
    """The layers of the derived network with what they cost, or why that is not known."""

    layers: tuple[Layer, ...]
    costs: tuple[float, ...] = ()
    chart: Markup | None = None
    problem: str = ""


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    What the run has not come to yet, the page names as missing. A run for several networks has a
    page for each beside the one about all, and so has one for several sizes.

    Raises:
        UserError: there is no run in the folder or no network in the run, a file of it cannot be
            understood, or the page cannot be written.
    """
    run = Run.open(run_folder)
    if not run.networks:
        raise UserError(f"the run in {run.folder} has no networks: all targets are out of reach")
    if run.sizes:
        for part in run.sizes.values():
            if part.has_begun and part.networks:
                write_report(part.folder)
        page = _template("sizes.html").render(run=Sizes(run))
    elif run.networks == {"": ""}:
        page = render(Contents.load(run))
    else:
        for name in run.networks:
            own = make_folder(run.outcome_of(name).folder) / run.report_path.name
            _write(render(Contents.load(run, name)), own)
        page = _template("specialised.html").render(run=Specialised(run))
    _write(page, run.report_path)
    return run.report_path


def _write(page: str, path: Path) -> None:
    write_atomically(path, page.encode(errors="replace"))  # Paths need not be text.


def describe_verdict(run: Run, network: str = "") -> str:
    """Whether a run's search was worth it, in one sentence.

    Args:
        run: of the search.
        network: the name of one, in a run for several.

    Raises:
        UserError: a file of the run cannot be understood.
    """
    return (
        Contents.load(run, network).verdict or "No other networks have been trained beside it yet."
    )


def render(contents: Contents) -> str:
    """The page about one network as HTML."""
    return _template("template.html").render(
        run=contents,
        key_figures=key_figures(contents),
        paragraphs=list(summarise(contents)),
        drawings=_drawings(contents),
        candidates=_candidates(contents),
        edges=list(_edge_panels(contents)),
        cost_chart=_cost_chart(contents),
        learning_charts=_learning_charts(contents),
        layer_costs=_layer_costs(contents),
        comparison_chart=_comparison_chart(contents),
        comparison_rows=_comparison_rows(contents),
        operations=lambda choices: _operations(contents, choices),
    )


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("proxyless_ext", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"words": words, "operation_colour": operation_colour}
    return environment.get_template(name)


def _drawings(contents: Contents) -> dict[str, Markup]:
    """Name of a width to the drawing for it; empty before a network is derived."""
    if contents.architecture is None:
        return {}
    return {
        name: Markup(draw_network(contents.architecture, width)) for name, width in DRAWINGS.items()
    }


def _candidates(contents: Contents) -> list[str]:
    """Every candidate of the searched edges once."""
    groups = contents.space.groups if contents.space else ()
    return list(
        dict.fromkeys(name for group in groups if group.is_searched for name in group.candidates)
    )


def _operations(contents: Contents, choices: Sequence[int]) -> str:
    """A network as what it chose at the searched edges: k3e3 - k5e6, with - for a skipped layer.

    Where blocks have several edges, how often it chose what.
    """
    groups = contents.space.groups if contents.space else ()
    names = (
        group.candidates[choice]
        for group, choice in zip(groups, choices, strict=True)
        if group.is_searched
    )
    if contents.space and any(len(block.edges) > 1 for block in contents.space.searched_blocks):
        return ", ".join(f"{name} {number}" for name, number in Counter(names).most_common())
    return " ".join("-" if parse_operation(name).skips else name for name in names)


def _edge_panels(contents: Contents) -> Iterator[EdgePanel]:
    records = [record.probabilities for record in contents.search]
    if contents.space is None or not records:
        return
    choices = contents.derived_operations
    layers = contents.space.edge_layers()
    groups = contents.space.groups
    for numbers in _drawn_together(contents.space):
        candidates = groups[numbers[0]].candidates
        rows = [
            [statistics.fmean(each) for each in zip(*(row[n] for n in numbers), strict=True)]
            for row in records
        ]
        last = dict(zip(candidates, rows[-1], strict=True))
        indices = [index for number in numbers for index in groups[number].indices]
        taken = Counter(choices[index] for index in indices) if choices else last
        choice = max(taken, key=taken.__getitem__)
        label = ", ".join(str(index + 1) for index in indices)
        if len(numbers) > 1:
            label = f"{min(indices) + 1} to {max(indices) + 1}"
        shapes = dict.fromkeys(words.shapes(layers[index][0]) for index in indices)
        yield EdgePanel(
            label=label,
            shapes="; ".join(shapes),
            choice=choice,
            probability=last[choice],
            chart=Markup(figures.edge_probabilities(rows, groups[numbers[0]], label)),
        )


def _drawn_together(space: Space) -> list[tuple[int, ...]]:
    """The searched groups of edges, by their numbers: those inside one block together."""
    group_of = {
        index: number for number, group in enumerate(space.groups) for index in group.indices
    }
    numbers = (group_of[index] for index in range(len(space.edges)))
    blocks = [tuple(islice(numbers, len(block.edges))) for block in space.searched_blocks]
    return [each for each in dict.fromkeys(blocks) if space.groups[each[0]].is_searched]


def _cost_chart(contents: Contents) -> Markup | None:
    records = contents.search
    if not records:
        return None
    return Markup(figures.cost_over_search(records, contents.tolerance))


def _learning_charts(contents: Contents) -> list[tuple[str, Markup | None]]:
    """Title and chart of each phase; no chart before its first epoch has ended."""
    charts = []
    for name, title, lines in _PHASES:
        records = contents.phase(name)
        chart = figures.learning_curves(records, name, lines) if records else None
        charts.append((title, Markup(chart) if chart else None))
    return charts


def _layer_costs(contents: Contents) -> LayerCosts:
    if contents.architecture is None:
        return LayerCosts((), problem="No network has been derived yet.")
    layers = tuple(contents.architecture.layers())
    if contents.latency is None:
        return LayerCosts(layers, problem="No latencies have been measured yet.")
    try:
        costs = tuple(contents.latency.latency(layer) for layer in layers)
    except UserError as error:
        return LayerCosts(layers, problem=str(error))
    chart = figures.layer_costs(layers, costs, contents.unit)
    return LayerCosts(layers, costs, Markup(chart))


def _comparison_chart(contents: Contents) -> Markup | None:
    comparison = contents.comparison
    if not (comparison.random or comparison.short_list or comparison.yardsticks):
        return None
    return Markup(figures.accuracy_against_cost(contents.derived, comparison))


def _comparison_rows(contents: Contents) -> list[tuple[Competitor, str]]:
    """Networks with the standard deviation of their accuracy, for the mean of the random ones."""
    random, short_list = contents.comparison.random, contents.comparison.short_list
    rows = [(contents.derived, ""), *((network, "") for network in (*short_list, *random))]
    accuracies = [network.accuracy for network in random if network.accuracy is not None]
    if len(accuracies) > 1:
        mean = Competitor(
            name=f"mean of {len(accuracies)} random networks", accuracy=statistics.mean(accuracies)
        )
        rows.append((mean, f" ± {100 * statistics.stdev(accuracies):.1f}"))
    return [*rows, *((network, "") for network in contents.comparison.yardsticks)]
