"""The operators for GPUs as `make cuda` builds them, on a machine with or without a GPU."""

from collections import Counter

import pytest
import torch
from mbconv_cases import CASES

from benchmarks import cuda_machine_code, cuda_sources
from benchmarks.cuda_machine_code import Kernel
from proxyless_ext import ops
from proxyless_ext._library import CUDA_OPS, cuda_ops_loaded

pytestmark = pytest.mark.skipif(
    not CUDA_OPS.exists(), reason="the operators for GPUs are not built: run make cuda"
)

OPERATORS = [
    "alpha_gradient",
    "mbconv_backward",
    "mbconv_forward",
    "mbconv_gate_probe",
    "mbconv_moments",
]
ARCHS = {80, 86, 90, 100, 110, 120}
MATRIX_KERNELS = {"expand_depthwise", "depthwise_backward", "pointwise", "pixel_products"}
# These work on single numbers: on weights, channels and sums, or on rows that are not aligned.
SCALAR_KERNELS = {
    "alpha_gradients",
    "arrange",
    "combine_probe",
    "combine_statistics",
    "combine_sums",
    "expand_gradients",
    "expand_statistics",
    "finish_covariance",
    "finish_mean",
    "fold",
    "fold_norm",
    "input_matrix",
    "sum_products",
    "sum_slices",
    "unfold",
}
NO_GPU = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return cuda_machine_code.read_kernels()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered_for_gpus(name: str) -> None:
    assert cuda_ops_loaded()
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"proxyless::{name}", "CUDA")


@pytest.mark.parametrize("key", ["AutocastCUDA", "Autograd"])
def test_autocast_and_autograd_know_them(key: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("proxyless::mbconv_forward", key)


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu_torch_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"NVIDIA driver|No CUDA GPUs"):
        ops.mbconv_moments(torch.ones(1, 4, 2, 2, device="cuda"))


def test_tensors_of_a_cpu_are_refused_by_the_gpus_operators() -> None:
    case = CASES[0]
    block = case.block(torch.float32)
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    operator = torch.ops.proxyless.mbconv_forward.default
    with pytest.raises((RuntimeError, ValueError), match="tensors must be on a GPU"):
        operator.redispatch(keys, *block, None, None, *case.settings, False, False)


def test_all_architectures_are_there(kernels: list[Kernel]) -> None:
    assert {kernel.arch for kernel in kernels} == ARCHS
    of_each = {arch: {k.name for k in kernels if k.arch == arch} for arch in ARCHS}
    assert all(names == of_each[80] for names in of_each.values())


def test_nvrtc_is_tested_with_the_same_instances(kernels: list[Kernel]) -> None:
    listed = [name for header in cuda_sources.KERNELS for name in cuda_sources.instances(header)]
    bases = (name.removeprefix(cuda_sources.NAMESPACE).partition("<")[0] for name in listed)
    assert Counter(bases) == Counter(k.base for k in kernels if k.arch == 90)


def test_no_kernel_uses_local_memory(kernels: list[Kernel]) -> None:
    assert {k.name: k.local for k in kernels if k.local} == {}


def test_a_quarter_of_a_multiprocessors_threads_fit(kernels: list[Kernel]) -> None:
    assert {(k.name, k.arch): k.occupancy for k in kernels if k.occupancy < 0.25} == {}


def test_matrix_kernels_use_tensor_cores(kernels: list[Kernel]) -> None:
    found = {k.base for k in kernels if k.instructions["HMMA"]}
    assert found == MATRIX_KERNELS
    without = [k.name for k in kernels if k.base in found and not k.instructions["HMMA"]]
    assert without == []


def test_what_moves_pixels_moves_128_bits_at_a_time(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        count = kernel.instructions
        wide = count["LDG"] + count["LDGSTS"] > 0
        assert wide or kernel.base in SCALAR_KERNELS, kernel
    stores = {"expand_depthwise", "depthwise_backward", "pointwise", "normalise",
              "normalise_backward", "column_sums"}  # fmt: skip
    assert {k.base for k in kernels if not k.instructions["STG"]}.isdisjoint(stores)


def test_the_table_has_a_row_for_each(kernels: list[Kernel]) -> None:
    assert len(cuda_machine_code.table(kernels).splitlines()) == 2 + len(kernels)
