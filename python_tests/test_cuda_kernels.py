"""The kernels' arguments as CuPy passes them, and what the benchmarks for GPUs say without one."""

import subprocess
import sys
from pathlib import Path

import cuda_kernels
import cuda_sources
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = ROOT / "csrc" / "tests" / "cuda" / "emulator"


def test_structs_lie_in_memory_as_the_compiler_lays_them_out(tmp_path: Path) -> None:
    lines, expected = [], []
    for header, structs in cuda_kernels.STRUCTS.items():
        lines.append(f'#include "{cuda_sources.FOLDER}/{header}"')
        for struct in structs:
            plain = {"Statistics", "Norm", "NormBackward", "Running"}
            name = struct.__name__ + ("" if struct.__name__ in plain else "<float>")
            fields = [field for field, _ in struct._fields_]
            expected.append([cuda_kernels.ctypes.sizeof(struct)])
            expected[-1] += [getattr(struct, field).offset for field in fields]
            offsets = ", ".join(f"offsetof(S, {field})" for field in fields)
            lines.append(f"void f{len(expected)}() {{ using S = proxyless::cuda::{name};")
            lines.append(f'for (std::size_t n : {{sizeof(S), {offsets}}}) std::printf("%zu ", n);')
            lines.append('std::printf("\\n"); }')
    calls = " ".join(f"f{i + 1}();" for i in range(len(expected)))
    source = tmp_path / "layouts.cpp"
    source.write_text(
        "#include <cstddef>\n#include <cstdio>\n" + "\n".join(lines) + f"\nint main() {{ {calls} }}"
    )
    program = tmp_path / "layouts"
    includes = [f"-I{ROOT / 'csrc'}", f"-I{EMULATOR}", "-isystem", str(cuda_kernels.INCLUDE)]
    flags = ["-std=c++17", "-w", "-DPROXYLESS_CUDA_EMULATOR"]
    models = [str(path) for path in EMULATOR.glob("*.cpp")]
    subprocess.run(["g++", *flags, *includes, source, *models, "-ldl", "-o", program], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert [list(map(int, line.split())) for line in said.splitlines()] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", ["cuda_kernels", "gpu"])
def test_benchmarks_need_a_gpu_and_say_so(script: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "needs a GPU" in result.stderr
    assert len(result.stderr.splitlines()) == 1
