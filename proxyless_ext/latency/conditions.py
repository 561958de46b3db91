"""The conditions that latencies were measured under: a latency means nothing without them."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field, model_validator

from ..errors import UserError
from ..processor import cpu_name
from ..spaces import StrictModel, validate
from .gpu import GpuState
from .readout import in_table
from .reference import Reference
from .remote import Remote

BackendName = Literal["eager", "compile", "onnxruntime"]
"""Those that run networks in this process; `Conditions` has also ``command`` and plug-ins."""

BlocksName = Literal["fused", "plain"]
DtypeName = Literal["float32", "bfloat16", "float16"]
DeviceName = Literal["cpu", "cuda"]
"""Those of this machine; `Conditions` has also ``remote``."""

BUILT_IN: tuple[BackendName, ...] = get_args(BackendName)
OF_PYTORCH: tuple[BackendName, ...] = ("eager", "compile")
Count = Annotated[int, Field(ge=1)]

NEED_NOT_BE_SAID = {"dtype", "gpu", "remote"}
"""Of the conditions in a file."""


class Conditions(StrictModel):
    """How to measure, and where and when that is done: made without the latter, here and now.

    Attributes:
        backend: what runs the networks: ``eager``, ``compile``, ``onnxruntime``, ``command``, or
            the name that a plug-in has.
        dtype: of weights and pictures.
        blocks: whether MBConvs and separable convolutions run as one operator, or as plain layers
            as in every export.
        device: the device it runs them on; that of a command or a plug-in is ``remote``.
        batch_size: pictures in one run; latencies are those of the whole batch.
        threads: of the backend on the CPU.
        warmup: runs before timed ones, each time that a network's turn comes; none on a remote
            device, whose program makes its own.
        repetitions: timed runs of each layer or network, at least.
        processor: the device by its maker's name; a remote one by the user's.
        torch, onnxruntime: versions.
        date: of the measurement, in local time.
        busy_cores: how many cores other programs kept busy meanwhile; None where that is not known.
        gpu: its clocks and power, right after; None of a CPU, and where the driver does not say.
        reference: how fast the machine was; None before a whole space is measured.
        remote: how a remote device is reached; None for this machine.
    """

    backend: Annotated[str, Field(min_length=1)] = "eager"
    dtype: DtypeName = "float32"
    blocks: BlocksName = Field(
        default_factory=lambda fields: usual_blocks(fields["backend"], fields["dtype"])
    )
    device: DeviceName | Literal["remote"] = Field(
        default_factory=lambda fields: "cpu" if fields["backend"] in BUILT_IN else "remote"
    )
    batch_size: Count = 1
    threads: Count = 1
    warmup: Annotated[int, Field(ge=0)] = Field(
        default_factory=lambda fields: 1 if fields["backend"] in BUILT_IN else 0
    )
    repetitions: Count = 100
    processor: str = Field(default_factory=lambda fields: processor_name(fields["device"]))
    torch: str = Field(default_factory=lambda: version("torch"))
    onnxruntime: str = Field(default_factory=lambda: version("onnxruntime"))
    date: datetime = Field(default_factory=lambda: datetime.now().replace(microsecond=0))
    busy_cores: float | None = None
    gpu: GpuState | None = None
    reference: Reference | None = None
    remote: Remote | None = None

    @model_validator(mode="after")
    def _check(self) -> Conditions:
        if self.backend == "onnxruntime" and self.device != "cpu":
            raise UserError(
                "onnxruntime is measured on the cpu only; use backend eager or compile for cuda"
            )
        if self.is_remote == (self.backend in BUILT_IN) or self.is_remote == (self.remote is None):
            raise UserError(
                f"backend '{self.backend}' does not go with device {self.device} and "
                f"{'no' if self.remote is None else 'a'} way to a remote one; the backends of this "
                f"machine are {', '.join(BUILT_IN)}, and any other needs such a way"
            )
        if self.remote and not self.remote.takes_threads and self.threads != 1:
            raise UserError(
                f"{self.remote.what} does not say where the number of threads goes, so "
                f"{self.threads} would change nothing; write {{threads}} there, or leave it out"
            )
        if self.backend != "eager" and self.blocks == "fused":
            raise UserError(
                f"{self.backend} has no fused blocks; use blocks plain, or backend eager"
            )
        if self.dtype != "float32":
            self._check_dtype()
        return self

    def _check_dtype(self) -> None:
        if self.remote:
            raise UserError(
                f"{self.remote.what} is given networks in float32, not in {self.dtype}; leave the "
                "dtype out, and let it convert or quantise them itself"
            )
        if self.backend not in OF_PYTORCH:
            raise UserError(
                f"{self.backend} takes networks in float32, not in {self.dtype}; use backend "
                f"{' or '.join(OF_PYTORCH)}, or a command that converts them itself"
            )
        if self.blocks == "fused":
            raise UserError(
                f"fused blocks are measured in float32, not in {self.dtype}; use blocks plain"
            )

    @property
    def is_remote(self) -> bool:
        """Whether a command or a plug-in measures, and not this process."""
        return self.device == "remote"

    @property
    def unit(self) -> str:
        """Of what is measured under them."""
        return in_table(self.remote.readout.unit) if self.remote else "ms"

    @property
    def are_of_this_machine(self) -> bool:
        """Whether what was measured under them can be measured here again.

        A remote device is none of this machine's, wherever it stands: no table has its command run.
        """
        try:
            return self.processor == processor_name(self.device)
        except UserError:
            return False

    @classmethod
    def recorded(cls, fields: dict[str, Any], source: str) -> Conditions:
        """The conditions in the file `source`, which leaves nothing to be filled in here and now:
        what it need not say is what it is by default.

        Raises:
            UserError: one is missing or impossible.
        """
        if missing := cls.model_fields.keys() - fields.keys() - NEED_NOT_BE_SAID:
            raise UserError(
                f"{source}: the conditions lack {', '.join(sorted(missing))}; measure the table "
                "again"
            )
        return validate(cls, fields, source)


def usual_blocks(backend: str, dtype: str) -> BlocksName:
    """What MBConvs run as on a backend, if nothing is asked for."""
    return "fused" if (backend, dtype) == ("eager", "float32") else "plain"


def processor_name(device: str) -> str:
    """The device of this machine by its maker's name.

    Raises:
        UserError: this machine has none, or the device is not this machine's.
    """
    if device == "remote":
        raise UserError("a device elsewhere has no name here; give it one")
    if device == "cpu":
        return cpu_name()
    if not torch.cuda.is_available():
        raise UserError("this machine has no usable CUDA device; measure with device cpu")
    return torch.cuda.get_device_name()
