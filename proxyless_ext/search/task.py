"""What a search is given: its pictures, its space and perhaps its latencies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import ranks
from ..config import Config, LatencyConfig, SupernetConfig
from ..data import Pictures, load_pictures
from ..errors import UserError
from ..files import make_folder
from ..latency import (
    LatencyTable,
    count_table,
    measure_and_fit,
    measure_table,
    open_journal,
)
from ..latency.backends import make_backend
from ..latency.trials import journal_path
from ..runs import Run
from ..runtime import Runtime
from ..spaces import Space
from ..training.batch_norm import check_batch
from ..training.continuity import check_continuity
from .goals import check_table, check_unmeasured, objective_of
from .limits import keep_limits
from .phases import first_gate_step


@dataclass(frozen=True)
class Task:
    """What a search is given.

    Attributes:
        space: the space to search, with the classes of the pictures.
        data: the pictures.
        runtime: where to search.
        tables: what the space's layers cost by the names of devices; those that are yet to be
            measured are missing.
    """

    space: Space
    data: Pictures
    runtime: Runtime
    tables: Mapping[str, LatencyTable]

    @classmethod
    def load(cls, config: Config, run: Run | None) -> Task:
        """Load all of it, and find what is impossible before anything is written.

        Args:
            config: of the run.
            run: to go on with, if there is one: it has its space and perhaps its latency tables.

        Raises:
            UserError: pictures, devices, space, tables, targets, limits, schedule or comparison are
                impossible, or pictures or settings are not those of the run.
        """
        task = cls.read(config, run)
        task.check(config, run)
        return task

    @classmethod
    def read(cls, config: Config, run: Run | None, data: Pictures | None = None) -> Task:
        """`load` for a configuration that is yet to be checked.

        Args:
            config, run: as of `load`.
            data: pictures of the space's resolution, if they were loaded before.
        """
        runtime = Runtime.set_up(config.runtime)
        if run and run.space_path.exists():
            space = Space.load(run.space_path)
        else:
            space = config.space.build()
        data = data or load_pictures(
            config.data, space.resolution, config.seed, distortions=config.train
        )
        space = space.with_classes(len(data.classes))
        tables = _load_tables(config, run, space)
        _check_classes(config, data)
        _check_comparison(config, space)
        return cls(space, data, runtime, tables)

    def measured(self, config: Config, run: Run | None = None) -> Task:
        """The same with the tables that were missing, measured now by the first rank.

        Args:
            config: of the run.
            run: keeps all tables, those of limits, too.

        Raises:
            UserError: a backend cannot run here.
        """
        return replace(self, tables=ranks.of_first(self._measure, config, run))

    def _measure(self, config: Config, run: Run | None) -> Mapping[str, LatencyTable]:
        tables = dict(self.tables)
        for device, latency in {aim.device: aim.latency for aim in config.aims}.items():
            if run:
                keep_limits(latency, run)
            path = run.table_path(device) if run else None
            if path:
                make_folder(path.parent)
            if device not in tables:
                tables[device] = _measure(self.space, latency, path)
            if path:
                tables[device].save(path)
                tables[device] = LatencyTable.load(path)
        return tables

    def check(self, config: Config, run: Run | None = None) -> None:
        """Find what is impossible about a configuration.

        Raises:
            UserError: pictures or settings are not those of the run, a table lacks layers, a target
                is out of reach, there is no gate step, or batches are too small for BatchNorm.
        """
        if run:
            check_continuity(run, config, self.data)
        for aim in config.aims:
            if aim.device in self.tables:
                objective_of(aim, self.space, self.tables[aim.device], run)
        first_gate_step(config, len(self.data.train_weights))
        _check_batches(config, self)


def _load_tables(config: Config, run: Run | None, space: Space) -> dict[str, LatencyTable]:
    """The tables that there are, or that are counted."""
    tables: dict[str, LatencyTable] = {}
    for aim in config.aims:
        if (name := aim.device) not in tables:
            source, own = aim.latency.table, run.table_path(name) if run else None
            if own and own.exists():
                tables[name] = LatencyTable.load(own)
            elif source:
                tables[name] = LatencyTable.load(source)
                if run is None:  # Of a run that has begun, it was checked.
                    check_table(aim, tables[name], space)
            elif counted := aim.latency.counted:
                tables[name] = count_table(space, counted)
            else:
                make_backend(aim.latency.conditions())
                check_unmeasured(aim, space, run)
    return tables


def _measure(space: Space, latency: LatencyConfig, path: Path | None) -> LatencyTable:
    """Measure a device; what a remote one measures is kept beside the table, whatever happens."""
    conditions = latency.conditions()
    if not conditions.is_remote:
        return measure_table(space, conditions)
    assert path is not None, "plans refuse remote devices"
    with open_journal(journal_path(path), conditions) as journal:
        fit, table = measure_and_fit(space, conditions, latency.networks, journal=journal)
    if (error := fit.held_out.median_error) > latency.tolerance:
        warnings.warn(
            f"the table fitted to {latency.networks} networks on {conditions.processor} misses "
            f"others by {error:.1%}, more than the tolerance of {latency.tolerance:.1%}; measure "
            "more networks, or quieten the device",
            stacklevel=2,
        )
    return table


def _check_classes(config: Config, data: Pictures) -> None:
    """Nothing can be told apart by pictures that are all of one class."""
    for what, part in (("validation", data.val), ("held-out training", data.train_gates)):
        present = part.labels.unique().tolist()
        if len(present) == 1:
            raise UserError(
                f"the {what} pictures of {config.data.source} are all of class "
                f"'{data.classes[present[0]]}'; give some of the others"
            )


def _check_batches(config: Config, task: Task) -> None:
    any_network = task.space.architecture([0] * len(task.space.counts))
    data, runtime = task.data, task.runtime
    for name, part in (
        ("warmup", data.train_weights),
        ("search", data.train_weights),
        ("gates", data.train_gates),
        ("train", data.train),
    ):
        section = getattr(config, name)
        parts = 1 if name == "gates" else section.parts
        if isinstance(section, SupernetConfig) and section.paths_per_step > 1:
            parts = section.paths_of_rank(runtime.world)
            if runtime.sync_batch_norm:
                raise UserError(
                    f"{name}.paths_per_step is {section.paths_per_step}, and "
                    "runtime.sync_batch_norm is for ranks that run one path; leave one of them out"
                )
        key = f"{name}.batch_size"
        check_batch(any_network, key, section.batch_size, len(part), runtime, parts)


def _check_comparison(config: Config, space: Space) -> None:
    wanted, others = config.comparison.random_networks, space.num_networks - 1
    if wanted > others:
        raise UserError(
            f"comparison.random_networks is {wanted}, but '{space.name}' has only {others} other "
            "networks; lower it"
        )
