"""The fused separable convolution against PyTorch's layers, at the shapes of the CIFAR-10 trees.

    python -m benchmarks.separable --out build/bench
    python -m benchmarks.separable --per-stage 3 --peers fused channels_last --rounds 9
    python -m benchmarks.separable --quick

Forward and backward, with all gradients, of the separable candidates of `spaces.cifar_tree` in
training mode, at some of the widths of each of its stages. Peers:

    fused          proxyless_ext.nn.Separable, channels-last
    plain          PyTorch's layers, contiguous
    channels_last  the same layers, channels-last
    compiled       the same by torch.compile, channels-last

All results are first compared with those of the layers in float64. Then the peers take turns; a
time is the median of all rounds. Writes separable.json and separable.md. Whole steps of the
supernet are in supernet_step.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from proxyless_ext.bench.agreement import check_block
from proxyless_ext.bench.memory import SavedTensors
from proxyless_ext.bench.records import Conditions
from proxyless_ext.bench.text import table, with_spread
from proxyless_ext.bench.timing import Timing, alternate
from proxyless_ext.errors import UserError
from proxyless_ext.nn import Separable
from proxyless_ext.seeding import generator
from proxyless_ext.spaces import SeparableSpec, cifar_tree, parse_operation

from .options import new_parser, parse
from .results import Bar, bars_table, write

PEERS = ("fused", "plain", "channels_last", "compiled")
RIVALS = PEERS[1:]
BEST_RIVALS = RIVALS[1:]


@dataclass(frozen=True)
class Case:
    """A candidate with as many channels C behind it as before, on pictures of `size` pixels
    squared.
    """

    operation: str
    channels: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.operation} {self.channels} {self.size}"

    def build(self) -> Separable:
        """The block, in plain layers."""
        spec = parse_operation(self.operation)
        assert isinstance(spec, SeparableSpec)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            block = Separable(
                self.channels,
                self.channels,
                spec.kernel_size,
                dilation=spec.dilation,
                fused=False,
                bn_eps=1e-5,
            )
            for parameter in block.parameters():
                if parameter.dim() == 1:  # Of the BatchNorm, whose ones and zeros hide mistakes.
                    nn.init.uniform_(parameter, 0.5, 1.5)
        return block


def main() -> None:
    """Check, measure, judge and write."""
    arguments = _arguments()
    results = measure(arguments)
    bars = judge(results)
    text = "\n\n".join(
        [
            "# The fused separable convolution, shape by shape",
            Conditions(**results["conditions"]).describe(),
            bars_table(bars),
            shapes_table(results),
        ]
    )
    write(arguments.out, "separable", results, bars, text)


def _arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--per-stage", type=int, help="widths of each stage (default: 2)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="(default: all)")
    usual = {
        "batch": 64,
        "resolution": 32,
        "per_stage": 2,
        "peers": list(PEERS),
        "rounds": 7,
    }
    fast = [name for name in PEERS if name != "compiled"]
    quick = {
        "batch": 2,
        "resolution": 8,
        "per_stage": 1,
        "peers": fast,
        "rounds": 2,
    }
    return parse(parser, usual, quick)


def cases(resolution: int, per_stage: int) -> Iterator[Case]:
    """Every separable candidate at widths that lie evenly in each stage."""
    space = cifar_tree(resolution=resolution)
    size, stages = resolution, dict[int, list[int]]()
    for block in space.searched_blocks:
        size = -(-size // block.stride)
        stages.setdefault(size, []).append(block.edges[0].in_channels)
    for size, widths in stages.items():
        for part in range(per_stage):
            channels = widths[(2 * part + 1) * len(widths) // (2 * per_stage)]
            for operation in space.candidates:
                if isinstance(parse_operation(operation), SeparableSpec):
                    yield Case(operation, channels, size)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that goes into separable.json but the bars."""
    conditions = Conditions.here()
    shapes = []
    for case in cases(arguments.resolution, arguments.per_stage):
        print(f"measuring {case.name} ...", flush=True)
        shapes.append(measure_case(case, arguments))
    settings = ("batch", "resolution", "per_stage", "rounds", "peers")
    return {
        "conditions": conditions.model_dump(mode="json"),
        "settings": {name: getattr(arguments, name) for name in settings},
        "shapes": shapes,
    }


