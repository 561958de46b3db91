"""Options about how something is measured, and the conditions that they make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import UserError
from ..latency import Conditions, Journal, open_journal
from ..latency.conditions import BUILT_IN, DeviceName, DtypeName
from ..latency.remote import REMOTE_REPETITIONS
from ..latency.trials import journal_path
from ..runs import check_output
from ..spaces import validate
from .command import console
from .options import BatchOption

BackendOption = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(BUILT_IN)}, or a plug-in's; onnxruntime if absent."),
]
DeviceOption = Annotated[
    DeviceName | None, typer.Option(help="What a backend of this machine runs on; cpu if absent.")
]
DtypeOption = Annotated[
    DtypeName, typer.Option(help="Of weights and pictures, for eager and compile.")
]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Run MBConvs as plain layers where PyTorch would fuse them.")
]
ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend on the CPU.")]
WarmupOption = Annotated[
    int | None, typer.Option(help="Runs before timed ones, on this machine; 1 if absent.")
]
RepetitionsOption = Annotated[
    int | None,
    typer.Option(help="Timed runs of each; if absent 100 on this machine (30 to compare), else 3."),
]
CommandOption = Annotated[
    str | None,
    typer.Option(help="Measures an ONNX file; {onnx} stands for it, {threads}, {batch} as said."),
]
NameOption = Annotated[
    str | None, typer.Option(help="Of the device that a command or a plug-in measures on.")
]
PatternOption = Annotated[
    str | None, typer.Option(help="Regular expression whose group is the number that is printed.")
]
JsonOption = Annotated[
    str | None, typer.Option("--json", help="Of the number in printed JSON, such as results.mean.")
]
UnitOption = Annotated[
    str | None, typer.Option(help="Of the number: ms if absent, us, s, or another such as mJ.")
]
TimeoutOption = Annotated[
    float | None, typer.Option(help="Seconds after which the command is ended; 120 if absent.")
]
RetriesOption = Annotated[
    int | None, typer.Option(help="Of runs that fail or spread too much; 2 if absent.")
]
SpreadOption = Annotated[
    float | None, typer.Option("--max-spread", help="Of repeated runs, as a fraction; 0.1.")
]
PauseOption = Annotated[
    float | None, typer.Option(help="Seconds before every run, for the device to cool; 0.")
]

HERE = 100
"""Repetitions of a backend of this machine."""


@dataclass(frozen=True)
class Measuring:
    """What options say about how to measure."""

    backend: BackendOption = None
    dtype: DtypeOption = "float32"
    plain: PlainOption = False
    device: DeviceOption = None
    batch_size: BatchOption = 1
    threads: ThreadsOption = 1
    warmup: WarmupOption = None
    repetitions: RepetitionsOption = None
    command: CommandOption = None
    name: NameOption = None
    pattern: PatternOption = None
    json_path: JsonOption = None
    unit: UnitOption = None
    timeout: TimeoutOption = None
    retries: RetriesOption = None
    max_spread: SpreadOption = None
    pause: PauseOption = None

    def conditions(self, repetitions: int = HERE) -> Conditions:
        """The conditions that they ask for, here and now.

        Args:
            repetitions: on this machine, if they do not say how many.

        Raises:
            UserError: they contradict each other, or are impossible.
        """
        if self.command is not None and self.backend is not None:
            raise UserError("--command and --backend each say what measures; leave out one of them")
        backend = "command" if self.command is not None else self.backend or "onnxruntime"
        here, elsewhere = self._given(_HERE), self._given(_READOUT + _REMOTE + ("name",))
        found: dict[str, Any] = {
            "backend": backend,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "threads": self.threads,
        }
        if backend in BUILT_IN:
            if elsewhere:
                raise UserError(
                    f"{_spelt(elsewhere)} say how to reach a device elsewhere, and backend "
                    f"{backend} measures here; give a --command too"
                )
            if here.pop("plain", False):
                found["blocks"] = "plain"
            found |= here
        else:
            if here:
                raise UserError(
                    f"{_spelt(here)} are of backends of this machine, and {backend} is none; leave "
                    "them out"
                )
            if self.name is None:
                raise UserError(
                    "say which device this measures on: --name 'Pixel 8, big cores', say"
                )
            found["processor"], repetitions = self.name, REMOTE_REPETITIONS
            readout = self._given(_READOUT)
            found["remote"] = {**_renamed(self._given(_REMOTE)), "readout": readout}
        found["repetitions"] = repetitions if self.repetitions is None else self.repetitions
        return validate(Conditions, found, "options")

    def check_unused(self, because: str, *used: str) -> None:
        """Refuse options about measuring where nothing is measured.

        Args:
            because: the option that says so.
            used: options that count even so.

        Raises:
            UserError: some of the others were given.
        """
        names = [each.name for each in fields(self) if each.name not in used]
        if given := self._given(names):
            raise UserError(f"{because} measures nothing; leave out {_spelt(given)}, or {because}")

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of these options that differ from what they are if they are not given."""
        absent = Measuring()
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != getattr(absent, name)}


_HERE = ("plain", "device", "warmup")
_READOUT = ("pattern", "json_path", "unit")
_REMOTE = ("command", "timeout", "retries", "max_spread", "pause")
_SETTINGS = {"timeout": "timeout_s", "pause": "pause_s"}
"""What options are called in a `Remote`, where they are called otherwise."""


def measures(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `Measuring` in place of its last parameter, `measuring`."""
    signature = inspect.signature(function, eval_str=True)
    kinds = get_type_hints(Measuring, include_extras=True)
    options = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=kinds[each.name],
        )
        for each in fields(Measuring)
    ]

    @functools.wraps(function)
    def with_options(*args: Any, **given: Any) -> None:
        measuring = Measuring(**{option.name: given.pop(option.name) for option in options})
        function(*args, **given, measuring=measuring)

    *own, _ = signature.parameters.values()
    vars(with_options)["__signature__"] = signature.replace(parameters=[*own, *options])
    return with_options


@contextmanager
def journal_beside(out: Path, conditions: Conditions) -> Iterator[Journal | None]:
    """What was measured before for the file `out`, which says so; None on this machine.

    Raises:
        UserError: the file of the journal cannot be read or written.
    """
    if not conditions.is_remote:
        yield None
        return
    path = journal_path(out)
    check_output(path)
    with open_journal(path, conditions) as journal:
        console.print(
            f"{path} keeps what is measured ({journal.count} numbers so far): after any stop, the "
            "same command goes on with it"
        )
        yield journal


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {_SETTINGS.get(name, name): value for name, value in options.items()}


def _spelt(options: Iterable[str]) -> str:
    """Options as they are written."""
    written = {"json_path": "json"}
    return ", ".join(f"--{written.get(name, name).replace('_', '-')}" for name in options)
