"""A run folder: what its files are called, how it begins, and its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..environment import describe_environment
from ..errors import UserError
from ..files import write_atomically, write_error
from .metrics import Metrics


class Run:
    """A run folder. `Run.new` and `begin` make one, `Run.open` finds one again.

    A run that was killed and resumed leaves the same records as one that was not, but for their
    ``time``.

    Attributes:
        folder: of the run; the other attributes are paths in it.
        config_path: the configuration, seed included.
        environment_path: machine, versions and command line of the run's beginning.
        space_path: the search space.
        latency_path: the latency table of its layers.
        metrics_path: the records, a line of JSON each.
        tensorboard_path: the folder of the same as TensorBoard curves.
        checkpoints_path: the folder of checkpoints.
        architecture_path: the derived network.
        weights_path: its trained weights, `save_checkpoint` of a state_dict.
        onnx_path: both, as ONNX.
        result_path: the figures at the end.
        comparison_path: the same figures of other networks.
        report_path: the page to look at.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.environment_path = self.folder / "environment.json"
        self.space_path = self.folder / "space.yaml"
        self.latency_path = self.folder / "latency.yaml"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.tensorboard_path = self.folder / "tensorboard"
        self.checkpoints_path = self.folder / "checkpoints"
        self.architecture_path = self.folder / "architecture.json"
        self.weights_path = self.folder / "weights.safetensors"
        self.onnx_path = self.folder / "network.onnx"
        self.result_path = self.folder / "result.json"
        self.comparison_path = self.folder / "comparison.json"
        self.report_path = self.folder / "report.html"
        self._metrics = Metrics(self.metrics_path, self.tensorboard_path)

    @classmethod
    def new(cls, folder: str | Path) -> Run:
        """A run that `begin` will make in `folder`.

        Raises:
            UserError: there is a run in the folder already, or something else that the run might
                overwrite or take for its own.
        """
        run = cls(folder)
        if run.has_begun:
            raise UserError(
                f"{folder} already holds a run; go on with it by --resume, or choose another folder"
            )
        if run.folder.is_dir() and not run._is_blank():
            raise UserError(f"{folder} is not empty; choose another folder, or empty this one")
        return run

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any], seed: int) -> Run:
        """A new run that has begun: see `new` and `begin`."""
        run = cls.new(folder)
        run.begin(config, seed)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`, to be read, or to go on after `rewind`.

        Raises:
            UserError: there is none.
        """
        run = cls(folder)
        if not run.has_begun:
            raise UserError(f"there is no run in {folder}; give the folder that holds config.yaml")
        return run

    @property
    def has_begun(self) -> bool:
        """Whether the folder is a run."""
        return self.config_path.is_file()

    def _is_blank(self) -> bool:
        """Whether the folder holds nothing but hidden files and what a killed `begin` leaves."""
        leftovers = {self.environment_path, self.metrics_path, self.checkpoints_path}
        visible = {path for path in self.folder.iterdir() if not path.name.startswith(".")}
        checkpoints = self.checkpoints_path
        return visible <= leftovers and not (checkpoints.is_dir() and any(checkpoints.iterdir()))

    def begin(self, config: dict[str, Any], seed: int) -> None:
        """Make the folder, if it does not exist, a run; if it is one already, do nothing.

        Args:
            config: anything that YAML can hold.
            seed: of all random decisions; it becomes part of the configuration.

        Raises:
            UserError: nothing can be written there.
        """
        if self.has_begun:
            return
        try:
            self.checkpoints_path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.checkpoints_path, error) from error
        environment = json.dumps(describe_environment(), indent=2)
        write_atomically(self.environment_path, environment + "\n")
        write_atomically(self.metrics_path, "")
        # Last, because it is this file that makes the folder a run.
        settings = yaml.safe_dump({**config, "seed": seed}, sort_keys=False)
        write_atomically(self.config_path, settings)

    def checkpoint(self, name: str) -> Path:
        """The path of the checkpoint called `name`."""
        return self.checkpoints_path / f"{name}.safetensors"

    @property
    def num_records(self) -> int:
        """How many records there are: a checkpoint keeps it for `rewind`."""
        return len(self._metrics)

    def log(self, record: dict[str, Any]) -> None:
        """Add a record and the ``time``, seconds since 1970; it is on the disk when this returns.

        Args:
            record: anything that JSON can hold, with ``phase`` and ``step``. Its numbers are the
                points at ``step`` of TensorBoard's curves ``phase/name``.

        Raises:
            UserError: the disk is full.
        """
        self._metrics.append(record)

    def rewind(self, num_records: int) -> None:
        """Drop all records after the first `num_records`.

        Raises:
            UserError: there are not as many.
        """
        self._metrics.rewind(num_records)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the figures at the end: anything that JSON can hold."""
        write_atomically(self.result_path, json.dumps(result, indent=2) + "\n")

    def write_comparison(self, comparison: dict[str, Any]) -> None:
        """Write the figures of other networks: anything that JSON can hold."""
        write_atomically(self.comparison_path, json.dumps(comparison, indent=2) + "\n")
