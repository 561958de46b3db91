"""Numbers and operations in the words a reader expects."""

from __future__ import annotations

from ..spaces import Layer, MBConvSpec, parse_operation

_FIXED_LAYERS = {
    "stem": "stem, convolution 3×3",
    "feature_mix": "feature mix, convolution 1×1",
    "classifier": "average pooling and linear classifier",
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """A large count: 431 k, 4.08 M, 320 M, 1.21 G."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * factor:
            scaled = value / factor
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{unit}"
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """A latency to three significant digits: 0.0512 ms, 5.12 ms, 113 ms."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{digits}f} ms"


def percentage(fraction: float) -> str:
    """A fraction in hundredths: 84.2."""
    return f"{100 * fraction:.1f}"


def percent(fraction: float) -> str:
    """A fraction with its unit: 84.2 %."""
    return f"{percentage(fraction)} %"


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
    exponent = len(str(number)) - 1
    return f"{number / 10**exponent:.1f} × 10{str(exponent).translate(_SUPERSCRIPTS)}"


def describe_operation(name: str) -> str:
    """An operation in full: MBConv 7×7, expansion 6."""
    spec = parse_operation(name)
    if isinstance(spec, MBConvSpec):
        size = spec.kernel_size
        return f"MBConv {size}×{size}, expansion {spec.expand_ratio}"
    return "zero (skipped)" if name == "zero" else "identity"


def describe_layer(layer: Layer) -> str:
    """A layer in full, with its shapes."""
    what = (
        describe_operation(layer.operation) if layer.kind == "block" else _FIXED_LAYERS[layer.kind]
    )
    channels = f"{layer.in_channels} to {layer.out_channels}"
    if layer.kind == "classifier":
        return f"{what}, {channels} classes"
    return f"{what}, {channels} channels, {resolution(layer)}"


def layer_name(layer: Layer) -> str:
    """A layer in short: k5e6, feature mix."""
    return layer.operation or layer.kind.replace("_", " ")


def shapes(layer: Layer) -> str:
    """What a layer makes of its input, in short: 24→40, 32×32 ↓2."""
    stride = " ↓2" if layer.stride == 2 else ""
    return f"{layer.in_channels}→{layer.out_channels}, {layer.in_size}×{layer.in_size}{stride}"


def resolution(layer: Layer) -> str:
    """Input and output resolution: 32×32, or 32×32 to 16×16."""
    before, after = f"{layer.in_size}×{layer.in_size}", f"{layer.out_size}×{layer.out_size}"
    return before if before == after else f"{before} to {after}"


def plural(number: int, noun: str) -> str:
    """1 layer, 2 layers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
