"""What the compiled kernels for GPUs need and consist of, read from the library without a GPU.

    python -m benchmarks.cuda_machine_code out.md

writes a table: registers, shared memory, spills, tensor-core and 128-bit instructions of every
kernel on every architecture, and the occupancy that CUDA's own calculator finds for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from proxyless_ext._library import CUDA_OPS

from . import cuda_sources

CUDA = Path(torch.__file__).parents[1] / "nvidia" / "cu13"  # as pip installs it
COUNTED = re.compile(
    r"\b(HMMA|LDSM|LDL|STL|LDG\.E(?:\.\w+)*?\.128|STG\.E(?:\.\w+)*?\.128|LDGSTS\S*\.128)\b"
)

# Bytes of shared memory that CUDA keeps of every block. CUDA's calculator adds them; from 9.0 on,
# cuobjdump has added them already to the kernel's own, if it has any.
RESERVED = 1024


@dataclass(frozen=True)
class Kernel:
    """A kernel as it was compiled for an architecture.

    Attributes:
        name: with its template arguments.
        arch: compute capability, 90 for 9.0.
        registers: of a thread.
        shared: bytes of a block.
        local: bytes of a thread's local memory: stack and spilled registers.
        threads: of a block.
        instructions: how many of each kind that COUNTED names, by the first part of their names.
        occupancy: share of a multiprocessor's threads that can be there at a time.
    """

    name: str
    arch: int
    registers: int
    shared: int
    local: int
    threads: int
    instructions: Counter[str]
    occupancy: float

    @property
    def base(self) -> str:
        """The name without template arguments."""
        return self.name.partition("<")[0]


class _Usage(NamedTuple):
    registers: int
    shared: int
    local: int


def read_kernels(library: Path = CUDA_OPS) -> list[Kernel]:
    """All kernels of a library on all architectures."""
    lines = _run("cuobjdump", "--dump-resource-usage", library).splitlines()
    found: dict[tuple[str, int], _Usage] = {}
    arch = 0
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if match := re.search(r"arch = sm_(\d+)", line):
            arch = int(match[1])
        elif match := re.search(r"Function (\S+):", line):
            numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", following)
            assert numbers, following
            registers, stack, shared, local = map(int, numbers.groups())
            own = shared - RESERVED if shared > 0 and arch >= 90 else shared
            found[match[1], arch] = _Usage(registers, own, stack + local)
    names = _demangle({mangled for mangled, _ in found})
    threads = {mangled: _threads(name.partition("<")[0]) for mangled, name in names.items()}
    occupancies = _occupancies(
        (arch, usage.registers, usage.shared, threads[mangled])
        for (mangled, arch), usage in found.items()
    )
    archs = sorted({arch for _, arch in found})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = pool.map(lambda arch: _instructions(library, arch), archs)
        instructions = dict(zip(archs, counted, strict=True))
    return [
        Kernel(
            name=names[mangled],
            arch=arch,
            registers=usage.registers,
            shared=usage.shared,
            local=usage.local,
            threads=threads[mangled],
            instructions=instructions[arch][mangled],
            occupancy=occupancy,
        )
        for ((mangled, arch), usage), occupancy in zip(found.items(), occupancies, strict=True)
    ]


def table(kernels: list[Kernel]) -> str:
    """One row for each kernel and architecture, as markdown."""
    lines = [
        "| kernel | sm | registers | shared, bytes | local, bytes | HMMA | LDSM | 128-bit loads "
        "| 128-bit stores | occupancy |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kernel in sorted(kernels, key=lambda kernel: (kernel.name, kernel.arch)):
        count = kernel.instructions
        cells = [
            kernel.name,
            kernel.arch,
            kernel.registers,
            kernel.shared,
            kernel.local,
            count["HMMA"],
            count["LDSM"],
            count["LDG"] + count["LDGSTS"],
            count["STG"],
            f"{kernel.occupancy:.0%}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _run(program: str, *arguments: object) -> str:
    # cuobjdump starts nvdisasm, which pip puts beside it.
    path = os.pathsep.join([str(CUDA / "bin"), os.environ.get("PATH", "")])
    found = shutil.which(program, path=path)
    if found is None:
        sys.exit(f"This needs {program}: run `pip install nvidia-cuda-{program}`.")
    command = [found, *map(str, arguments)]
    result = subprocess.run(
        command, env={**os.environ, "PATH": path}, check=True, capture_output=True, text=True
    )
    return result.stdout


def _demangle(names: Iterable[str]) -> dict[str, str]:
    mangled = sorted(names)
    plain = subprocess.run(
        ["c++filt"], input="\n".join(mangled), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return {name: _short(text) for name, text in zip(mangled, plain, strict=True)}


def _short(demangled: str) -> str:
    """`kernel<arguments>` without namespaces, result and parameters."""
    text = demangled.replace("proxyless::cuda::", "").removeprefix("void ")
    text = text.replace("(Factors)0", "plain").replace("(Factors)1", "activated")
    text = text.replace("(Factors)2", "centred")
    depth = 0
    for i, character in enumerate(text):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return text[:i]
    return text


def _threads(kernel: str) -> int:
    """Of a block, from the kernel's source."""
    folder = cuda_sources.CSRC / cuda_sources.FOLDER
    source = "".join(path.read_text() for path in folder.glob("*.cuh"))
    bound = re.search(rf"__launch_bounds__\((\w+)[^)]*\)\s+{kernel}\(", source)
    assert bound, kernel
    if bound[1].isdigit():
        return int(bound[1])
    constant = re.search(rf"constexpr int {bound[1]} = (\d+);", source)
    assert constant, bound[1]
    return int(constant[1])


def _instructions(library: Path, arch: int) -> dict[str, Counter[str]]:
    """How often each mangled kernel has each counted instruction."""
    counts: dict[str, Counter[str]] = {}
    function = ""
    for line in _run("cuobjdump", "-arch", f"sm_{arch}", "-sass", library).splitlines():
        if "Function :" in line:
            function = line.split()[-1]
            counts[function] = Counter()
        elif match := COUNTED.search(line):
            counts[function][match[1].partition(".")[0]] += 1
    return counts


def _occupancies(kernels: Iterable[tuple[int, int, int, int]]) -> list[float]:
    """Of (arch, registers, shared, threads), by the calculator in CUDA's cuda_occupancy.h."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "occupancy"
        source = Path(__file__).with_name("cuda_occupancy.cpp")
        compiler = shutil.which("c++") or "g++"
        command = [compiler, "-std=c++17", f"-I{CUDA / 'include'}", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        lines = "\n".join(" ".join(map(str, kernel)) for kernel in kernels)
        result = subprocess.run(
            [program], input=lines, check=True, capture_output=True, text=True
        ).stdout
    return [float(line) for line in result.split()]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the file to write: python -m benchmarks.cuda_machine_code out.md")
    kernels = read_kernels()
    Path(sys.argv[1]).write_text(table(kernels))
    architectures = ", ".join(f"sm_{arch}" for arch in sorted({kernel.arch for kernel in kernels}))
    print(
        f"The operators for GPUs have {len({kernel.name for kernel in kernels})} kernels for "
        f"{architectures}: {sys.argv[1]} says what they consist of."
    )
