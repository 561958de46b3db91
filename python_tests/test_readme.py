"""The examples in the README and the guides run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import SPACE

from proxyless_ext.data.decoding import decode
from proxyless_ext.data.sources import IMAGENET
from proxyless_ext.data.transforms import fit, normalise
from proxyless_ext.nn import MixedOp, Network
from proxyless_ext.training.networks import export_network

README = Path(__file__).parent.parent / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_mixed_op() -> None:
    code, _ = examples()
    variables: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, variables)
    alpha = variables["layer"].alpha
    assert alpha.isfinite().all()
    # Ten steps of Adam, from a standard deviation of 1e-3.
    assert (alpha - alpha.mean()).abs().max() > 3e-3


@pytest.mark.filterwarnings("ignore:whole models deviate", "ignore:other programs kept")
def test_search_over_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    _, code = examples()
    assert len(code.splitlines()) <= 25
    variables: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, variables)
    cost, target = map(float, re.findall(r"[\d.]+", capsys.readouterr().out))
    assert cost == pytest.approx(target, rel=0.06)  # 5 % and what rounding may add.
    network = variables["network"].eval()
    assert not any(isinstance(module, MixedOp) for module in network.modules())
    assert network(variables["pictures"]).shape == (16, 10)


def test_what_was_tried_has_tests() -> None:
    table = (README.parent / "docs" / "compatibility.md").read_text()
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source)}
    named = set(re.findall(r"`(test_\w+)`", table))
    assert len(named) > 20
    assert named <= defined


def test_deploying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The example's logits are those of the network for the picture as a run reads it."""
    guide = README.parent / "docs" / "deploy.md"
    (code,) = re.findall(r"```python\n(.*?)```", guide.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((700, 500), Image.Resampling.BICUBIC).save("picture.png")
    space = SPACE.model_copy(update={"resolution": 72})
    architecture = space.architecture([0, 1, 2, 3]).model_copy(
        update={"classes": tuple("abcdefghij"), "normalisation": IMAGENET}
    )
    torch.manual_seed(0)
    network = Network(architecture).eval()
    export_network(network, architecture, tmp_path / "network.onnx")
    variables: dict[str, Any] = {}
    exec(code, variables)
    ours = normalise(IMAGENET)(fit(72)(decode(tmp_path / "picture.png")))
    theirs = torch.from_numpy(variables["prepare"]("picture.png"))
    assert (ours - theirs).abs().max() < 1.01 / 255 / 0.224  # A level, at the smallest std.
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(variables["logits"]), network(theirs[None]), atol=1e-4, rtol=0
        )
    assert capsys.readouterr().out.strip() in architecture.classes
