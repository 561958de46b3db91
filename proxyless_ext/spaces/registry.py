"""Which operations there are: by the names that spaces and architectures call them by."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from ..errors import UserError
from .operations import (
    Activation,
    ConvSpec,
    IdentitySpec,
    MBConvSpec,
    Operation,
    PoolKind,
    PoolSpec,
    ProjectionSpec,
    SeparableSpec,
    ZeroSpec,
)
from .tree import TreeSpec

ENTRY_POINTS = "proxyless_ext.operations"
"""The group in which installed packages name modules that register operations."""

Make = Callable[[re.Match[str]], Operation]

_makers: dict[str, Make] = {}
_plugins: dict[Path, None] = {}


def register(pattern: str, make: Make) -> None:
    """Add operations.

    Args:
        pattern: a regular expression that their whole names match.
        make: the operation of such a name.

    Raises:
        UserError: there are operations of this pattern.
    """
    if pattern in _makers:
        raise UserError(f"operation '{pattern}' is registered twice; rename one of the two")
    _makers[pattern] = make


def parse_operation(name: str) -> Operation:
    """The operation that a name such as ``k5e6``, ``zero`` or ``identity`` stands for.

    Raises:
        UserError: it is the name of none, or of several.
    """
    if not (found := _matching(name, tuple(_makers.items()))):
        _load_installed()
        found = _matching(name, tuple(_makers.items()))
    if not found:
        raise UserError(
            f"'{name}' is not an operation; write k3, k5 or k7 with e1 to e6 (such as k5e6, or "
            "k5e6_se, k5e6_relu, k5e6_se_hswish), conv3, sep3, sep5, sep7, sep3d2, avgpool3, "
            "maxpool3, 'projection', 'zero' or 'identity', as a block a tree (tree_split2_copy2: "
            "split or copy, then copy at every level, 2 to 9 branches each), or give the file that "
            "registers it with --plugin"
        )
    if len(found) > 1:
        raise UserError(f"'{name}' is the name of {len(found)} operations; rename one of them")
    return found[0]


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Import Python files that register operations; those that were imported before stay.

    Raises:
        UserError: a file cannot be imported.
    """
    for path in map(Path, paths):
        if (file := path.absolute()) in _plugins:
            continue
        before = dict(_makers)
        try:
            _import(file)
        except (Exception, SystemExit) as error:
            _makers.clear()
            _makers.update(before)
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"plugin {path} cannot be imported ({type(error).__name__}: {error}); correct it"
            ) from error
        _plugins[file] = None


@lru_cache(maxsize=1024)  # Large spaces ask for the same few names very often.
def _matching(name: str, makers: tuple[tuple[str, Make], ...]) -> tuple[Operation, ...]:
    matches = ((re.fullmatch(pattern, name), make) for pattern, make in makers)
    return tuple(make(match) for match, make in matches if match)


def _import(file: Path) -> None:
    name = f"proxyless_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {file} is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


@cache
def _load_installed() -> None:
    """Import what installed packages register, once."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise UserError(
                f"the operations '{point.name}' of {point.value} cannot be imported "
                f"({type(error).__name__}: {error}); correct or uninstall that package"
            ) from error


register(
    r"k([357])e([1-6])(_se)?(?:_(relu|hswish))?",
    lambda match: MBConvSpec(
        int(match[1]), int(match[2]), bool(match[3]), cast(Activation, match[4] or "relu6")
    ),
)
register(
    r"conv([1357])(?:g([1-9]\d*))?(?:d([1-9]\d*))?",
    lambda match: ConvSpec(int(match[1]), int(match[2] or 1), int(match[3] or 1)),
)
register(
    r"sep(?:([357])|3d(2))",
    lambda match: SeparableSpec(int(match[1] or 3), int(match[2] or 1)),
)
register("(avg|max)pool3", lambda match: PoolSpec(cast(PoolKind, match[1])))
register(
    r"tree_(split|copy)([2-9])((?:_copy[2-9])*)",
    lambda match: TreeSpec(
        (int(match[2]), *map(int, re.findall(r"\d", match[3]))), match[1] == "split"
    ),
)
register("projection", lambda _: ProjectionSpec())
register("zero", lambda _: ZeroSpec())
register("identity", lambda _: IdentitySpec())
