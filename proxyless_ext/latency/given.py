"""Networks that somebody else measures: what to measure, and what came out, as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import onnx

from ..errors import UserError
from ..files import write_atomically, write_error
from ..spaces import Architecture, Space
from .backends.onnx import to_onnx
from .readout import MILLISECONDS, in_table, is_possible
from .reference import find_network, name_network
from .rows import read_cell, read_rows
from .whole_networks import fresh_network, random_input

NETWORK, ONNX = "network", "onnx"
"""Columns: the names of the candidates at the edges, or a file; and a file that may be there."""

SPREAD = 1.5
"""Of rows about one network, at most: the largest over the smallest."""


def write_plan(
    folder: Path, space: Space, choices: Sequence[Sequence[int]], batch_size: int, unit: str
) -> Path:
    """Write networks to be measured, and a CSV file with a column to be filled in.

    Args:
        folder: to be made.
        space: that the networks are of.
        choices: the networks, each as one candidate index per edge.
        batch_size: pictures in one run.
        unit: of what will be measured: the name of the column.

    Returns:
        The path of the CSV file.

    Raises:
        UserError: something cannot be written, or a network cannot be exported.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    table = folder / "networks.csv"
    if table.exists():
        raise UserError(f"{table} is there; fit to what it holds with --from, or move it away")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([NETWORK, ONNX, unit])
    example = random_input(batch_size, space.stem.in_channels, space.resolution)
    for number, network in enumerate(choices, start=1):
        graph = to_onnx(fresh_network(space.architecture(network)), example)
        file = f"{number:03}.onnx"
        write_atomically(folder / file, graph)
        rows.writerow([name_network(space, network), file, ""])
    write_atomically(table, text.getvalue())
    return table


def read_measured(path: Path, space: Space) -> tuple[dict[Architecture, float], str]:
    """Networks and what was measured of them, from a CSV file or a JSON list.

    Rows have a `network`, as the names of the candidates at the edges such as ``k3e6 zero k5e3`` or
    as the path of an architecture's JSON file, and one more column, whose name is the unit. Rows in
    which it is empty are left out; networks that are there several times have their mean, unless
    these rows contradict each other.

    Returns:
        The networks with their numbers, and their unit; times are in ms.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    found: dict[Architecture, dict[int, float]] = {}
    units = set()
    for number, row in read_rows(path, (NETWORK,)):
        if number == 1:
            _check_plan(path.parent / row.get(ONNX, ""), space)
        unit = _unit(row, path)
        units.add(unit)
        if not row[unit]:
            continue
        value = read_cell(row[unit], path, number)
        if not is_possible(value):
            raise UserError(f"{path}, row {number}: {row[unit]} {unit} cannot be")
        network = _network(row[NETWORK], space, path, number)
        found.setdefault(network, {})[number] = value * MILLISECONDS.get(unit, 1.0)
    if len(units) > 1:
        raise UserError(f"{path} has numbers in {' and '.join(sorted(units))}; take one unit")
    means = {network: _mean(values, path) for network, values in found.items()}
    return means, in_table(units.pop())


def _mean(values: Mapping[int, float], path: Path) -> float:
    """Of what rows say about one network."""
    least, most = (end(values, key=values.__getitem__) for end in (min, max))
    if values[most] > SPREAD * values[least]:
        raise UserError(
            f"{path}: rows {least} and {most} are about one network, which takes {values[least]:g} "
            f"by the one and {values[most]:g} by the other; leave out what was disturbed"
        )
    return fmean(values.values())


def _check_plan(file: Path, space: Space) -> None:
    """Refuse networks that `write_plan` made for another resolution or number of classes."""
    if not file.is_file():
        return
    graph = onnx.load(file).graph
    (pictures,), (logits,) = graph.input, graph.output
    size, classes = (each.type.tensor_type.shape.dim[-1].dim_value for each in (pictures, logits))
    if (size, classes) != (space.resolution, space.num_classes):
        raise UserError(
            f"{file} is for {size} px and {classes} classes, and the space for "
            f"{space.resolution} px and {space.num_classes} classes; give --resolution and "
            "--classes as for the plan"
        )


def _unit(row: dict[str, str], path: Path) -> str:
    columns = [name for name in row if name not in (NETWORK, ONNX)]
    if len(columns) != 1:
        listed = f" ({', '.join(columns)})" if columns else ""
        raise UserError(
            f"{path} has {len(columns)} columns beside '{NETWORK}'{listed}; leave one, named by "
            "its unit, such as ms"
        )
    return columns[0]


def _network(text: str, space: Space, path: Path, number: int) -> Architecture:
    if text.endswith(".json"):
        return Architecture.load(path.parent / text)
    try:
        return find_network(space, text)
    except UserError as error:
        raise UserError(f"{path}, row {number} has no .json file, and {error}") from error
