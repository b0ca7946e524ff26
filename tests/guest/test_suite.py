# SPDX-License-Identifier: MIT
"""Our own suite for QEMU's test machine (guest/suite): the same output under pyvmm and QEMU."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.memory.layout import MIB

IMAGES = Path(__file__).parents[2] / "guest" / "build" / "suite"
HANG = 120.0
MEMORY = 64 * MIB


@dataclass(frozen=True)
class Program:
    """One of the suite: `cpus` of its machine, and what it needs."""

    name: str
    cpus: int = 1
    apic: bool = False
    """Local and I/O APICs, which the model lacks."""
    refusals: bool = False
    """#GP for what no MSR is, which QEMU's TCG lacks."""

    @property
    def image(self) -> bytes:
        path = IMAGES / f"{self.name}.img"
        assert path.exists(), f"{path} is not built: make guests"
        return path.read_bytes()


PROGRAMS = [
    Program("ports"),
    Program("ports", cpus=3),
    Program("interrupts"),
    Program("pages"),
    Program("msr"),
    Program("refusals", refusals=True),
    Program("apic", apic=True),
    Program("smp", apic=True),
    Program("smp", cpus=4, apic=True),
]
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


def label(program: Program) -> str:
    return f"{program.name}-{program.cpus}"


def under_pyvmm(program: Program, host: HostChoice) -> str:
    config = MachineConfig(program.image, memory=MEMORY, cpus=program.cpus, host=host, timeout=HANG)
    completed = run(config)
    said = completed.output.decode()
    assert completed.result.ending.status == 0, f"{completed.result.ending}\n{said}"
    return said


@cache
def under_qemu(program: Program) -> str:
    outcome = subprocess.run(
        [
            "qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-cpu", "max",
            "-m", f"size={MEMORY}B", "-smp", str(program.cpus),
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-serial", "stdio", "-device", "pc-testdev",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
            "-kernel", IMAGES / f"{program.name}.img",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=HANG, check=False,
    )  # fmt: skip
    said = outcome.stdout.decode()
    assert outcome.returncode == 1, f"{outcome.returncode} {outcome.stderr!r}\n{said}"
    return said


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("program", PROGRAMS, ids=label)
def test_nothing_fails(program: Program, host: HostChoice) -> None:
    if program.apic and host is HostChoice.MODEL:
        with pytest.raises(HostLacksError, match="local APIC"):
            under_pyvmm(program, host)
        return
    said = under_pyvmm(program, host)
    assert said.endswith("0 failed\n")
    assert said.count("ok   ") >= 5
    assert "FAIL" not in said


@pytest.mark.kvm
def test_sixty_four_processors_are_started_by_init_and_start_up_ipis() -> None:
    said = under_pyvmm(Program("smp", cpus=64, apic=True), HostChoice.KVM)
    assert said.startswith("64 processors\n")
    assert said.endswith("0 failed\n")


@pytest.mark.qemu
@pytest.mark.kvm
@pytest.mark.parametrize("program", [one for one in PROGRAMS if not one.refusals], ids=label)
def test_qemu_says_the_same_as_kvm(program: Program) -> None:
    assert under_pyvmm(program, HostChoice.KVM) == under_qemu(program)


@pytest.mark.qemu
@pytest.mark.parametrize(
    "program", [one for one in PROGRAMS if not one.refusals and not one.apic], ids=label
)
def test_qemu_says_the_same_as_the_model(program: Program) -> None:
    assert under_pyvmm(program, HostChoice.MODEL) == under_qemu(program)


def test_every_program_is_run() -> None:
    source = Path(__file__).parents[2] / "guest" / "suite"
    programs = {path.stem for path in source.glob("*.c")} - {"suite"}
    assert programs == {program.name for program in PROGRAMS}
    assert programs == {path.stem for path in IMAGES.glob("*.img")}
