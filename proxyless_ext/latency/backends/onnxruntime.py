"""ONNX Runtime on the CPU."""

from __future__ import annotations

import copy
import io
import warnings

import onnxruntime
import torch
from torch import Tensor, nn

from ...errors import UserError
from ..conditions import Conditions
from .base import Run, cpu_clock


class OnnxRuntime:
    """Runs the module as an ONNX graph, with all of the runtime's graph optimisations."""

    def __init__(self, conditions: Conditions) -> None:
        self.clock = cpu_clock(conditions.threads)
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = conditions.threads
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = 3
        # Every session has its own threads: those of one must not spin while another is timed.
        self.options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def build(self, module: nn.Module, example: Tensor) -> Run:
        graph = _to_onnx(copy.deepcopy(module).cpu().eval(), example)
        session = onnxruntime.InferenceSession(
            graph, self.options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: example.numpy()}
        clock = self.clock

        def run() -> float:
            start = clock()
            session.run(None, feed)
            return 1e3 * (clock() - start)

        return run


def _to_onnx(module: nn.Module, example: Tensor) -> bytes:
    """By tracing: a table needs a hundred graphs, and `export.to_onnx` takes a second for each.

    The graphs of both run equally fast.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That tracing is the older way, at every call.
        try:
            # Tracing takes an open file, too, which the signature leaves out.
            torch.onnx.export(module, (example,), buffer, dynamo=False)  # type: ignore[arg-type]
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"{type(module).__name__} cannot be exported to ONNX; measure it with backend eager"
            ) from error
    return buffer.getvalue()
