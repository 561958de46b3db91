"""What a run did and found, in key figures and in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ..errors import UserError
from ..latency import LatencyTable
from ..quantities import COUNTED
from ..spaces import Architecture, Space, parse_operation
from .contents import Contents
from .words import (
    cost,
    cost_name,
    count,
    describe_limit,
    deviation,
    duration,
    networks,
    percent,
    plural,
    square,
)

_LISTED_CLASSES = 12
_STAGES = {
    "measure": "measuring",
    "warmup": "warm-up",
    "search": "search",
    "shortlist": "short list",
    "finalists": "finalists",
    "train": "training",
    "compare": "comparison",
}


@dataclass(frozen=True)
class KeyFigure:
    """A number for the head of the page; `value` is None while it is unknown."""

    label: str
    value: str | None
    note: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A short text under a heading of its own."""

    heading: str
    text: str


def key_figures(contents: Contents) -> list[KeyFigure]:
    """Accuracy, cost and size of the derived network."""
    result, unit = contents.result, contents.result.unit
    written = partial(cost, unit=unit)
    top5 = "" if result.top5 is None else f"top-5: {percent(result.top5)}"

    def shown(value: float | None, write: Callable[[float], str]) -> str | None:
        return None if value is None else write(value)

    measured = [
        KeyFigure(
            "measured latency",
            shown(result.measured, written),
            _deviation(result.measured, result.predicted, "prediction", unit),
        )
    ]
    return [
        KeyFigure("validation accuracy", shown(result.accuracy, percent), top5),
        KeyFigure(
            f"predicted {cost_name(unit)}",
            shown(result.predicted, written),
            _deviation(result.predicted, result.target, "target", unit),
        ),
        *([] if unit in COUNTED else measured),
        KeyFigure("parameters", shown(result.parameters, count)),
        KeyFigure("MACs", shown(result.macs, count)),
    ]


def _deviation(value: float | None, reference: float | None, name: str, unit: str) -> str:
    """2.4 % above the target, 5.00 ms; empty while either is unknown."""
    if value is None or not reference:
        return ""
    return f"{deviation(value, reference, name)}, {cost(reference, unit)}"


def summarise(contents: Contents) -> Iterator[Paragraph]:
    """What was searched, where, how, and what came out."""
    if contents.space is not None:
        yield Paragraph("What", describe_search(contents.space, contents.result.classes))
    yield Paragraph("Where", _where(contents))
    yield Paragraph("How", _how(contents))
    if contents.architecture is not None:
        yield Paragraph("Found", _found(contents.architecture, contents))
    if contents.result.limits:
        yield Paragraph("Limits", describe_limits(contents))


def describe_limits(contents: Contents) -> str:
    """What the network was not to exceed, and what it has."""
    told = (f"{each.name}, {describe_limit(each)}" for each in contents.result.limits)
    return f"{'; '.join(told)}."


def describe_search(space: Space, classes: tuple[str, ...]) -> str:
    """What was searched, and what for."""
    names = ", ".join(classes[:_LISTED_CLASSES])
    if len(classes) > _LISTED_CLASSES:
        names += " …"
    return (
        f"The space '{space.name}' holds {networks(space.num_networks)} networks: one candidate is "
        f"to be chosen at each of {_searched(space)}. They tell "
        f"{plural(space.num_classes, 'class', 'classes')} apart{f' ({names})' if names else ''} in "
        f"pictures of {square(space.resolution)} pixels."
    )


def _searched(space: Space) -> str:
    searched = [group.indices for group in space.groups if group.is_searched]
    edges = plural(sum(map(len, searched)), "edge")
    shared = sum(map(len, searched)) > len(searched)
    return f"{edges}, some of which share one choice" if shared else edges


def _where(contents: Contents) -> str:
    cpu, cores, gpu = (contents.environment.get(key) for key in ("cpu", "cores", "gpu"))
    machine = f"{cpu} ({plural(cores, 'core')})" if cpu and cores else "an unknown machine"
    sentences = [f"Searched on {machine} with {gpu}" if gpu else f"Searched on {machine}"]
    if contents.latency is not None:
        sentences.append(describe_conditions(contents.latency))
        if contents.space is not None:
            sentences.append(describe_reach(contents.latency, contents.space))
    return ". ".join(sentences) + "."


