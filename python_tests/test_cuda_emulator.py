"""The kernels for GPUs, executed on a CPU emulator: right ones pass, and known bugs are found.

`csrc/tests/cuda` has the programs, each in three builds; see `emulator/emulator.h` there.
"""

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = Path(torch.__file__).parents[1] / "nvidia" / "cu13" / "include"
BUILD = ROOT / "build" / "emulator"
PROGRAMS = BUILD / "csrc" / "tests" / "cuda"
BUILDS = ("plain", "asan", "race")

pytestmark = pytest.mark.skipif(
    not (INCLUDE / "crt" / "host_defines.h").exists(),
    reason="CUDA's headers are not installed: run pip install '.[dev]'",
)


@dataclass(frozen=True)
class Bug:
    """A change of the sources that a build must find with one of the test's cases.

    `says` is part of what it says then.
    """

    name: str
    build: str
    header: str
    old: str
    new: str
    says: str
    case: int = 0


BUGS = [
    Bug(
        "missing barrier",
        "race",
        "expand_depthwise.cuh",
        "args.depthwise, channel, args.expand.channels);\n  __syncthreads();",
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
        "  __syncthreads();\n"
        "#pragma unroll\n  for (int i = 0; i < kValues; ++i) {\n    values[i] = 0;",
        "  if (warp != 0) __syncthreads();\n"
        "#pragma unroll\n  for (int i = 0; i < kValues; ++i) {\n    values[i] = 0;",
        says="barrier",
    ),
    Bug(
        "statistics of padding counted",
        "plain",
        "expand_depthwise.cuh",
        "    if (!is_inside(run)) continue;\n#pragma unroll\n"
        "    for (int i = 0; i < kUnit<T>; ++i) mean[i] += sums[run][i];",
        "    for (int i = 0; i < kUnit<T>; ++i) mean[i] += sums[run][i];",
        says="from float64",
    ),
    Bug(
        "missing second barrier of a pipeline",
        "race",
        "pixel_products.cuh",
        "    __syncthreads();\n  }\n\n#pragma unroll\n  for (int i = 0; i < 2; ++i) {",
        "  }\n\n#pragma unroll\n  for (int i = 0; i < 2; ++i) {",
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


def tool(name: str) -> str:
    """A program of this Python environment."""
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the programs, built."""
    configure = [tool("cmake"), "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DPROXYLESS_TESTS=ON"]
    options = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_CXX_FLAGS": "-O1 -g1",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "CMAKE_MAKE_PROGRAM": tool("ninja"),
        "PROXYLESS_CUDA_INCLUDE": INCLUDE,
    }
    configure += [f"-D{name}={value}" for name, value in options.items()]
    configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    for command in (configure, [tool("cmake"), "--build", BUILD, "--target", "cuda_tests"]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return PROGRAMS


def ninja(name: str, *arguments: object) -> str:
    """What one of ninja's tools says about the build."""
    command = [tool("ninja"), "-C", BUILD, "-t", name, *map(str, arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "".join(line for line in said.splitlines(True) if not line.startswith("ninja:"))


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("program", ["emulator", "mbconv", "gates"])
def test_programs_pass(programs: Path, program: str, build: str) -> None:
    arguments = [build] if program == "emulator" else []
    result = run(programs / f"{program}_cuda_test_{build}", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed" in result.stdout


def with_bug(bug: Bug, folder: Path) -> Path:
    """Build the test with a changed header, which lies in front of the right one."""
    right = ROOT / "csrc" / "kernels" / "cuda" / "device" / bug.header
    text = right.read_text()
    assert text.count(bug.old) == 1, f"{bug.name}: {bug.header} has changed"
    wrong = folder / "include" / right.relative_to(ROOT / "csrc")
    wrong.parent.mkdir(parents=True)
    wrong.write_text(text.replace(bug.old, bug.new))

    name = f"mbconv_cuda_test_{bug.build}"
    objects = []
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if f"/{name}.dir/" not in entry["command"]:
            continue
        command = shlex.split(entry["command"])
        output = Path(command[command.index("-o") + 1])
        if f"/{bug.header}" in ninja("deps", output):
            # What a bug leaves unused is no reason to refuse it.
            command[1:1] = ["-w", f"-I{folder / 'include'}"]
            output = folder / f"{Path(entry['file']).name}.o"
            command[command.index("-o") + 1] = str(output)
            subprocess.run(command, cwd=BUILD, check=True, capture_output=True)
        objects.append(str(output))
    target = f"csrc/tests/cuda/{name}"
    (link,) = ninja("commands", "-s", target).splitlines()
    command = [part for part in shlex.split(link) if part not in (":", "&&")]
    place = command.index("-o")
    command[place + 1] = str(folder / name)
    kept = [part for part in command[:place] if f"/{name}.dir/" not in part]
    subprocess.run([*kept, *objects, *command[place:]], cwd=BUILD, check=True, capture_output=True)
    return folder / name


def test_known_bugs_are_found(programs: Path, tmp_path: Path) -> None:
    def missed(bug: Bug) -> str | None:
        program = with_bug(bug, tmp_path / bug.name.replace(" ", "_"))
        result = run(program, 5, bug.case)
        said = result.stdout + result.stderr
        found = result.returncode != 0 and bug.says.lower() in said.lower()
        return None if found else f"{bug.name}, {bug.build}: {said[-2000:]}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert [text for text in pool.map(missed, BUGS) if text] == []
