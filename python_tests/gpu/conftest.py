from __future__ import annotations

import pytest
import torch

from proxyless_ext import _library


@pytest.fixture(autouse=True)
def device() -> torch.device:
    """The GPU, without which every test here fails."""
    if not torch.cuda.is_available():
        pytest.fail(
            "torch finds no GPU, which this test needs; run it on a machine with one", False
        )
    if not _library.cuda_ops_loaded():
        pytest.fail("the operators for GPUs are not built; run `make cuda` first", False)
    return torch.device("cuda", 0)
