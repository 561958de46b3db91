"""Names of processors, from what systems say of them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from proxyless_ext import processor

X86 = "processor\t: 0\nmodel name\t: Maker's CPU 9 @ 3.00GHz\ncpu MHz\t: 3000\n\n"


def arm(*parts: str, revision: str = "1") -> str:
    """What Linux says on ARM, for cores of these part numbers."""
    cores = [
        f"processor\t: {index}\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0x{part}\nCPU revision\t: {revision}"
        for index, part in enumerate(parts)
    ]
    return "\n\n".join([*cores, "Revision\t: c03111\nSerial\t: 1000\nModel\t: A board"])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of the files that a system has."""
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "_BOARDS", (tmp_path / "model", tmp_path / "product"))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    return tmp_path


def name_of(machine: Path, cpuinfo: str, board: str = "") -> str:
    (machine / "cpuinfo").write_text(cpuinfo)
    (machine / "model").write_text(f"{board}\0" if board else "")
    return processor.cpu_name()


def test_the_makers_name_is_enough(machine: Path) -> None:
    assert name_of(machine, X86 + X86) == "Maker's CPU 9 @ 3.00GHz"


def test_arm_machines_differ_by_cores_and_board(machine: Path) -> None:
    names = [
        name_of(machine, arm("d08", "d08")),
        name_of(machine, arm("d08", "d08", "d08")),
        name_of(machine, arm("d0b", "d0b")),
        name_of(machine, arm("d05", "d0b")),
        name_of(machine, arm("d08", "d08", revision="3")),
        name_of(machine, arm("d08", "d08"), board="Raspberry Pi 4"),
        name_of(machine, arm("d08", "d08"), board="Raspberry Pi 5"),
    ]
    assert len(set(names)) == len(names)
    assert names[3] == "aarch64, 1x 41/8/0/d05/1 + 1x 41/8/0/d0b/1"
    assert names[5] == "aarch64, 2x 41/8/0/d08/1, Raspberry Pi 4"
    assert name_of(machine, arm("d08", "d08")) == names[0]


def test_a_system_that_says_nothing_has_its_architecture(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert processor.cpu_name() == "aarch64"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(processor, "_ask", lambda *_: "Maker's chip")
    assert processor.cpu_name() == "Maker's chip"
