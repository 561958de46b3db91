"""Whether a run may go on: only with the pictures and the settings that it has used so far.

Otherwise pictures that the network was trained on could end up among those that it is validated on,
or phases that ran under other settings would be taken for their result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from ..config import Config, LatencyConfig
from ..data import (
    Inventory,
    Pictures,
    PictureSet,
    load_pictures,
    load_test_pictures,
    take_inventory,
)
from ..errors import UserError
from ..runs import Beginning, Run, phase_kind
from ..spaces import Architecture, validate

FREE = (
    "checkpoint_seconds",
    "checkpoints_kept",
    "plugins",  # Files may move; what they register is known by its names.
    "runtime.device",
    "runtime.decoding",
    "runtime.threads",
    "data.source",  # It is the pictures that count, wherever they lie.
    "data.root",
    "data.download",
    "data.workers",
    "data.bad_pictures",
    "data.bad_limit",
    "comparison",
)
"""Settings that can change at any time."""

PHASES = ("warmup", "search", "shortlist", "finalists", "train")
"""In order. The last that has begun can be given more epochs, by the section of its name."""

USED_BY = {
    "warmup": ("warmup",),
    "search": ("search",),
    "gates": ("search",),
    "latency": ("search",),
    "devices": ("search",),
    "targets": ("search",),
    "left_out": ("search",),
    "derive": ("shortlist", "finalists"),
    "train": ("finalists", "train"),
}
"""Sections that can change until a phase that uses them begins."""

HOLDING_OUT = ("seed", "data.val_fraction")
"""Settings that decide which pictures are held out for validation."""

MEASURED = set(LatencyConfig.OF_DEVICE)
"""Settings of a device that its own latency table in the run has used."""


def check_continuity(run: Run, config: Config, data: Pictures) -> None:
    """Refuse pictures or settings that are not those of a run, before anything is written.

    Args:
        run: that has begun.
        config: to go on with.
        data: its pictures, as they are now.

    Raises:
        UserError: says what changed.
    """
    _check_pictures(run, config, data)
    _check_settings(run, config, lambda key: _may_change(key, run))


def held_out_pictures(
    run: Run, config: Config, architecture: Architecture, own: bool
) -> PictureSet:
    """Pictures that a run's network was not trained on.

    Args:
        run: that trained it.
        config: of the run, but for the source where others than its own are given.
        architecture: of the network.
        own: those that the run validated on; else those of the source that `config` names, unless
            that is the run's own, of which nothing else was held out.

    Raises:
        UserError: the source cannot be used, has other classes, has changed since the run began, or
            has nothing but what was trained on.
    """
    resolution, normalisation = architecture.resolution, architecture.normalisation
    if normalisation is None or architecture.classes is None:
        raise UserError(f"the network of the run in {run.folder} knows no classes; train it first")
    before, given = Inventory.model_validate(run.beginning.pictures), take_inventory(config.data)
    if own or (
        before.parts.keys() == {"train"} and (given == before or _is_its_source(run, config))
    ):
        data = load_pictures(config.data, resolution, config.seed, normalisation)
        _check_pictures(run, config, data)
        _check_settings(run, config, lambda key: key not in HOLDING_OUT)
        return data.val
    if given and given.parts.keys() == {"train"} and given.parts["train"] == before.parts["train"]:
        raise UserError(
            f"the pictures of {config.data.source} are those that the run in {run.folder} was "
            "trained on; give others"
        )
    return load_test_pictures(config.data, resolution, architecture.classes, normalisation)


def _is_its_source(run: Run, config: Config) -> bool:
    """Whether `config` names the run's own source, whatever has become of it."""
    own = run.beginning.settings["data"]["source"]
    return os.path.realpath(config.data.source) == os.path.realpath(own)


def keep_settings(run: Run, config: Config) -> None:
    """Remember the settings that a run goes on with."""
    beginning = Beginning(pictures=run.beginning.pictures, settings=settings_of(config))
    if beginning != run.beginning:
        run.write_beginning(beginning)


def keep_end(run: Run) -> None:
    """Remember that all is done that the settings of a run ask for."""
    run.write_beginning(run.beginning.model_copy(update={"ended": True}))


def is_done(run: Run, config: Config) -> bool:
    """Whether a search has left all that a configuration asks for, which `check_continuity` passed.

    Networks of a comparison stay, so that it may ask for fewer of them.
    """
    beginning = run.beginning
    outcomes = [run.outcome_of(aim.name) for aim in config.aims]
    return (
        beginning.ended
        and all(outcome.is_complete for outcome in outcomes)
        and all(
            old is not None and new <= old
            if key.startswith("comparison.")
            else key in FREE or key.partition(".")[0] in FREE
            for key, old, new in differences(_began_with(run), settings_of(config))
        )
    )


def _check_pictures(run: Run, config: Config, data: Pictures) -> None:
    before = Inventory.model_validate(run.beginning.pictures)
    if changes := data.inventory.changes_since(before):
        raise UserError(
            f"the pictures of {config.data.source} are not those that the run in {run.folder} "
            f"began with: {changes}; restore them, or start a new run"
        )


def _check_settings(run: Run, config: Config, may_change: Callable[[str], bool]) -> None:
    for key, old, new in differences(_began_with(run), settings_of(config)):
        if not may_change(key):
            raise UserError(
                f"{key} was {old!r} when the run in {run.folder} used it and is {new!r} now; "
                f"restore it in {run.settings_path}, or start a new run"
            )


def _began_with(run: Run) -> dict[str, Any]:
    """The settings of a run's beginning; those that came later have their defaults."""
    settings = run.beginning.settings
    return settings_of(validate(Config, settings, str(run.beginning_path)))


def settings_of(config: Config) -> dict[str, Any]:
    """The whole configuration, as a run remembers it."""
    return config.model_dump(mode="json")


def differences(
    before: dict[str, Any], after: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys of the settings that differ, with their old and new values."""
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        # The way to a remote device is one setting, whatever it consists of.
        if isinstance(old, dict) and isinstance(new, dict) and key != "remote":
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def _may_change(key: str, run: Run) -> bool:
    section, _, name = key.partition(".")
    if section in FREE or key in FREE:
        return True
    device, _, setting = name.rpartition(".") if section == "devices" else ("", "", name)
    is_measured = section in ("latency", "devices") and setting in MEASURED
    if is_measured and run.table_path(device).exists():
        return False
    if section not in USED_BY:
        return False
    kinds = {phase_kind(path.stem) for path in run.checkpoints_path.iterdir()}
    begun = [phase for phase in PHASES if phase in kinds]
    is_unused = not set(begun) & set(USED_BY[section])
    return is_unused or name == "lr" or (name == "epochs" and begun[-1] == section)
