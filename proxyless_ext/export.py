"""Export to ONNX, checked against ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from .errors import UserError
from .files import write_atomically

TOLERANCE = 1e-4


def export_onnx(
    model: nn.Module,
    resolution: int,
    path: str | Path,
    in_channels: int = 3,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Write the network `model`, in eval mode, as an ONNX file for batches of any size.

    Its input is ``pictures`` [N, in_channels, resolution, resolution], its output ``logits``
    [N, classes], both float32.

    Args:
        model: left as it is.
        resolution: height and width of the pictures, in pixels.
        path: of the file.
        in_channels: of the pictures.
        metadata: what the file is to say of itself, such as `Architecture.deployment`.

    Returns:
        The largest absolute difference between PyTorch and ONNX Runtime in the logits of random
            pictures, in batches of 1 and of 3.

    Raises:
        UserError: the model cannot be exported, the difference is above 1e-4 of the largest logit
            (of 1, if all are smaller), or the file cannot be written; none is left behind then.
    """
    # Contiguous, because for weights that lie channels-last the exporter writes a longer graph.
    network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    shape = (in_channels, resolution, resolution)
    # Not of one picture: the exporter takes a size of 1 for a constant.
    content = to_onnx(network, torch.zeros(2, *shape), "pictures", "logits", dynamic_batch=True)
    proto = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(proto, dict(metadata or {}))
    content = proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(batch, *shape, generator=generator) for batch in (1, 3)]
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch in pictures])
    theirs = _run(content, pictures)
    difference, largest = (logits - theirs).abs().max().item(), logits.abs().max().item()
    if not difference <= TOLERANCE * max(1.0, largest):
        raise UserError(
            f"ONNX Runtime's logits differ from PyTorch's by {difference:.2g}, and the largest is "
            f"{largest:.2g}, so {path} was not written; train the network until its logits are "
            "numbers of moderate size"
        )
    write_atomically(path, content)
    return difference


def to_onnx(
    model: nn.Module,
    example: Tensor,
    input_name: str = "input",
    output_name: str = "output",
    dynamic_batch: bool = False,
) -> bytes:
    """`model`, a function of one tensor, as ONNX.

    Args:
        model: in eval mode, on the device of `example`.
        example: an input; ONNX fixes its shape.
        input_name, output_name: what ONNX calls them.
        dynamic_batch: let the first dimension vary; that of `example` must be at least 2.

    Returns:
        What an ONNX file holds and `onnxruntime.InferenceSession` takes.

    Raises:
        UserError: an operation has no counterpart in ONNX.
    """
    try:
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"{type(model).__name__} cannot be exported to ONNX; replace what it computes by "
            "operations that ONNX has"
        ) from error
    assert program is not None  # Without a path to write to, the exporter returns the program.
    content: bytes = program.model_proto.SerializeToString()
    return content


def _run(content: bytes, pictures: Iterable[Tensor]) -> Tensor:
    """What an ONNX file computes from batches [N, C, H, W], one after the other: [N, classes]."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits = [session.run(None, {"pictures": batch.numpy()})[0] for batch in pictures]
    return torch.cat([torch.from_numpy(each) for each in logits])
