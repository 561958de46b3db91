from __future__ import annotations

import pytest
import torch

from proxyless_ext import _library


@pytest.fixture(autouse=True)
def device() -> torch.device:
    """The GPU, without which no test here can run and pytest stops."""
    if not torch.cuda.is_available():
        pytest.exit("torch finds no GPU: run these tests on a machine that has one", 1)
    if not _library.cuda_ops_loaded():
        pytest.exit("the operators for GPUs are not built: run `make cuda` first", 1)
    return torch.device("cuda", 0)
