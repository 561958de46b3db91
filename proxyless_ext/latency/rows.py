"""Rows of CSV files and of JSON lists, with errors as one sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..documents import parse_document
from ..errors import UserError


def read_rows(path: str | Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, or of a JSON list of objects, as text by column.

    Args:
        path: of the file; its name says which of them it is.
        needed: columns that it must have.

    Yields:
        The number of a row, counted from 1 without the header, and its cells.

    Raises:
        UserError: the file cannot be read, or a row lacks a column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from error
    rows = _parse(text, path)
    if not rows:
        raise UserError(f"{path} holds no rows; it needs the columns {', '.join(needed)}")
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in needed if name not in row]:
            raise UserError(f"{path}, row {number}: the column {missing[0]} is missing")
        yield number, {name: "" if cell is None else str(cell) for name, cell in row.items()}


def read_cell(cell: str, path: str | Path, number: int) -> int | float:
    """The number in a cell.

    Raises:
        UserError: there is something else.
    """
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(f"{path}, row {number}: '{cell}' is no number") from error


def _parse(text: str, path: str | Path) -> list[dict[str, Any]]:
    if Path(path).suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(text), restkey="", strict=True))
        for number, row in enumerate(rows, start=1):
            if "" in row or None in row.values():
                raise UserError(f"{path}, row {number} has more or fewer cells than the header")
        return rows
    value = parse_document(text, str(path))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(f"{path} must hold a list of rows, each with names and values")
    return value
