"""Measuring on a device that is slow to reach and may fail: in turn, again, and never twice."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from ..progress import progress_bar
from ..seeding import derive_seed
from ..spaces import Architecture
from .backends import Run, make_backend
from .conditions import Conditions
from .journal import Journal
from .remote import Remote
from .table import Entry
from .timing import fastest_half, summarise

SETTINGS = ("backend", "blocks", "batch_size", "threads", "processor")
"""Conditions that change what comes out; the others say how patiently it is measured."""


def journal_path(table: Path) -> Path:
    """Where what was measured for a table is kept."""
    return table.with_suffix(".measurements.jsonl")


def open_journal(path: Path, conditions: Conditions) -> Journal:
    """The journal at a path for what is measured under conditions."""
    settings = conditions.model_dump(mode="json", include=set(SETTINGS))
    if conditions.remote:
        settings |= conditions.remote.model_dump(mode="json", include={"command", "readout"})
    return Journal(path, settings)


def measure_in_turn(
    modules: Mapping[Hashable, tuple[nn.Module, Tensor]],
    conditions: Conditions,
    journal: Journal | None = None,
) -> dict[Hashable, Entry]:
    """Measure modules on a remote device, each for its input.

    Every module is run once in every round, in random order, so that a device that grows warm or
    slow does so for all. A run that fails is tried again; modules whose runs spread too much get
    more of them.

    Args:
        modules: by key.
        conditions: of the measurement, with a `Remote`.
        journal: has what was measured before, and gets what is measured now.

    Raises:
        UserError: runs of a module fail again and again, or spread too much; what was measured is
            in the journal.
    """
    trials = _Trials(modules, conditions, journal)
    rng = random.Random(derive_seed(0, "trials"))
    done = sum(min(len(each), conditions.repetitions) for each in trials.values.values())
    with progress_bar("measuring", len(modules) * conditions.repetitions, done) as bar:
        while wanting := [key for key in modules if trials.wants(key)]:
            fewest = min(len(trials.values[key]) for key in wanting)
            turn = [key for key in wanting if len(trials.values[key]) == fewest]
            for key in rng.sample(turn, len(turn)):
                trials.run(key)
                bar.advance(int(fewest < conditions.repetitions))
    for key in modules:
        trials.check_spread(key)
    return {key: summarise(values) for key, values in trials.values.items()}


class _Trials:
    """Runs of modules, and what came out."""

    def __init__(
        self,
        modules: Mapping[Hashable, tuple[nn.Module, Tensor]],
        conditions: Conditions,
        journal: Journal | None,
    ) -> None:
        assert conditions.remote is not None
        self.remote: Remote = conditions.remote
        self.repetitions = conditions.repetitions
        self.journal = journal
        self.backend = make_backend(conditions)
        self.modules = modules
        self.runs: dict[Hashable, Run] = {}
        self.names = {key: name_of(key) for key in modules}
        self.values = {
            key: [] if journal is None else list(journal.values(name))
            for key, name in self.names.items()
        }

    def wants(self, key: Hashable) -> bool:
        """Whether a module needs another run."""
        values = self.values[key]
        most = self.repetitions + (self.remote.retries if self._spreads(values) else 0)
        return len(values) < most

    def run(self, key: Hashable) -> None:
        """Run a module until that succeeds once."""
        run = self._built(key)
        for left in reversed(range(1 + self.remote.retries)):
            time.sleep(self.remote.pause_s)
            try:
                value = _checked(run())
                break
            except Exception as error:
                if not left:
                    raise self._failure(key, _reason(error)) from error
        if self.journal is not None:
            self.journal.add(self.names[key], value)
        self.values[key].append(value)

    def _built(self, key: Hashable) -> Run:
        """What runs a module, made when it is first needed."""
        if key not in self.runs:
            try:
                self.runs[key] = self.backend.build(*self.modules[key])
            except UserError:
                raise
            except Exception as error:
                raise self._failure(key, _reason(error)) from error
        return self.runs[key]

    def check_spread(self, key: Hashable) -> None:
        """Refuse what was run often enough and spreads even so."""
        if self._spreads(values := self.values[key]):
            found = ", ".join(f"{value:.4g}" for value in sorted(values))
            raise UserError(
                f"{self.remote.what} gives {self.names[key]} {found}, a spread of "
                f"{_spread(values):.0%}; make the device quieter (a pause between runs, a fixed "
                "clock, no other programs), ask for more repetitions, or allow a larger spread"
            )

    def _spreads(self, values: Sequence[float]) -> bool:
        return len(values) >= self.repetitions and _spread(values) > self.remote.max_spread

    def _failure(self, key: Hashable, reason: str) -> UserError:
        kept = "" if self.journal is None else f"; what was measured is in {self.journal.path}"
        return UserError(
            f"{self.remote.what} {reason}, on {self.names[key]}, after {self.remote.retries} "
            f"retries{kept}; mend it and give the same command again to go on"
        )


def name_of(key: Hashable) -> str:
    """What a thing to be measured is called in a journal: the same for all that is built alike."""
    if not isinstance(key, Architecture):
        return str(key)
    layers = "\n".join(layer.key for layer in key.layers())
    number = hashlib.blake2b(layers.encode(), digest_size=4).hexdigest()
    return f"network {number} of {' '.join(name for block in key.blocks for name in block.chosen)}"


def _checked(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"returned {value}, which cannot be")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"failed ({type(error).__name__}: {error})"


def _spread(values: Sequence[float]) -> float:
    kept = fastest_half(values)
    return (kept[-1] - kept[0]) / kept[0]
