"""Pictures that a GPU decodes, beside those of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from test_device_decoding import jpeg

from proxyless_ext.config import RuntimeConfig
from proxyless_ext.data import DataConfig, Distortions, batches, load_pictures
from proxyless_ext.runtime import Runtime

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_nearly_those_of_the_cpu(tmp_path: Path, workers: int) -> None:
    """The decoders differ by rounding, and in how they enlarge colours."""
    for number in range(16):
        folder = tmp_path / f"train/{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        colours = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(number))
        image = Image.fromarray((255 * colours).byte().numpy()).resize((160, 120))
        (folder / f"{number}.jpg").write_bytes(jpeg(image, quality=95))
        image.save(folder / f"{number}.png")
    runtime = Runtime.set_up(RuntimeConfig(device="cuda", decoding="cuda"))
    distortions = Distortions(auto_augment="trivialaugment", cutout=20, random_erasing=0.5)
    dataset = load_pictures(
        DataConfig(source=str(tmp_path)), 96, seed=0, distortions=distortions
    ).train
    reading = {**runtime.reading, "workers": workers}
    for pictures, labels in batches(dataset, 8, 0, "train", 0, **reading):
        assert pictures.device.type == "cuda"
        assert len(labels) == 8
    found = torch.cat([each for each, _ in batches(dataset, 8, 0, "train", 0, **reading)]).cpu()
    expected = torch.cat([each for each, _ in batches(dataset, 8, 0, "train", 0)])
    differences = (found - expected).abs().flatten(1).mean(dim=1)
    assert differences.median() < 0.05  # Of a standard deviation, 3 of 255 levels.
    assert differences.max() < 0.5  # A distortion that depends on a pixel's value may turn over.
