"""A run folder: what its files are called, how it begins, who works on it, and its records."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import time
from pathlib import Path
from typing import Any

from .. import ranks
from ..documents import write_document
from ..environment import describe_environment
from ..errors import UserError
from ..files import (
    check_writable,
    make_folder,
    remove_leftovers,
    write_atomically,
    write_error,
)
from ..spaces import load_plugins, read_mapping, read_model
from .checkpoints import Checkpoints
from .lock import FolderLock, holder
from .metrics import Metrics
from .outcome import Outcome
from .records import Beginning, Epoch, Position, network_name, size_name

_SIZES = "sizes"


class Run:
    """A run folder. `Run.create` makes one, `Run.open` finds one to read, `Run.resume` to go on.

    One process works on a run at a time: it holds the run's lock until it ends. Of several ranks
    that is the first, which alone writes. A run that was killed and resumed leaves the same records
    as one that was not, but for their ``time``.

    Attributes:
        folder: of the run; the other attributes are paths in it.
        config_path: the configuration, seed included.
        beginning_path: pictures and settings that the run goes on with.
        environment_path: machine, versions and command line of the run's beginning.
        space_path: the search space.
        latency_path: the latency table of its layers, in a run for one network.
        metrics_path: the records, a line of JSON each.
        tensorboard_path: the folder of the same as TensorBoard curves.
        position_path: where it stands, while it goes on.
        checkpoints_path: the folder of checkpoints.
        outcome: the files about the derived network, in a run for one.
        report_path: the page to look at.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.beginning_path = self.folder / "beginning.json"
        self.environment_path = self.folder / "environment.json"
        self.space_path = self.folder / "space.yaml"
        self.latency_path = self.folder / "latency.yaml"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.tensorboard_path = self.folder / "tensorboard"
        self.position_path = self.folder / "position.json"
        self.checkpoints_path = self.folder / "checkpoints"
        self.report_path = self.folder / "report.html"
        self.outcome = Outcome(self.folder)
        self._metrics = Metrics(self.metrics_path, self.tensorboard_path)
        self._lock_path = self.folder / ".lock"
        self._lock = FolderLock(self._lock_path)
        self._command = ""

    @property
    def networks_folder(self) -> Path:
        """What holds a folder for each network, in a run for several."""
        return self.folder / "networks"

    @property
    def networks(self) -> dict[str, str]:
        """The device of every network that is searched, by the network's name; both are empty in a
        run for one.

        Raises:
            UserError: the configuration cannot be read.
        """
        settings = read_mapping(self.config_path)
        devices, targets = settings.get("devices"), settings.get("targets")
        left_out = settings.get("left_out") or ()
        if not devices:
            return {"": ""}
        return {
            name: device
            for device, latency in devices.items()
            for target in targets or [latency["target"]]
            if (name := network_name(device, target)) not in left_out
        }

    @property
    def sizes(self) -> dict[str, Run]:
        """The run of each size by its name, in a run for several; whether it has begun or not.

        Raises:
            UserError: the configuration cannot be read.
        """
        space = read_mapping(self.config_path).get("space") or {}
        sizes = itertools.product(space.get("width_mults") or (), space.get("resolutions") or ())
        names = [size_name(width_mult, resolution) for width_mult, resolution in sizes]
        if len(names) < 2:
            return {}
        return {name: Run(self.folder / _SIZES / name) for name in names}

    @property
    def whole(self) -> Run | None:
        """The run for several sizes that this one is a part of."""
        folder = self.folder.absolute()
        whole = Run(folder.parent.parent)
        is_part = folder.parent.name == _SIZES and whole.has_begun and folder.name in whole.sizes
        return whole if is_part else None

    def table_path(self, device: str) -> Path:
        """The latency table of a device, whose name is empty in a run for one network."""
        return self.folder / "devices" / f"{device}.yaml" if device else self.latency_path

    def limit_path(self, name: str) -> Path:
        """The run's copy of the table that the configuration calls `name` and limits costs by."""
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return self.folder / "limits" / f"{Path(name).stem}-{digest}.yaml"

    def outcome_of(self, name: str) -> Outcome:
        """The files about the network called `name`, which is empty in a run for one."""
        return Outcome(self.networks_folder / name) if name else self.outcome

    @property
    def going_on(self) -> str:
        """The option or the command that goes on with it, as a shell takes it."""
        return self._command or f"--resume {shlex.quote(str((self.whole or self).folder))}"

    def goes_on_by(self, *command: str) -> None:
        """Have the words of a command go on with what is under way, instead of an option."""
        self._command = shlex.join(command)

    def correctable(self, error: UserError) -> UserError:
        """An error of the configuration that was found after the run had begun."""
        return UserError(f"{error}; correct {self.settings_path} and go on with {self.going_on}")

    @property
    def settings_path(self) -> Path:
        """The configuration to edit before going on: of all sizes where there are several."""
        return (self.whole or self).config_path

    @classmethod
    def create(
        cls, folder: str | Path, config: dict[str, Any], seed: int, pictures: dict[str, Any]
    ) -> Run:
        """A new run in a folder that is made if it does not exist; this process works on it.

        Args:
            folder: of the run.
            config: anything that YAML can hold.
            seed: of all random decisions; it becomes part of the configuration.
            pictures: what tells whether they are still the same.

        Raises:
            UserError: nothing can be written there, or what `check_free` raises.
        """
        run = cls(folder)
        ranks.of_first(run._begin, {**config, "seed": seed}, pictures)
        return run

    def _begin(self, settings: dict[str, Any], pictures: dict[str, Any]) -> None:
        make_folder(self.checkpoints_path)
        self._lock.take()
        check_free(self.folder)
        remove_leftovers(self.folder)
        self.write_beginning(Beginning(pictures=pictures, settings=settings))
        environment = json.dumps(describe_environment(), indent=2)
        write_atomically(self.environment_path, environment + "\n")
        write_atomically(self.metrics_path, "")
        # Last, because it is this file that makes the folder a run.
        self.write_config(settings)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`, to be read; its plugins are imported.

        Raises:
            UserError: there is none, or a plugin cannot be imported.
        """
        run = cls(folder)
        if not run.has_begun:
            raise UserError(f"there is no run in {folder}; give the folder that holds config.yaml")
        plugins = read_mapping(run.config_path).get("plugins")
        load_plugins(plugins if isinstance(plugins, list) else ())
        return run

    @classmethod
    def resume(cls, folder: str | Path) -> Run:
        """The run in `folder`, to go on with: this process works on it.

        Raises:
            UserError: there is none, or another process works on it.
        """
        run = cls.open(folder)
        if ranks.is_first():
            run._lock.take()
            remove_leftovers(run.folder)
            remove_leftovers(run.checkpoints_path)
        return run

    def let_go(self) -> None:
        """Let other processes work on the run, before this one ends."""
        self._lock.let_go()

    @property
    def has_begun(self) -> bool:
        """Whether the folder is a run."""
        return self.config_path.is_file()

    @property
    def has_ended(self) -> bool:
        """Whether all of its networks have been found."""
        parts = self.sizes.values()
        if parts:
            return all(part.has_begun and part.has_ended for part in parts)
        return all(self.outcome_of(name).result_path.exists() for name in self.networks)

    @property
    def worker(self) -> str | None:
        """The process that works on the run, as seen from another one; None if there is none."""
        return holder(self._lock_path)

    def owns(self, path: Path) -> bool:
        """Whether `path` is a file of the run, which nothing else should write to."""
        attributes = [*vars(self).values(), *vars(self.outcome).values()]
        return any(path.absolute() == own.absolute() for own in attributes if isinstance(own, Path))

    @property
    def beginning(self) -> Beginning:
        """What the run began with.

        Raises:
            UserError: it cannot be read.
        """
        return read_model(Beginning, self.beginning_path)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the configuration: anything that YAML can hold."""
        write_atomically(self.config_path, write_document(config))

    def write_beginning(self, beginning: Beginning) -> None:
        """Remember what the run goes on with."""
        write_atomically(self.beginning_path, beginning.model_dump_json(indent=2) + "\n")

    def write_position(self, position: Position) -> None:
        """Say where the run stands, for others to see."""
        write_atomically(self.position_path, position.model_dump_json() + "\n")

    def checkpoint(self, name: str) -> Path:
        """The path of the checkpoint called `name`."""
        return self.checkpoints_path / f"{name}.safetensors"

    def checkpoints(self, name: str, kept: int = 1) -> Checkpoints:
        """The checkpoint called `name`, and those before it."""
        return Checkpoints(self.checkpoint(name), kept)

    @property
    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that was written last, of any phase; None before the first."""
        paths = self.checkpoints_path.glob("*.safetensors")
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)

    @property
    def num_records(self) -> int:
        """How many records there are: a checkpoint keeps it for `rewind`."""
        return len(self._metrics)

    def log(self, record: Epoch) -> None:
        """Add a record with its ``time``; it is on the disk when this returns.

        Its numbers are the points at ``step`` of TensorBoard's curves ``phase/name``.

        Raises:
            UserError: the disk is full.
        """
        self._metrics.append(record.model_copy(update={"time": time.time()}))

    def rewind(self, num_records: int) -> None:
        """Drop all records after the first `num_records`.

        Raises:
            UserError: there are not as many.
        """
        self._metrics.rewind(num_records)


def check_free(folder: Path) -> None:
    """Whether a run can begin in a folder, which need not exist.

    Raises:
        UserError: there is a run in it already, or something else that the run might overwrite or
            take for its own.
    """
    run = Run(folder)
    if run.has_begun:
        raise UserError(
            f"{folder} already holds a run; go on with it by {Run(folder).going_on}, or choose "
            "another folder"
        )
    if folder.is_dir():
        # Hidden files do not count, nor does what a killed beginning leaves.
        leftovers = {run.beginning_path, run.environment_path, run.metrics_path}
        empty = run.checkpoints_path.is_dir() and not any(run.checkpoints_path.iterdir())
        leftovers |= {run.checkpoints_path} if empty else set()
        if not {path for path in folder.iterdir() if path.name[0] != "."} <= leftovers:
            raise UserError(f"{folder} is not empty; choose another folder, or empty this one")


def new_folder(parent: Path) -> Path:
    """Make a folder for a run, called by the time, and with a number where there is one already.

    Raises:
        UserError: nothing can be written there.
    """
    name = time.strftime("%Y%m%d-%H%M%S")
    for number in range(2, 1000):
        folder = parent / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        except OSError as error:
            raise write_error(folder, error) from error
        else:
            return folder
    raise UserError(f"{parent} holds too many runs of this second; choose another folder by --out")


def check_output(path: Path) -> None:
    """Find out before the work whether a command may write its result to `path`.

    Raises:
        UserError: nothing can be written there, or the file is one of a run's own.
    """
    run = Run(path.parent)
    if run.has_begun and run.owns(path):
        raise UserError(f"{path} is a file of the run in {path.parent}; choose another place")
    check_writable(path)
