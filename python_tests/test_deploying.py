"""The programs of the guide to deploying see a picture as a run does, and say what PyTorch says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pages import blocks, run_python, run_shell
from PIL import Image
from tiny_runs import SPACE

from proxyless_ext.data.decoding import decode
from proxyless_ext.data.sources import IMAGENET
from proxyless_ext.data.transforms import fit, normalise
from proxyless_ext.nn import Network
from proxyless_ext.training.networks import export_network

PAGE = "docs/deploy.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """A folder with a network, a picture and pictures of two classes; the network in PyTorch."""
    folder = tmp_path_factory.mktemp("deploying")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 50, 70, 3), dtype=np.uint8)
    for index, each in enumerate(pixels):
        part = folder / "pictures" / ("train", "val")[index % 2] / "ab"[index // 3]
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(part / f"{index}.png")
    picture = Image.fromarray(pixels[0]).resize((700, 500), Image.Resampling.BICUBIC)
    picture.save(folder / "picture.png")
    picture.save(folder / "picture.ppm")
    space = SPACE.model_copy(update={"resolution": 72})
    architecture = space.architecture([0, 1, 2, 3]).model_copy(
        update={"classes": tuple("abcdefghij"), "normalisation": IMAGENET}
    )
    torch.manual_seed(0)
    network = Network(architecture).eval()
    export_network(network, architecture, folder / "network.onnx")
    return folder, network


def test_deploying(
    exported: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The example's logits are those of the network for the picture as a run reads it."""
    folder, network = exported
    monkeypatch.chdir(folder)
    variables = run_python(PAGE)
    ours = normalise(IMAGENET)(fit(72)(decode(folder / "picture.png")))
    theirs = torch.from_numpy(variables["prepare"]("picture.png"))
    assert (ours - theirs).abs().max() < 1.01 / 255 / 0.224  # A level, at the smallest std.
    with torch.no_grad():
        exact = network(theirs[None])
    logits = torch.from_numpy(variables["logits"])
    torch.testing.assert_close(logits, exact, atol=1e-4, rtol=0)
    name, float32, int8 = capsys.readouterr().out.splitlines()
    assert name in "abcdefghij"
    assert float32.startswith("network.onnx: ")
    assert int8.startswith("network.int8.onnx: ")

    session = onnxruntime.InferenceSession("network.int8.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert variables["said"].items() <= metadata.items()
    (coarse,) = session.run(None, {"pictures": theirs[None].numpy()})
    difference = (torch.from_numpy(coarse) - exact).norm() / exact.norm()
    assert 0 < difference < 0.1


def test_deploying_in_cpp(exported: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's logits are those of the Python example."""
    folder, _ = exported
    monkeypatch.chdir(folder)
    asked = [os.environ.get("CXX", "c++"), "-M", "-x", "c++", "-"]
    include = "#include <onnxruntime_cxx_api.h>"
    found = subprocess.run(asked, input=include, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("the compiler does not find ONNX Runtime's headers; name their folder in CPATH")
    (headers,) = re.findall(r"(\S+)/onnxruntime_cxx_api\.h", found.stdout)
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    release = Path("ONNXRUNTIME")
    (release / "lib").mkdir(parents=True)
    (release / "include").symlink_to(headers)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (release / "lib" / name).symlink_to(library)
    (program,) = blocks("cpp", PAGE)
    Path("classify.cpp").write_text(program.code)
    *logits, last = run_shell(PAGE).splitlines()

    variables: dict[str, Any] = {}
    exec(blocks("python", PAGE)[0].code, variables)
    (expected,) = variables["logits"]
    np.testing.assert_allclose(np.array(logits, np.float32), expected, atol=1e-3)
    assert last.startswith(f"class {expected.argmax()} of ")
