"""Stochastic depth (Huang et al., 2016): in training, branches beside shortcuts are left out at
random.
"""

from __future__ import annotations

from torch import Tensor, nn


class Branch(nn.Module):
    """A module that adds a branch to a shortcut, and can drop it.

    Attributes:
        drop_rate: how probable it is in training, for every picture, that the branch adds nothing;
            where it adds something, that is divided by 1 - drop_rate.
    """

    drop_rate: float = 0.0

    @property
    def drops(self) -> bool:
        """Whether branches are dropped."""
        return self.training and self.drop_rate > 0

    def dropped(self, branch: Tensor) -> Tensor:
        """A branch [N, ...], zero for the pictures that it is dropped for.

        Those are drawn from torch's generator of the tensor's device.
        """
        if not self.drops:
            return branch
        from torchvision.ops import stochastic_depth  # Slow to import, and few trainings need it.

        left: Tensor = stochastic_depth(branch, self.drop_rate, "row")
        return left


def set_drop_rates(network: nn.Module, rate: float) -> None:
    """Let the branches of a network be dropped, the deeper ones more often.

    Args:
        network: whose branch number l of L, from 1, gets l / L of the rate.
        rate: of the last branch, in [0, 1).
    """
    branches = [module for module in network.modules() if isinstance(module, Branch)]
    for number, branch in enumerate(branches, start=1):
        branch.drop_rate = rate * number / len(branches)
