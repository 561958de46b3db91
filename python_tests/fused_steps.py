"""Steps of modules that run fused operators, to be compared with those of plain layers."""

from __future__ import annotations

from typing import Any

import torch
from mbconv_cases import relative_error
from torch import Tensor, nn

SIZE = (3, 9, 7)  # N, H, W


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]


def disturb(module: nn.Module, seed: int = 0) -> None:
    """Numbers that hide nothing: scales are not 1, statistics not those of fresh BatchNorms."""
    random = generator(seed)
    with torch.no_grad():
        for norm in norms_of(module):
            norm.weight.uniform_(0.5, 2, generator=random)
            norm.bias.uniform_(-1, 2, generator=random)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(generator=random)
            norm.running_var.uniform_(0.5, 2, generator=random)


def picture(channels: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    N, H, W = SIZE
    numbers = torch.randn(N, channels, H, W, dtype=torch.float64, generator=generator(seed))
    return (1 + 2 * numbers).to(dtype)


def step(module: nn.Module, x: Tensor, **options: Any) -> dict[str, Tensor]:
    """The output, all gradients, and the state after a forward and a backward pass."""
    module.zero_grad()
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(leaf, **options)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=generator(1)).to(y.dtype)
    y.backward(grad)
    gradients = {f"d{name}": weight.grad for name, weight in module.named_parameters()}
    assert leaf.grad is not None
    found = {"y": y, "dx": leaf.grad, **gradients, **module.state_dict()}
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


def assert_agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype, name
        assert relative_error(value, expected[name]) < tolerance, name
