"""Random numbers as a function of what they are for.

Every random decision of a run draws from a generator made from the run's seed and the decision's
own name, such as ("search", epoch, batch). So nothing needs to be saved or replayed for a resumed
run to go on exactly as it would have.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *name: str | int) -> int:
    """A 63-bit seed, the same for the same `seed` and `name` on every machine."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *name))
