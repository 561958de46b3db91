"""Bugs to seed into the kernels for GPUs: each must be found by the emulator's tests.

A bug is looked for as a row of C++ tokens, so that where lines break is nothing to it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path(__file__).resolve().parents[1] / "csrc" / "kernels" / "cuda" / "device"


@dataclass(frozen=True)
class Bug:
    """A change of a header that a build must find with one of the test's cases.

    `says` is part of what it says then.
    """

    name: str
    build: str
    header: str
    old: str
    new: str
    says: str
    case: int = 0

    def seed(self, text: str) -> str:
        """The header's text with the bug in it.

        Raises:
            ValueError: what the bug changes is not there exactly once.
        """
        found = list(_tokens(self.old).finditer(text))
        if len(found) != 1:
            raise ValueError(
                f"{self.name}: {self.header} has {len(found)} places like this one, of which there "
                f"must be one: {self.old}"
            )
        return text[: found[0].start()] + self.new + text[found[0].end() :]


def _tokens(code: str) -> re.Pattern[str]:
    """Finds the code with any whitespace between its tokens."""
    words_and_signs = re.findall(r"(\w+)|([^\w\s])", code)
    tokens = (rf"\b{word}\b" if word else re.escape(sign) for word, sign in words_and_signs)
    return re.compile(r"\s*".join(tokens))


BUGS = [
    Bug(
        "missing barrier",
        "race",
        "expand_depthwise.cuh",
        "args.depthwise, channel, args.expand.channels); __syncthreads();",
        "args.depthwise, channel, args.expand.channels);",
        says="race",
    ),
    Bug(
        "wrong halo",
        "plain",
        "expand_depthwise.cuh",
        "first_y * kStride - kKernel / 2",
        "first_y * kStride - kKernel / 2 + 1",
        says="from float64",
    ),
    Bug(
        "off by one in ragged channels",
        "asan",
        "expanded.cuh",
        "const bool valid = channel + row < in.channels && k < in.patch;",
        "const bool valid = channel + row <= in.channels && k < in.patch;",
        says="not in global memory",
        case=5,
    ),
    Bug(
        "missing wait for cp.async",
        "race",
        "pointwise.cuh",
        "cp_async_wait<1>();",
        "cp_async_wait<2>();",
        says="race",
        case=6,
    ),
    Bug(
        "swapped fragment",
        "plain",
        "products.cuh",
        "multiply<T>(c[tile], rows, columns, 0, tf32);",
        "multiply<T>(c[tile], rows, columns, 1, tf32);",
        says="from float64",
    ),
    Bug(
        "sum that is not atomic",
        "race",
        "sums.cuh",
        "scratch[(warp * kUnits + lane) * kValues + i] = values[i];",
        "scratch[lane * kValues + i] += values[i];",
        says="race",
    ),
    Bug(
        "divergent barrier",
        "plain",
        "sums.cuh",
        "__syncthreads();\n#pragma unroll\nfor (int i = 0; i < kValues; ++i) { values[i] = 0;",
        "if (warp != 0) __syncthreads();\n"
        "#pragma unroll\nfor (int i = 0; i < kValues; ++i) { values[i] = 0;",
        says="barrier",
    ),
    Bug(
        "statistics of padding counted",
        "plain",
        "expand_depthwise.cuh",
        "if (!is_inside(run)) continue;\n#pragma unroll\n"
        "for (int i = 0; i < kUnit<T>; ++i) mean[i] += sums[run][i];",
        "for (int i = 0; i < kUnit<T>; ++i) mean[i] += sums[run][i];",
        says="from float64",
    ),
    Bug(
        "missing second barrier of a pipeline",
        "race",
        "pixel_products.cuh",
        "__syncthreads(); }\n#pragma unroll\nfor (int i = 0; i < 2; ++i) {",
        "}\n#pragma unroll\nfor (int i = 0; i < 2; ++i) {",
        says="race",
        case=1,
    ),
    Bug(
        "write beyond the last channel",
        "race",
        "numbers.cuh",
        "if (channel + i < channels) to[i] =",
        "if (channel + i <= channels) to[i] =",
        says="race",
        case=2,
    ),
    Bug(
        "blocks that write to one place",
        "race",
        "sums.cuh",
        "return data + (block * 3 + kind) * pitch;",
        "return data + kind * pitch + 0 * block;",
        says="race",
        case=1,
    ),
    Bug(
        "rows left out of a sum of slices",
        "plain",
        "layout.cuh",
        "for (int64_t slice = 0; slice < slices; ++slice) {",
        "for (int64_t slice = 1; slice < slices; ++slice) {",
        says="from float64",
    ),
]
