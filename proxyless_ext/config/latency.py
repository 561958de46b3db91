"""The section of a device: its latencies, and what the search is to reach on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import UserError
from ..latency import COUNTS, Conditions, Costs, CountName, Remote
from ..latency.conditions import BUILT_IN, BlocksName, DeviceName, DtypeName, usual_blocks
from ..latency.fit import FEWEST
from ..latency.remote import REMOTE_REPETITIONS
from ..quantities import amount_within, parse_amount, split_unit
from ..spaces import StrictModel
from .values import Count, Positive


class LatencyConfig(StrictModel):
    """Where latencies come from and how they enter the search.

    Attributes:
        table: a latency table to use; when absent, one is measured on this machine. Of several
            sizes, each can have its own, as in ``phone-{size}.yaml``.
        backend: what runs the layers when they are measured, ``eager``, ``compile``,
            ``onnxruntime`` or a plug-in's; `dtype`, `blocks`, `device`, `batch_size`, `threads`,
            `warmup` and `repetitions` say how.
        remote: of a device elsewhere, the command that measures on it and how its output is read,
            as a table's conditions record it; of a plug-in's backend, the patience it gets. So many
            `networks` are measured and a table is fitted to them, at `batch_size` and `threads`.
        processor: what the remote device is called, such as ``Pixel 8, big cores``.
        target: for regularizer ``target``: such as ``12.5ms``, or a percentage of the way from the
            space's cheapest to its dearest network, such as ``40%``. One of ``MACs`` or ``params``,
            such as ``5.7Mparams``, is counted if there is no table.
        limits: what networks may cost at most beside, such as ``{parameters: 5.7M, macs: 300M,
            weight_bytes: 2MB, activation_bytes: 1MB, energy.yaml: 3mJ}``, the last by a table.
        reference: `ref` of ``add#linear`` and ``mul#log``; what the uniform network costs when
            absent.
    """

    MEASURING: ClassVar = (
        *("backend", "dtype", "blocks", "device"),
        *("batch_size", "threads", "warmup", "repetitions"),
    )

    REMOTE: ClassVar = ("processor", "remote", "networks")
    OF_DEVICE: ClassVar = ("table", *MEASURING, *REMOTE)

    table: Path | None = None
    processor: str | None = Field(None, min_length=1)
    remote: Remote | None = None
    networks: Annotated[int, Field(ge=FEWEST)] = 60
    backend: Annotated[str, Field(min_length=1)] = "onnxruntime"
    dtype: DtypeName = "float32"
    blocks: BlocksName = Field(
        default_factory=lambda fields: usual_blocks(fields["backend"], fields["dtype"])
    )
    device: DeviceName = "cpu"
    batch_size: Count = 1
    threads: Count = 1
    warmup: Annotated[int, Field(ge=0)] = 1
    repetitions: Count = Field(
        default_factory=lambda fields: (
            REMOTE_REPETITIONS
            if fields.get("remote") or fields.get("backend", BUILT_IN[0]) not in BUILT_IN
            else 100
        )
    )
    regularizer: Literal["target", "add#linear", "mul#log", "none"] = "target"
    target: str = Field("40%", coerce_numbers_to_str=True)
    limits: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(
        default_factory=dict
    )
    tolerance: Positive = 0.05
    reference: Positive | None = None
    trade_off: float = 0.1
    mul_alpha: Positive = 0.2
    mul_beta: Positive = 0.3

    @model_validator(mode="after")
    def _check(self) -> LatencyConfig:
        self.check_target()
        self._check_remote()
        for name, most in self.limits.items():
            if name not in COUNTS and not Path(name).suffix:
                raise UserError(
                    f"'{name}' cannot be limited; limit {', '.join(COUNTS)}, or give the path of a "
                    "table, such as energy.yaml"
                )
            parse_amount(most, f"the limit of {name}")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether a command or a plug-in measures, and not a backend of this machine."""
        return self.remote is not None or self.backend not in BUILT_IN

    def _check_remote(self) -> None:
        if not self.is_remote:
            if self.processor is not None:
                raise UserError(
                    f"processor '{self.processor}' names a device elsewhere; say by which "
                    "remote.command or plug-in's backend it measures, or leave the name out"
                )
            return
        is_plugin = self.backend not in BUILT_IN
        if is_plugin and self.table is not None and self.remote is None:
            return  # What the table is to have been measured with.
        command = self.remote.command if self.remote else None
        if is_plugin and command is not None:
            raise UserError(
                f"backend '{self.backend}' and the command '{command}' each say what measures; "
                "leave out one of them"
            )
        if is_plugin and self.processor is None:
            raise UserError(
                f"backend '{self.backend}' is none of {', '.join(BUILT_IN)}; use one of these, or "
                "give the processor, which is the name of the device that a plug-in measures on"
            )
        if self.processor is None or (command is None and not is_plugin):
            raise UserError(
                "a device elsewhere needs both a remote.command, which measures an ONNX file, and "
                "a processor, which is its name; give both, or a table"
            )
        here = LatencyConfig.model_construct()
        of_here = ("table", "dtype", "blocks", "device", "warmup")
        unused = [name for name in of_here if getattr(self, name) != getattr(here, name)]
        if not is_plugin and self.backend != here.backend:
            unused.insert(0, "backend")
        if unused:
            what = f"backend '{self.backend}'" if is_plugin else f"the command '{command}'"
            raise UserError(f"{what} measures, which has no {', '.join(unused)}; leave out these")
        self.conditions()

    def conditions(self) -> Conditions:
        """How to measure: here and now."""
        if not self.is_remote:
            return Conditions(**{name: getattr(self, name) for name in self.MEASURING})
        told = ("processor", "batch_size", "threads", "repetitions")
        return Conditions(
            backend="command" if self.backend in BUILT_IN else self.backend,
            remote=self.remote or Remote(),
            **{name: getattr(self, name) for name in told},
        )

    def check_target(self) -> None:
        """Refuse a target that is no amount of anything.

        Raises:
            UserError: it is none.
        """
        _, unit = parse_amount(self.target, "target")
        if not split_unit(unit)[1]:
            raise UserError(f"target '{self.target}' has no unit; write for example 12.5ms or 40%")

    def target_of(self, costs: Costs) -> float:
        """The target, for networks of these costs.

        Raises:
            UserError: it is in another unit.
        """
        return amount_within(self.target, "target", costs.bounds, costs.unit)

    @property
    def counted(self) -> CountName | None:
        """What the target counts, where no table says what networks cost."""
        if self.table or self.regularizer != "target":
            return None
        _, unit = parse_amount(self.target, "target")
        counts: dict[str, CountName] = {"MACs": "macs", "params": "parameters"}
        return counts.get(split_unit(unit)[1])
