"""Settings that hold a path, which in a file starts from its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import is_named_source
from ..latency import COUNTS
from ..spaces import BUILTIN

_PATHS: dict[str, Callable[[str], bool]] = {
    "data.source": is_named_source,
    "data.root": lambda _: False,
    "space.name": lambda value: value in BUILTIN or not Path(value).suffix,
    "latency.table": lambda _: False,
}
"""Settings that hold a path, and whether a value is the name of something instead."""


def move_paths(tree: dict[str, Any], folder: Path) -> None:
    """Let relative paths in a tree of settings start from `folder`."""

    def moved(value: str) -> str:
        path = os.path.join(folder, os.path.expanduser(value))
        # Not a relative one, from which "./digits" would come out as a name.
        return os.path.normpath(path) if os.path.isabs(path) else path

    def move(settings: Any, name: str, is_name: Callable[[str], bool]) -> None:
        value = settings.get(name) if isinstance(settings, dict) else None
        if isinstance(value, str) and not is_name(value):
            settings[name] = moved(value)

    def move_limits(settings: Any) -> None:
        limits = settings.get("limits") if isinstance(settings, dict) else None
        if isinstance(limits, dict):
            settings["limits"] = {
                name if name in COUNTS or not isinstance(name, str) else moved(name): most
                for name, most in limits.items()
            }

    for key, is_name in _PATHS.items():
        section, name = key.split(".")
        move(tree.get(section), name, is_name)
    move_limits(tree.get("latency"))
    if isinstance(devices := tree.get("devices"), dict):
        for settings in devices.values():
            move(settings, "table", _PATHS["latency.table"])
            move_limits(settings)
    if isinstance(plugins := tree.get("plugins"), list):
        tree["plugins"] = [moved(each) if isinstance(each, str) else each for each in plugins]
