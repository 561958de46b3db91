"""Numbers and operations in the words a reader expects."""

from __future__ import annotations

import math
from decimal import Decimal

from ..quantities import COUNTED, scaled
from ..runs import LimitFigures
from ..spaces import Layer, parse_operation
from .parts import Part

BEYOND = "no target within reach"
"""Of a size that nothing is searched at."""

_TIMES = "\N{MULTIPLICATION SIGN}"
_FIXED_LAYERS = {
    "stem": f"stem, convolution 3{_TIMES}3",
    "feature_mix": f"feature mix, convolution 1{_TIMES}1",
    "norm": "BatchNorm and activation",
    "pool": "average pooling",
    "pooled_mix": f"convolution 1{_TIMES}1 behind the pooling",
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """A large count: 431 k, 4.08 M, 320 M, 1.21 G."""
    return cost(value, "").rstrip()


def cost(value: float | None, unit: str) -> str:
    """A latency or another cost: 0.0512 ms, 113 mJ, 4.08 Mparams; a dash where it is not known."""
    if value is None:
        return "\N{EN DASH}"
    number, written = scaled(value, unit)
    digits = f"{number:.0f}" if written in ("", *COUNTED) else three_digits(number)
    return f"{digits} {written}"


def describe_limit(kept: LimitFigures) -> str:
    """A limit: 5.12 Mparams of at most 5.70 Mparams."""
    return f"{cost(kept.predicted, kept.unit)} of at most {cost(kept.most, kept.unit)}"


def cost_name(unit: str) -> str:
    """What costs of a unit are called."""
    return "latency" if unit == "ms" else "cost"


def three_digits(value: float) -> str:
    """To three significant digits, without an exponent."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:.{max(0, decimals)}f}"


def percentage(fraction: float) -> str:
    """A fraction in hundredths: 84.2."""
    return f"{100 * fraction:.1f}"


def percent(fraction: float) -> str:
    """A fraction with its unit: 84.2 %."""
    return f"{percentage(fraction)} %"


def deviation(value: float, reference: float, name: str) -> str:
    """How far a value is from another one: 2.4 % above the target."""
    relative = value / reference - 1
    return f"{percent(abs(relative))} {'above' if relative > 0 else 'below'} the {name}"


def points(difference: float) -> str:
    """A difference of fractions, which is no fraction of one: 1.2 points."""
    return f"{percentage(difference)} points"


def duration(seconds: float) -> str:
    """A span of time: 42 s, 8 min 12 s, 3 h 05 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def networks(number: int) -> str:
    """How many networks a space holds: exact while it is short, a power of ten beyond."""
    if number < 1_000_000:
        return f"{number:,}"
    mantissa, exponent = f"{Decimal(number):.1e}".split("e+")
    return f"{mantissa} {_TIMES} 10{exponent.translate(_SUPERSCRIPTS)}"


def square(size: int) -> str:
    """The size of a kernel or picture: 7x7 (with a true multiplication sign)."""
    return f"{size}{_TIMES}{size}"


def describe_operation(name: str) -> str:
    """An operation in full: MBConv 7x7, expansion 6."""
    return parse_operation(name).look.description


def describe_layer(layer: Layer) -> str:
    """A layer in full, with its shapes."""
    channels = f"{layer.in_channels} to {layer.out_channels}"
    if layer.kind == "classifier":
        pooling = "average pooling and " if layer.in_size > 1 else ""
        return f"{pooling}linear classifier, {channels} classes"
    what = describe_operation(layer.operation) if layer.operation else _FIXED_LAYERS[layer.kind]
    return f"{what}, {channels} channels, {resolution(layer)}"


def describe_part(part: Part) -> str:
    """A layer in full, and the operations inside it level by level."""
    levels = [" ".join(edge.operation for edge in level) for level in part.levels]
    return ": ".join([describe_layer(part.layer), *([", ".join(levels)] if levels else [])])


def layer_name(layer: Layer) -> str:
    """A layer in short: k5e6, feature mix."""
    return layer.operation or layer.kind.replace("_", " ")


def shapes(layer: Layer) -> str:
    """What a layer makes of its input, in short: 24→40, 32x32 ↓2."""
    stride = " ↓2" if layer.stride == 2 else ""
    return f"{layer.in_channels}→{layer.out_channels}, {square(layer.in_size)}{stride}"


def resolution(layer: Layer) -> str:
    """Input and output resolution: 32x32, or 32x32 to 16x16."""
    before, after = square(layer.in_size), square(layer.out_size)
    return before if before == after else f"{before} to {after}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """1 layer, 2 layers; `nouns` where an s is not enough."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"
