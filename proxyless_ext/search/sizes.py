"""Searches of several sizes: a run for every width and resolution, in the folder of the whole."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .. import ranks
from ..config import Config, SpaceConfig
from ..data import Pictures, load_pictures
from ..errors import OutOfReachError, UserError
from ..runs import Run
from .goals import objective_of
from .task import Task


@dataclass(frozen=True)
class Size:
    """The search of one size.

    Attributes:
        name: such as ``w0.75-r128``.
        config: of it alone.
        task: what it is given.
    """

    name: str
    config: Config
    task: Task

    def without(self, networks: Collection[str]) -> Size:
        """The same with some of its networks left out."""
        left_out = (*self.config.left_out, *networks)
        return replace(self, config=self.config.model_copy(update={"left_out": left_out}))


def load_sizes(config: Config, run: Run | None) -> list[Size]:
    """What the sizes of a space are given; finds what is impossible before anything is written.

    Args:
        config: of all sizes.
        run: of all sizes, to go on with, if there is one.

    Raises:
        UserError: as of `Task.load`, naming the size. A target may be out of reach at some sizes,
            where it is left out with a warning, as long as it is not at all of them.
    """
    sizes = read_sizes(config, run)
    check_sizes(sizes, run)
    return sizes


def read_sizes(config: Config, run: Run | None) -> list[Size]:
    """`load_sizes` for a configuration that is yet to be checked."""
    begun = _begun(run)
    spaces = config.space.sizes()
    for name in spaces.keys() - begun.keys():
        with _at(name):
            spaces[name].build()
    data: dict[int | None, Pictures] = {}
    sizes: list[Size] = []
    for name, space in spaces.items():
        if space.resolution not in data:
            assert space.resolution is not None
            data[space.resolution] = load_pictures(
                config.data, space.resolution, config.seed, distortions=config.train
            )
        own = _config_of(config, name, space)
        with _at(name):
            task = Task.read(own, begun.get(name), data[space.resolution])
        if same := next((each.name for each in sizes if each.task.space == task.space), None):
            raise UserError(
                f"size {name} is the same space as {same}, since channels are multiples of 8; "
                "leave out one of them"
            )
        sizes.append(Size(name, own, task))
    return within_reach(sizes, run)


def check_sizes(sizes: Sequence[Size], run: Run | None = None) -> None:
    """Find what is impossible about the configurations of sizes, as `Task.check` does.

    Raises:
        UserError: as of `Task.check`, naming the size.
    """
    begun = _begun(run)
    for size in sizes:
        with _at(size.name):
            if size.config.aims:
                size.task.check(size.config, begun.get(size.name))


def within_reach(sizes: Sequence[Size], run: Run | None = None) -> list[Size]:
    """The sizes without the networks whose targets are out of reach by the tables there are.

    Args:
        sizes: all.
        run: of all sizes, if it has begun.

    Raises:
        UserError: a target is out of reach at every size.
    """
    begun = _begun(run)
    beyond: dict[str, dict[str, OutOfReachError]] = {}
    for size in sizes:
        for aim in size.config.aims:
            if (table := size.task.tables.get(aim.device)) is None:
                continue
            with _at(size.name):
                try:
                    objective_of(aim, size.task.space, table, begun.get(size.name))
                except OutOfReachError as error:
                    beyond.setdefault(aim.name, {})[size.name] = error
    reached = [
        size.without([network for network, errors in beyond.items() if size.name in errors])
        for size in sizes
    ]
    wanted = {aim.name for size in reached for aim in size.config.aims}
    for network, errors in beyond.items():
        told = [f"at size {name}, {error}" for name, error in errors.items()]
        if network not in wanted:
            raise UserError(f"no size has a network for {network}: {'; '.join(told)}")
        for each in told:
            warnings.warn(f"{each}; {network} is left out there", stacklevel=2)
    return reached


def begin_sizes(run: Run, sizes: Sequence[Size]) -> list[tuple[Run, Size]]:
    """Begin the run of each size, or take up those that have begun, and measure missing tables.

    This process works on all of them from now on.

    Args:
        run: of all sizes, in the hands of this process.
        sizes: as `load_sizes` gives them.

    Returns:
        The run and the search of each size, without what turned out to be out of reach.

    Raises:
        UserError: a target is out of reach at every size, or a backend cannot run here.
    """
    begun: list[tuple[Run, Size]] = []
    for each in sizes:
        size = replace(each, config=each.config.anchored())
        part = run.sizes[size.name]
        settings = size.config.model_dump(mode="json")
        if ranks.of_first(getattr, part, "has_begun"):
            part = Run.resume(part.folder)
        else:
            pictures = size.task.data.inventory.model_dump(mode="json")
            part = Run.create(part.folder, settings, size.config.seed, pictures)
        begun.append((part, size))
    measured = []
    try:
        for part, size in begun:
            with _at(size.name):
                measured.append(replace(size, task=size.task.measured(size.config, part)))
        reached = within_reach(measured, run)
    except UserError as error:
        raise run.correctable(error) from error
    found = [(part, size) for (part, _), size in zip(begun, reached, strict=True)]
    for part, size in found:
        ranks.of_first(part.write_config, size.config.model_dump(mode="json"))
    return found


def _begun(run: Run | None) -> dict[str, Run]:
    """The runs of sizes that have begun."""
    sizes = run.sizes if run else {}
    return {name: part for name, part in sizes.items() if part.has_begun}


def _config_of(config: Config, name: str, space: SpaceConfig) -> Config:
    """The configuration of one size."""
    devices = {
        device: latency
        if latency.table is None
        else latency.model_copy(update={"table": Path(str(latency.table).replace("{size}", name))})
        for device, latency in config.devices.items()
    }
    return config.model_copy(update={"space": space, "devices": devices})


@contextmanager
def _at(size: str) -> Iterator[None]:
    """Name the size that an error is about."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"size {size}: {error}") from error
