"""Amounts of a unit, such as 12.5 ms, 300 MMACs and 2 MB: how they are read and written."""

from __future__ import annotations

import re

from .errors import UserError

COUNTED = ("MACs", "params", "B")
"""Units of what is counted. Large amounts of them are written with a prefix."""

_PREFIXES = {
    **{"G": 1e9, "M": 1e6, "k": 1e3, "K": 1e3, "": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9},
    "\N{MICRO SIGN}": 1e-6,
    "\N{GREEK SMALL LETTER MU}": 1e-6,
}
_TAKE_PREFIXES = (*COUNTED, "s", "J")
_AMOUNT = re.compile(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(%|[^%]*?)\s*")


def parse_amount(text: str, what: str) -> tuple[float, str]:
    """An amount of at least 0, and its unit or ``%``, as written; a unit may be missing.

    Args:
        text: such as ``12.5ms``, ``5.7Mparams``, ``300M`` or ``40%``.
        what: it is, for messages.

    Raises:
        UserError: it is none, or a percentage above 100.
    """
    try:
        number, unit = _AMOUNT.fullmatch(text).groups()  # type: ignore[union-attr]
        value = float(number)
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{what} '{text}' is no amount; write for example 12.5ms, 5.7Mparams or 40%"
        ) from error
    if unit == "%" and value > 100:
        raise UserError(f"{what} '{text}' is beyond the dearest network; give at most 100%")
    return value, unit


def amount_within(text: str, what: str, bounds: tuple[float, float], unit: str) -> float:
    """An amount in the unit of what networks cost.

    Args:
        text: as in `parse_amount`; a percentage is of the way from the cheapest to the dearest
            network, and an amount without a unit is of `unit`.
        what: it is, for messages.
        bounds: what the cheapest and the dearest network cost.
        unit: of that.

    Raises:
        UserError: it is none, or in another unit.
    """
    value, own = parse_amount(text, what)
    if own == "%":
        cheapest, dearest = bounds
        return cheapest + value / 100 * (dearest - cheapest)
    if own == unit:
        return value
    factor, base = split_unit(own)
    unit_factor, unit_base = split_unit(unit)
    if not base:
        return value * factor
    if base != unit_base:
        given = base if base in COUNTED else own
        counting = ", which `proxyless latency count` makes" if base in COUNTED else ""
        raise UserError(
            f"{what} '{text}' is in {given}, and networks here cost {unit}; write it in {unit}, or "
            f"give a table in {given}{counting}"
        )
    return value * (factor / unit_factor)


def split_unit(unit: str) -> tuple[float, str]:
    """A unit as the factor of its prefix and the rest: 1e6 and ``params`` of ``Mparams``."""
    for prefix, factor in _PREFIXES.items():
        rest = unit.removeprefix(prefix).lstrip()
        if unit.startswith(prefix) and (rest in _TAKE_PREFIXES or (not rest and factor >= 1)):
            return factor, rest
    return 1.0, unit


def scaled(value: float, unit: str) -> tuple[float, str]:
    """An amount with the prefix that suits its size: 5.7 and ``Mparams`` of 5,700,000 params.

    Args:
        value: of the amount.
        unit: of it; only those of what is counted, and none at all, get a prefix.
    """
    if unit in ("", *COUNTED):
        for prefix in "GMk":
            if float(f"{value:.3g}") >= _PREFIXES[prefix]:  # What rounds to 1000 k is 1 M.
                return value / _PREFIXES[prefix], prefix + unit
    return value, unit


def show(value: float, unit: str) -> str:
    """An amount for a sentence: 12.5 ms, 5.7 Mparams."""
    number, written = scaled(value, unit)
    return f"{number:.4g} {written}"


def show_range(low: float, high: float, unit: str) -> str:
    """Two amounts for a sentence, with the prefix that suits the second: 0.055 to 1.2 Mparams."""
    number, written = scaled(high, unit)
    factor = high / number if number else 1.0
    return f"{low / factor:.4g} to {number:.4g} {written}"
