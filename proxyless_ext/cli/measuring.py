"""Options about how something is measured, and the conditions that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..latency import Conditions, Journal, open_journal
from ..latency.conditions import BUILT_IN, DeviceName
from ..runs import check_output
from ..spaces import validate
from .command import console

BackendOption = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(BUILT_IN)}, or a plug-in's; onnxruntime if absent."),
]
DeviceOption = Annotated[
    DeviceName | None, typer.Option(help="What a backend of this machine runs on; cpu if absent.")
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
    typer.Option(help="Timed runs of each layer or network; if absent 100 here, and 3 elsewhere."),
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

REMOTE_REPETITIONS = 3
"""Of a command, since most programs repeat by themselves."""


def read_conditions(
    *,
    backend: str | None,
    plain: bool,
    device: DeviceName | None,
    batch_size: int,
    threads: int,
    warmup: int | None,
    repetitions: int | None,
    command: str | None = None,
    name: str | None = None,
    pattern: str | None = None,
    json_path: str | None = None,
    unit: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    max_spread: float | None = None,
    pause: float | None = None,
) -> Conditions:
    """The conditions that options ask for, here and now.

    Raises:
        UserError: they contradict each other, or are impossible.
    """
    if command is not None and backend is not None:
        raise UserError("--command and --backend each say what measures; leave out one of them")
    chosen = "command" if command is not None else backend or "onnxruntime"
    readout = _given(pattern=pattern, json_path=json_path, unit=unit)
    remote = _given(
        command=command, timeout_s=timeout, retries=retries, max_spread=max_spread, pause_s=pause
    )
    here = _given(device=device, warmup=warmup, blocks="plain" if plain else None)
    fields: dict[str, Any] = {
        "backend": chosen,
        "batch_size": batch_size,
        "threads": threads,
        **here,
        **_given(processor=name, repetitions=repetitions),
    }
    if chosen in BUILT_IN:
        if readout or remote or name is not None:
            raise UserError(
                f"{_options(readout, remote, _given(name=name))} say how to reach a device "
                f"elsewhere, and backend {chosen} measures here; give a --command too"
            )
    else:
        if here:
            raise UserError(
                f"{_options(here)} are of backends of this machine, and {chosen} is none; leave "
                "them out"
            )
        if name is None:
            raise UserError("say which device this measures on: --name 'Pixel 8, big cores', say")
        fields["remote"] = {**remote, "readout": readout}
        fields.setdefault("repetitions", REMOTE_REPETITIONS)
    return validate(Conditions, fields, "options")


def check_nothing_measured(because: str, **options: Any) -> None:
    """Refuse options about measuring where nothing is measured.

    Raises:
        UserError: some of them were given.
    """
    if given := {name: value for name, value in options.items() if value not in (None, False)}:
        raise UserError(f"{because} measures nothing; leave out {_options(given)}, or {because}")


def journal_beside(out: Path, conditions: Conditions) -> Journal | None:
    """What was measured before for the file `out`, which says so; None on this machine.

    Raises:
        UserError: the file of the journal cannot be read or written.
    """
    if not conditions.is_remote:
        return None
    path = out.with_suffix(".measurements.jsonl")
    check_output(path)
    journal = open_journal(path, conditions)
    console.print(
        f"{path} keeps what is measured ({journal.count} numbers so far): after any stop, the same "
        "command goes on with it"
    )
    return journal


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


_SPELT = {
    "json_path": "--json",
    "timeout_s": "--timeout",
    "max_spread": "--max-spread",
    "pause_s": "--pause",
    "blocks": "--plain",
}


def _options(*given: dict[str, Any]) -> str:
    return ", ".join(_SPELT.get(name, f"--{name}") for fields in given for name in fields)