def measure_case(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes kept for backward of all peers, whose results are right."""
    sizes = (arguments.batch, case.channels, case.size, case.size)
    draw = partial(torch.randn, sizes, generator=generator(0, "separable"))
    x, grad = draw(), draw()
    exact = case.build().double()
    expected = run(exact, [*exact.parameters()], x.double(), grad.double())
    runs, saved = {}, {}
    for name in arguments.peers:
        block = case.build()
        layout = torch.contiguous_format if name == "plain" else torch.channels_last
        if name == "fused":
            block.fused = True
        inputs = [tensor.to(memory_format=layout) for tensor in (x, grad)]
        block.to(memory_format=layout)
        with SavedTensors(block) as kept:
            block(inputs[0].requires_grad_())
        saved[name] = kept.bytes
        called: Callable[[Tensor], Tensor] = block
        if name == "compiled":
            torch.compiler.reset()  # Else the blocks before it would count as recompilations.
            called = torch.compile(block, fullgraph=True)
        runs[name] = partial(run, called, [*block.parameters()], *inputs)
        check_block(f"{name} at {case.name}", runs[name](), expected)
    times = alternate(runs, arguments.rounds)
    return {
        "name": case.name,
        "seconds": {name: asdict(time) for name, time in times.items()},
        "saved_bytes": saved,
    }


def run(
    call: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor, grad: Tensor
) -> list[Tensor]:
    """The output, the gradient of the input and those of all parameters."""
    x = x.detach().requires_grad_()
    y = call(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], grad)]


def judge(results: dict[str, Any]) -> list[Bar]:
    """The bars that the measured peers allow to judge."""
    shapes = [
        {name: time["median"] for name, time in shape["seconds"].items()}
        for shape in results["shapes"]
    ]
    if "fused" not in shapes[0]:
        return []
    fused = sum(times["fused"] for times in shapes)
    bars = []
    if "plain" in shapes[0]:
        ratio = sum(times["plain"] for times in shapes) / fused
        bars.append(Bar("plain / fused, sum", ratio, "at_least", 2.5, 4))
        saved = [
            sum(shape["saved_bytes"][name] for shape in results["shapes"])
            for name in ("plain", "fused")
        ]
        bars.append(Bar("saved tensors, plain / fused", saved[0] / saved[1], "at_least", 3, 5))
    if all(name in shapes[0] for name in BEST_RIVALS):
        ratio = sum(min(times[name] for name in BEST_RIVALS) for times in shapes) / fused
        bars.append(Bar("best of channels-last, compiled / fused, sum", ratio, "at_least", 1.3, 2))
    if all(name in shapes[0] for name in RIVALS):
        worst = min(min(times[name] for name in RIVALS) / times["fused"] for times in shapes)
        bars.append(Bar("best of all / fused, worst shape", worst, "at_least", 0.9, 1))
    return bars


def shapes_table(results: dict[str, Any]) -> str:
    """Milliseconds of all peers at each shape, and the sums."""
    shapes = results["shapes"]
    peers = list(shapes[0]["seconds"])
    rows = [
        [shape["name"], *(with_spread(Timing(**shape["seconds"][name])) for name in peers)]
        for shape in shapes
    ]
    sums = [
        f"{1e3 * sum(shape['seconds'][name]['median'] for shape in shapes):.4g}" for name in peers
    ]
    return (
        "Milliseconds of forward and backward by shape (candidate, channels, input size).\n\n"
        + table(["shape", *peers], [*rows, ["sum", *sums]])
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