def describe_conditions(table: LatencyTable) -> str:
    """What latencies were measured under, without a full stop."""
    conditions = table.conditions
    if table.unit in COUNTED:
        return f"What networks cost, in {table.unit}, is counted"
    if conditions is None:
        told = "latencies" if table.unit == "ms" else f"costs, in {table.unit},"
        return f"The {told} come from a table without conditions"
    threads = f", {plural(conditions.threads, 'thread')}" if conditions.device == "cpu" else ""
    dtype = f" in {conditions.dtype}" if conditions.dtype != "float32" else ""
    return (
        f"The latencies are for {conditions.processor}, backend {conditions.backend}{dtype}, "
        f"{plural(conditions.batch_size, 'picture')} at a time{threads}"
    )


def describe_reach(table: LatencyTable, space: Space) -> str:
    """What the networks of a space take, without a full stop."""
    try:
        cheapest, dearest = table.bounds(space)
    except UserError as error:
        return str(error)
    return f"The space's networks take {cost(cheapest, table.unit)} to {cost(dearest, table.unit)}"


def _how(contents: Contents) -> str:
    phases = {"warmup": "of warm-up", "search": "of search", "train": "of training"}
    done = [
        f"{plural(records[-1].epoch + 1, 'epoch')} {name}"  # The first of training are finalists'.
        for phase, name in phases.items()
        if (records := contents.phase(phase))
    ]
    sentences = [", ".join(done).capitalize() if done else "No epoch has been recorded yet"]
    if seconds := contents.result.seconds:
        sentences.append(describe_time(seconds))
    if contents.result.seed is not None:
        sentences.append(f"The seed was {contents.result.seed}")
    return ". ".join(sentences) + "."


def describe_time(seconds: Mapping[str, float]) -> str:
    """What a run took, by its phases, without a full stop."""
    parts = ", ".join(f"{_STAGES.get(name, name)} {duration(s)}" for name, s in seconds.items())
    return f"It took {duration(sum(seconds.values()))} ({parts})"


def _found(architecture: Architecture, contents: Contents) -> str:
    """The preferences of the derived network, which its drawing shows too."""
    first = len(contents.space.fixed_blocks) if contents.space else 0
    blocks = architecture.blocks[first:]
    operations = [parse_operation(name) for block in blocks for name in block.chosen]
    done = [operation for operation in operations if not operation.skips]
    looks = [operation.look for operation in done]
    tallies = {
        "kernels": Counter(square(look.kernel_size) for look in looks if look.kernel_size),
        "expansion ratios": Counter(str(look.expand_ratio) for look in looks if look.expand_ratio),
        "others": Counter(each.name for each in done if each.look.kernel_size is None),
    }
    told = "; ".join(f"{what}: {_tally(counter)}" for what, counter in tallies.items() if counter)
    halving = [block.operation for block in blocks if block.stride == 2 and not block.edges]
    skipped = len(operations) - len(done)
    places = plural(len(blocks), "block")
    if len(operations) > len(blocks):
        places += f" with {plural(len(operations), 'edge')}"
    sentences = [f"Of {places}, {skipped or 'none'} skipped"]
    if told:
        sentences.append(told[0].upper() + told[1:])
    if halving:
        sentences.append(f"Where the resolution halves: {', '.join(halving)}")
    if (difference := contents.result.onnx_max_difference) is not None:
        sentences.append(f"Its ONNX export gives the same outputs within {difference:.1e}")
    return ". ".join(sentences) + "."


def _tally(counter: Counter[str]) -> str:
    """3 (4 times), 6 (once)."""
    times = {1: "once", 2: "twice"}
    return ", ".join(
        f"{name} ({times.get(number, f'{number} times')})"
        for name, number in sorted(counter.items())
    )
