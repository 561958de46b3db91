"""What is left of one derived network: the files that a user takes away, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ..files import write_atomically
from ..spaces import read_model
from .records import Comparison, Derivation, Result

Model = TypeVar("Model", bound=BaseModel)


class Outcome:
    """The files about one derived network, in a folder.

    A run for one network has them in its own folder, a run for several in a folder for each.

    Attributes:
        folder: that folder.
        architecture_path: the network.
        weights_path: its trained weights, `save_checkpoint` of a state_dict.
        onnx_path: both, as ONNX.
        derivation_path: how the network was chosen.
        result_path: the figures at the end.
        comparison_path: the same figures of other networks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.architecture_path = folder / "architecture.json"
        self.weights_path = folder / "weights.safetensors"
        self.onnx_path = folder / "network.onnx"
        self.derivation_path = folder / "derivation.json"
        self.result_path = folder / "result.json"
        self.comparison_path = folder / "comparison.json"

    @property
    def is_complete(self) -> bool:
        """Whether all is there that a search leaves whatever its settings."""
        paths = (self.architecture_path, self.weights_path, self.onnx_path)
        return all(path.exists() for path in (*paths, self.result_path, self.comparison_path))

    def write_result(self, result: Result) -> None:
        """Write the figures at the end."""
        write_atomically(self.result_path, result.model_dump_json(indent=2) + "\n")

    def write_derivation(self, derivation: Derivation) -> None:
        """Write how the network was chosen."""
        write_atomically(self.derivation_path, derivation.model_dump_json(indent=2) + "\n")

    @property
    def result(self) -> Result:
        """The figures at the end; none before they were written.

        Raises:
            UserError: the file cannot be understood.
        """
        return self._read(Result, self.result_path)

    @property
    def derivation(self) -> Derivation:
        """How the network was chosen; nothing where it was not measured."""
        return self._read(Derivation, self.derivation_path)

    @property
    def comparison(self) -> Comparison:
        """The figures of other networks; none before they were written."""
        return self._read(Comparison, self.comparison_path)

    def _read(self, model: type[Model], path: Path) -> Model:
        return read_model(model, path) if path.is_file() else model()

    def write_comparison(self, comparison: Comparison) -> None:
        """Write the figures of other networks."""
        write_atomically(self.comparison_path, comparison.model_dump_json(indent=2) + "\n")
