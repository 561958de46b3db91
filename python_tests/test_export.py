import copy
import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from proxyless_ext.errors import UserError
from proxyless_ext.export import export_onnx, to_onnx
from proxyless_ext.nn import MBConv, Network, Zero
from proxyless_ext.spaces import Normalisation, Space, Stage, Stem
from proxyless_ext.training.ema import averaged
from proxyless_ext.training.networks import export_network


@pytest.fixture(scope="module")
def network() -> Network:
    """MBConvs, a skipped layer, and logits of ordinary size; in train mode."""
    space = Space(
        name="tiny",
        resolution=16,
        num_classes=5,
        stem=Stem(out_channels=8),
        candidates=("k3e1", "k5e3", "zero"),
        stages=(Stage(channels=8, cells=2), Stage(channels=16, cells=1, stride=2)),
        feature_mix=32,
        dropout=0.5,
    )
    torch.manual_seed(0)
    network = Network(space.architecture([0, 2, 1]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.randn(16, 3, 16, 16))  # One step of momentum 1: statistics of real inputs.
    return network


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The file and the difference that was found."""
    path = tmp_path_factory.mktemp("export") / "network.onnx"
    return path, export_onnx(network, 16, path)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_runtime_computes_the_same_for_any_batch(network, exported, batch):
    path, difference = exported
    pictures = torch.randn(batch, 3, 16, 16)
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(pictures)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pictures": pictures.numpy()})
    assert expected.std() > 0.1
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-5)
    assert 0 < difference < 1e-5


def test_the_file_is_whole_and_alone(exported):
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"pictures": ["batch", 3, 16, 16], "logits": ["batch", 5]}
    assert list(path.parent.iterdir()) == [path]


def test_the_network_stays_as_it_is(network, exported):
    assert network.training
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())


@pytest.fixture
def exporter(exported, monkeypatch):
    """Gives what was exported once instead of exporting again, which takes seconds."""
    content = exported[0].read_bytes()
    monkeypatch.setattr("proxyless_ext.export.to_onnx", lambda *_, **__: content)


@pytest.mark.usefixtures("exporter")
def test_a_difference_is_an_error_and_leaves_the_old_file(network, tmp_path):
    huge = copy.deepcopy(network)
    with torch.no_grad():
        huge.classifier.linear.weight.mul_(1e6)
    (tmp_path / "network.onnx").write_text("old")
    with pytest.raises(
        UserError, match=r"differ from PyTorch's by .*network\.onnx was not written"
    ):
        export_onnx(huge, 16, tmp_path / "network.onnx")
    assert (tmp_path / "network.onnx").read_text() == "old"


@pytest.mark.usefixtures("exporter")
def test_a_difference_is_one_of_the_largest_logit(network, tmp_path, monkeypatch):
    huge = copy.deepcopy(network).eval()
    with torch.no_grad():
        huge.classifier.linear.weight.mul_(1e6)

    def export(factor: float) -> float:
        def run(_, pictures):
            with torch.no_grad():
                return factor * torch.cat([huge(batch) for batch in pictures])

        monkeypatch.setattr("proxyless_ext.export._run", run)
        return export_onnx(huge, 16, tmp_path / "network.onnx")

    assert export(1 + 5e-5) > 1e-4
    with pytest.raises(UserError, match="differ from PyTorch's"):
        export(1 + 2e-4)


def test_a_nan_is_a_difference(tmp_path):
    with pytest.raises(UserError, match="differ from PyTorch's by nan"):
        export_onnx(NaN(), 4, tmp_path / "network.onnx")


class NaN(nn.Module):
    """Not a number where the input is below -1."""

    def forward(self, x):
        return x[:, 0, 0].add(1).sqrt()


class Svd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


def graph_of(path: Path) -> list[tuple[str, list[str], list[str]]]:
    return [(n.op_type, [*n.input], [*n.output]) for n in onnx.load(path).graph.node]


def test_the_graph_is_short_however_the_weights_lie(network, exported, tmp_path):
    expected = graph_of(exported[0])
    channels_last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    trained = averaged(channels_last, 0.9)
    trained.update_parameters(channels_last)
    weight = trained.module.stem.conv.weight
    assert not weight.is_contiguous()
    export_onnx(trained.module, 16, tmp_path / "b.onnx")
    assert graph_of(tmp_path / "b.onnx") == expected
    kinds = {kind for kind, _, _ in expected}
    assert kinds <= {"Conv", "Clip", "Add", "ReduceMean", "GlobalAveragePool", "Reshape", "Gemm"}


@pytest.mark.usefixtures("exporter")
def test_the_file_says_how_it_wants_its_pictures(network, tmp_path):
    architecture = network.architecture.model_copy(
        update={
            "classes": ("yes", "n\no", "\U0001f600", "é", "="),
            "normalisation": Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        }
    )
    export_network(network, architecture, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    said = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(said["classes"])) == architecture.classes
    assert json.loads(said["mean"]) == [0.1, 0.2, 0.3]
    assert json.loads(said["std"]) == [0.4, 0.5, 0.6]
    assert (said["channel_order"], said["layout"]) == ("RGB", "NCHW")
    assert (said["resize_short_side"], said["crop_centre"]) == ("16", "16")


def test_what_onnx_lacks_is_one_sentence():
    with pytest.raises(UserError, match=r"^Svd cannot be exported to ONNX; .*"):
        to_onnx(Svd().eval(), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    "layer", [MBConv(4, 6, 5, stride=2, expand_ratio=3), nn.Identity(), Zero(6, stride=2)]
)
def test_single_layers(layer, capfd):
    example = torch.randn(3, 4, 7, 7)
    content = to_onnx(layer.eval(), example)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (output,) = session.run(["output"], {"input": example.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), layer(example), rtol=0, atol=1e-5)
    assert capfd.readouterr() == ("", "")
