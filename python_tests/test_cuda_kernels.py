"""The kernels' arguments as CuPy passes them, and what the benchmarks for GPUs say without one."""

import ctypes
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cuda_kernels, cuda_sources

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "csrc" / "tests" / "cuda" / "emulator"
NO_TEMPLATES = {"Statistics", "Norm", "NormBackward", "Running"}


def test_structs_lie_in_memory_as_the_compiler_lays_them_out(tmp_path: Path) -> None:
    lines = ["#include <cstddef>"]
    for header, structs in cuda_kernels.STRUCTS.items():
        lines.append(f'#include "{cuda_sources.FOLDER}/{header}"')
        for struct in structs:
            name = struct.__name__ + ("" if struct.__name__ in NO_TEMPLATES else "<float>")
            places = {f"sizeof({name})": ctypes.sizeof(struct)}
            for field, _ in struct._fields_:
                places[f"offsetof(S, {field})"] = getattr(struct, field).offset
            lines.append("namespace proxyless::cuda {")
            lines.append(f"void check(const {name}*) {{ using S = {name};")
            lines += [f"static_assert({code} == {place});" for code, place in places.items()]
            lines.append("} }")
    source = tmp_path / "layouts.cpp"
    source.write_text("\n".join(lines))
    includes = [f"-I{ROOT / 'csrc'}", f"-I{EMULATOR}", "-isystem", str(cuda_kernels.INCLUDE)]
    flags = ["-std=c++17", "-w", "-fsyntax-only", "-DPROXYLESS_CUDA_EMULATOR"]
    result = subprocess.run(["g++", *flags, *includes, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", ["cuda_kernels", "gpu"])
def test_benchmarks_need_a_gpu_and_say_so(
    script: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit, match=r"^This needs a GPU, .*\.$"):
        importlib.import_module(f"benchmarks.{script}").main()
    assert capfd.readouterr().err == ""
