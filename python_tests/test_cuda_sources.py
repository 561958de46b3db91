"""NVRTC, which CuPy compiles with, takes every kernel as it is."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import cuda_sources

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="torch is built without CUDA")

INCLUDE = Path(torch.__file__).parents[1] / "nvidia" / "cu13" / "include"


def compile_for(header: str, arch: int) -> tuple[list[str], bytes]:
    """Lowered names of all kernels of a header, and their PTX.

    What assembles it is that of `make cuda`, which has the same kernels: test_cuda_build.py.
    """

    def check(result: tuple, program: object = None) -> list:
        error, *values = result
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS and program is not None:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            pytest.fail(log.decode())
        assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, error
        return values

    code = cuda_sources.source(header).encode()
    (program,) = check(nvrtc.nvrtcCreateProgram(code, header.encode(), 0, [], []))
    names = list(cuda_sources.instances(header))
    for name in names:
        check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    options = [*cuda_sources.options(INCLUDE), f"--gpu-architecture=compute_{arch}"]
    options = [option.encode() for option in options]
    check(nvrtc.nvrtcCompileProgram(program, len(options), options), program)
    lowered = [check(nvrtc.nvrtcGetLoweredName(program, n.encode()))[0].decode() for n in names]
    (size,) = check(nvrtc.nvrtcGetPTXSize(program))
    ptx = b" " * size
    check(nvrtc.nvrtcGetPTX(program, ptx))
    return lowered, ptx


@pytest.mark.parametrize("header", cuda_sources.KERNELS)
def test_nvrtc_compiles_every_kernel(header: str) -> None:
    lowered, ptx = compile_for(header, 90)
    for name in lowered:
        assert f".entry {name}(".encode() in ptx


def test_every_kernel_is_listed() -> None:
    written = {
        (path.name, name)
        for path in (cuda_sources.CSRC / cuda_sources.FOLDER).glob("*.cuh")
        for name in re.findall(
            r"__global__ void\s+__launch_bounds__\([^)]*\)\s+(\w+)", path.read_text()
        )
        if name != "__launch_bounds__"
    }
    listed = {
        (header, kernel) for header, kernels in cuda_sources.KERNELS.items() for kernel in kernels
    }
    assert written == listed
