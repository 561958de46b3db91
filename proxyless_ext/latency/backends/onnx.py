"""Modules as small ONNX files, quickly."""

from __future__ import annotations

import copy
import io
import warnings

import torch
from torch import Tensor, nn

from ...errors import UserError


def to_onnx(module: nn.Module, example: Tensor) -> bytes:
    """A module in eval mode as ONNX, with one input called ``input``; it is left as it is.

    By tracing: a table needs a hundred graphs, and `export.to_onnx` takes a second for each. The
    graphs of both run equally fast.

    Raises:
        UserError: it cannot be exported.
    """
    buffer = io.BytesIO()
    network = copy.deepcopy(module).cpu().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That tracing is the older way, at every call.
        try:
            # Tracing takes an open file, too, which the signature leaves out.
            torch.onnx.export(
                network,
                (example,),
                buffer,  # type: ignore[arg-type]
                input_names=["input"],
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"{type(module).__name__} cannot be exported to ONNX; measure it with backend eager"
            ) from error
    return buffer.getvalue()
