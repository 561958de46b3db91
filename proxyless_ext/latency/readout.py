"""The number that a program prints about what it measured."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

from pydantic import Field, model_validator

from ..errors import UserError
from ..spaces import StrictModel

MILLISECONDS = {
    **dict.fromkeys(("ns", "nsec", "nanoseconds"), 1e-6),
    **dict.fromkeys(("us", "\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s", "usec"), 1e-3),
    "microseconds": 1e-3,
    **dict.fromkeys(("ms", "msec", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "seconds"), 1e3),
}
"""What units of time are in ms, as programs write them."""

_NUMBER = re.compile(
    r"(?<![\w./\\])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?:nan|inf(?:inity)?)\b)",
    re.IGNORECASE,
)
_TIME = re.compile(rf"[ \t]*({'|'.join(MILLISECONDS)})\b")
_NO_TIME = re.compile(r"[ \t]*([GMkmunp]?(?:J|Wh|W|B|MACs|params))\b")

_MOST = 1e100
"""Of whatever is measured: its square is a number, too."""


def is_possible(value: float) -> bool:
    """Whether something can have been measured to be so much."""
    return 0 < value < _MOST


def in_table(unit: str) -> str:
    """The unit that a table has of numbers in `unit`: all times are in ms."""
    return "ms" if unit in MILLISECONDS else unit


class Readout(StrictModel):
    """Where the number stands: if nothing else is said, it is the only one in the last line.

    Attributes:
        pattern: a regular expression whose one group is the number.
        json_path: of the number in JSON, as names and indices, such as ``results.0.mean_ms``.
        unit: of the number. A unit of time right behind it counts instead, since programs change
            theirs with the size of the number; another one is refused.
    """

    pattern: str | None = None
    json_path: str | None = None
    unit: str = Field("ms", min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Readout:
        if self.pattern is not None and self.json_path is not None:
            raise UserError("the number has a pattern and a JSON path; give one of them")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise UserError(
                    f"'{self.pattern}' is no regular expression ({error}); correct it"
                ) from error
            if groups != 1:
                raise UserError(
                    f"pattern '{self.pattern}' has {groups} groups; put the number, and nothing "
                    "else, into parentheses"
                )
        return self

    def read(self, text: str) -> float:
        """The number in what a program printed, in ms where it is a time, and else in `unit`.

        Raises:
            UserError: there is none, there are several, or it is not above 0. The sentence is to be
                read behind the name of the program.
        """
        if not text.strip():
            raise UserError("printed nothing")
        number, behind = self._find(text)
        try:
            value = float(number)
        except ValueError as error:
            raise UserError(f"printed {reprlib.repr(number)}, which is no number") from error
        if not is_possible(value):
            raise UserError(f"printed {number}, which cannot be")
        said = _TIME.match(behind)
        if said and self.unit not in MILLISECONDS:
            raise UserError(f"printed a time, {number} {said[1]}, where {self.unit} are asked for")
        other = _NO_TIME.match(behind)
        if other and other[1] != self.unit:
            raise UserError(
                f"printed {number} {other[1]}, where {self.unit} are asked for; give --unit "
                f"{other[1]}, or say which number is meant"
            )
        return value * MILLISECONDS.get(said[1] if said else self.unit, 1.0)

    def _find(self, text: str) -> tuple[str, str]:
        """The number, and the text behind it."""
        if self.json_path is not None:
            return _in_json(text, self.json_path), ""
        if self.pattern is not None:
            area, matches = text, list(re.finditer(self.pattern, text))
            place, group = f"what matches '{self.pattern}'", 1
        else:
            area = text.strip().splitlines()[-1]
            matches, group = list(_NUMBER.finditer(area)), 0
            place = f"its last line, {reprlib.repr(area)}"
        if not matches:
            ending = "" if self.pattern is None else f": {_ending(text)}"
            raise UserError(f"printed no number in {place}{ending}")
        if len(matches) > 1:
            found = ", ".join(str(match[group]) for match in matches[:4])
            raise UserError(
                f"printed {len(matches)} numbers in {place} ({found}); say which one is meant by "
                "--pattern or --json"
            )
        (match,) = matches
        for whole in _NUMBER.finditer(area):
            if whole.start() < match.end(group) and match.start(group) < whole.end():
                _check_whole(whole, match.span(group), place)
        return match[group] or "", area[match.end(group) :]


def _check_whole(number: re.Match[str], found: tuple[int, int], place: str) -> None:
    """Refuse a part of a number, such as 1.5 of 1.5e-05."""
    if number.start() < found[0] or found[1] < number.end():
        raise UserError(
            f"printed {number[0]}, of which {place} takes only a part; let it take all, such as by "
            r"([-+.\de]+)"
        )


def _in_json(text: str, path: str) -> str:
    """The value at a path, in all of a text or in its last line."""
    for part in (text, text.strip().splitlines()[-1]):
        try:
            value: Any = json.loads(part)
            break
        except ValueError:
            continue
    else:
        raise UserError(f"printed no JSON: {_ending(text)}")
    for name in path.split("."):
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            known = f", but {', '.join(value)}" if isinstance(value, dict) else ""
            raise UserError(
                f"printed JSON without '{path}': there is no '{name}'{known}"
            ) from error
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"printed JSON whose '{path}' is {reprlib.repr(value)}, which is no number")
    return str(value)


def _ending(text: str) -> str:
    """The last line that says something."""
    return reprlib.repr(text.strip().splitlines()[-1])
