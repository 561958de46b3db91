"""Configurations out of files and options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..documents import parse_document
from ..errors import UserError
from ..spaces import load_plugins, read_mapping, validate
from .config import Config
from .latency import LatencyConfig
from .paths import move_paths


def load_config(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration in a YAML file (the defaults without one), with single values overridden.

    Relative paths in the file start from its folder, those in `overrides` from the current one.

    Args:
        path: a YAML file, or None. Its key ``extends`` can name another, whose values hold where it
            says nothing.
        overrides: dotted keys such as ``search.epochs`` to values.

    Raises:
        UserError: naming the key that is unknown or does not fit, or a plugin cannot be imported.
    """
    tree = {} if path is None else _read_extended(path)
    for key, value in overrides.items():
        _set(tree, key, value)
    _fill_devices(tree)
    sources = ([str(path)] if path else []) + (["options"] if overrides else [])
    config = validate(Config, tree, " and ".join(sources) or "configuration")
    load_plugins(config.plugins)
    return config


def _read_extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, and the one that it extends.

    Args:
        path: of the file.
        below: those that extend it.
    """
    tree = read_mapping(path)
    base = tree.pop("extends", None)
    move_paths(tree, path.parent)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"'extends' in {path} is {base!r}; let it name one file")
    chain = (*below, path.resolve())
    if (extended := path.parent / base).resolve() in chain:
        raise UserError(f"{path} extends {base}, which extends it; remove one 'extends'")
    return _merged(_read_extended(extended, chain), tree)


def _merged(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings with the values of another in place of its own."""
    merged = {**tree, **over}
    for key in tree.keys() & over.keys():
        if isinstance(tree[key], dict) and isinstance(over[key], dict):
            merged[key] = _merged(tree[key], over[key])
    return merged


def read_devices(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What `Config.devices` is given, from files that hold what the section ``latency`` does.

    Args:
        files: called as the devices are; relative paths in them start from their folders.

    Raises:
        UserError: a file cannot be read or does not fit, or two devices have one name.
    """
    devices: dict[str, dict[str, Any]] = {}
    for file in files:
        if file.stem in devices:
            raise UserError(f"two devices are called '{file.stem}'; rename one of their files")
        settings = read_mapping(file)
        move_paths({"latency": settings}, file.absolute().parent)
        validate(LatencyConfig, settings, str(file))
        devices[file.stem] = settings
    return devices


def _fill_devices(tree: dict[str, Any]) -> None:
    """Let devices have what the section ``latency`` says about targets, where they say nothing."""
    general, devices = tree.get("latency"), tree.get("devices")
    if not isinstance(general, dict) or not isinstance(devices, dict):
        return
    shared = {name: value for name, value in general.items() if name not in LatencyConfig.OF_DEVICE}
    for name, settings in devices.items():
        if isinstance(settings, dict):
            devices[name] = {**shared, **settings}


def parse_override(text: str) -> tuple[str, Any]:
    """``search.epochs=3`` as key and YAML value.

    Raises:
        UserError: there is no ``=``.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"'{text}' sets nothing; write KEY=VALUE such as search.epochs=3")
    return key, parse_document(value, f"the value in '{text}'")


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UserError(f"'{key}' names no value: '{part}' has none below it")
    tree[last] = value
