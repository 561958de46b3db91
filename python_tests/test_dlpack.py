"""Arrays of other libraries go in as they are, and gradients come back as arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from proxyless_ext import Edges, MBConv, MixedOp, Zero


def test_arrays_of_numpy_go_in_and_their_gradients_come_back() -> None:
    torch.manual_seed(0)
    mixed = MixedOp([MBConv(4, 4, 3, fused=True), MBConv(4, 4, 5, fused=True), Zero()])
    numbers = np.random.default_rng(0).standard_normal((2, 4, 9, 7), dtype=np.float32)
    target = torch.ones(2, 4, 9, 7)

    gradients, of_alphas = [], []
    for x in (torch.from_dlpack(numbers), torch.tensor(numbers)):
        x.requires_grad_()
        mixed.alpha.grad = None
        with Edges(mixed).gate_step("full", torch.Generator().manual_seed(0)) as step:
            F.mse_loss(mixed(x), target).backward()
        step.update(lambda: None)
        assert x.grad is not None
        gradients.append(np.from_dlpack(x.grad))
        assert gradients[-1].ctypes.data == x.grad.data_ptr()
        of_alphas.append(np.from_dlpack(mixed.alpha.grad))

    assert torch.from_dlpack(numbers).data_ptr() == numbers.ctypes.data
    for found, expected in (gradients, of_alphas):
        assert np.abs(expected).max() > 0
        np.testing.assert_array_equal(found, expected)
