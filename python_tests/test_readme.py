"""The README's example runs as it stands and moves what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

README = Path(__file__).parent.parent / "README.md"


def test_example() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    variables: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, variables)
    alpha = variables["layer"].alpha
    assert alpha.isfinite().all()
    # Ten steps of Adam, from a standard deviation of 1e-3.
    assert (alpha - alpha.mean()).abs().max() > 3e-3
