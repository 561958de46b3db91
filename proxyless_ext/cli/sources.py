"""What names on the command line stand for: networks and spaces."""

from __future__ import annotations

from pathlib import Path

from .. import zoo
from ..config import SpaceConfig
from ..errors import UserError
from ..runs import Run
from ..spaces import BUILTIN, Architecture, Space, validate


def read_architecture(source: str) -> Architecture:
    """The architecture of a run folder, a file of ours, a published file, or the zoo.

    Raises:
        UserError: it is none of these.
    """
    if source in zoo.NETWORKS:
        return zoo.architecture(source)
    path = Path(source)
    if path.is_dir():
        path = Run.open(path).outcome.architecture_path
    if not path.exists():
        raise UserError(
            f"'{source}' is no run folder, no file, and no network of the zoo "
            f"({', '.join(zoo.NETWORKS)})"
        )
    return zoo.import_config(path) if path.suffix == ".config" else Architecture.load(path)


def read_space(
    name: str, width_mult: float | None, resolution: int | None, classes: int | None
) -> Space:
    """A built-in space, or the one in a YAML file.

    Args:
        name: of either.
        width_mult, resolution: of the space; its own where None.
        classes: of the data; the space's own where None.

    Raises:
        UserError: there is no such space, or it cannot be so.
    """
    fields = {"name": name, "width_mult": width_mult, "resolution": resolution}
    space = validate(SpaceConfig, fields, "options").build()
    return space if classes is None else space.with_classes(classes)


def read_space_or_network(
    name: str, width_mult: float | None, resolution: int | None, classes: int | None
) -> Space | Architecture:
    """A space as by `read_space`, or a network as by `read_architecture`.

    Raises:
        UserError: it is neither, or a network and anything else is given.
    """
    path = Path(name)
    if name in BUILTIN or path.suffix in (".yaml", ".yml"):
        return read_space(name, width_mult, resolution, classes)
    if any(value is not None for value in (width_mult, resolution, classes)):
        raise UserError("a network says its own width, resolution and classes; leave them out")
    return read_architecture(name)
