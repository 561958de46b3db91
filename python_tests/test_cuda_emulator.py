"""The kernels for GPUs, executed on a CPU emulator: right ones pass, and known bugs are found.

`csrc/tests/cuda` has the programs, each in three builds; see `emulator/emulator.h` there.
"""

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
import torch
from seeded_bugs import BUGS, DEVICE, Bug

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = Path(torch.__file__).parents[1] / "nvidia" / "cu13" / "include"
BUILD = ROOT / "build" / "emulator"
PROGRAMS = BUILD / "csrc" / "tests" / "cuda"
# Those that run longest come first.
NAMES = list(product(["mbconv", "emulator", "gates"], ["asan", "race", "plain"]))

Said = subprocess.CompletedProcess[str]

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(
        not (INCLUDE / "crt" / "host_defines.h").exists(),
        reason="CUDA's headers are not installed: run pip install '.[dev]'",
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


def run(program: Path, *arguments: object) -> Said:
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def with_bug(bug: Bug, folder: Path) -> Path:
    """Build the test with a changed header, which lies in front of the right one."""
    right = DEVICE / bug.header
    wrong = folder / "include" / right.relative_to(ROOT / "csrc")
    wrong.parent.mkdir(parents=True)
    wrong.write_text(bug.seed(right.read_text()))

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


def run_with_bug(bug: Bug, folder: Path) -> Said:
    return run(with_bug(bug, folder), 5, bug.case)


@pytest.fixture(scope="module")
def outcomes(
    programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[object, Future[Said]]]:
    """What each program says, and each bug makes one say, run side by side."""
    pool = ThreadPoolExecutor(os.cpu_count())
    results: dict[object, Future[Said]] = {}
    for name, build in NAMES:
        arguments = [build] if name == "emulator" else []
        program = programs / f"{name}_cuda_test_{build}"
        results[name, build] = pool.submit(run, program, *arguments)
    for bug in BUGS:
        results[bug] = pool.submit(run_with_bug, bug, tmp_path_factory.mktemp("bug"))
    yield results
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", NAMES, ids="-".join)
def test_programs_pass(outcomes: dict[object, Future[Said]], name: tuple[str, str]) -> None:
    said = outcomes[name].result()
    assert said.returncode == 0, said.stdout + said.stderr
    assert " 0 failed" in said.stdout


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_known_bugs_are_found(outcomes: dict[object, Future[Said]], bug: Bug) -> None:
    said = outcomes[bug].result()
    assert said.returncode != 0
    assert bug.says.lower() in (said.stdout + said.stderr).lower()
