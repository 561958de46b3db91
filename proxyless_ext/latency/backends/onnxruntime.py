"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime
from torch import Tensor, nn

from ..conditions import Conditions
from .base import Run, cpu_clock
from .onnx import to_onnx


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
        session = onnxruntime.InferenceSession(
            to_onnx(module, example), self.options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: example.numpy()}
        clock = self.clock

        def run() -> float:
            start = clock()
            session.run(None, feed)
            return 1e3 * (clock() - start)

        return run
