# SPDX-License-Identifier: MIT
"""States of vCPUs, read by what every driver can do."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.errors import PyvmmError
from pyvmm.hosts.registers import Cr0, Efer
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.testing.drivers.driver import Driver, Registers, VcpuState

CODE_BYTES = 16
"""Bytes of code that are read; an x86 instruction has at most 15."""


async def read_states(driver: Driver, cpus: int) -> Sequence[VcpuState]:
    """Read the states of a stopped guest's vCPUs. Raises what `Driver.registers` raises."""
    states: list[VcpuState] = []
    for index in range(cpus):
        registers = await driver.registers(index)
        values = registers.values
        rip = values["rip"]
        mode = mode_of(values)
        if mode != "64-bit mode":
            rip = rip + registers.bases.get("cs", 0) & 0xFFFF_FFFF
        states.append(VcpuState(index, mode, registers, rip, await _code(driver, index, rip)))
    return states


def mode_of(values: dict[str, int]) -> str:
    """The processor's mode, as far as control registers tell it."""
    if values.get("efer", 0) & Efer.LMA:
        return "64-bit mode"
    return "protected mode" if values.get("cr0", 0) & Cr0.PE else "real mode"


async def _code(driver: Driver, vcpu: int, rip: int) -> bytes:
    """Code from `rip` on, as far as it can be read on its page."""
    size = min(CODE_BYTES, PAGE_SIZE - rip % PAGE_SIZE)
    try:
        gpa = await driver.translate(vcpu, rip)
        return b"" if gpa is None else await driver.read_memory(gpa, size)
    except PyvmmError:
        return b""


def named(registers: Registers) -> dict[str, int]:
    """Values by name, those of segments' bases as ``cs.base``."""
    bases = {f"{name}.base": base for name, base in registers.bases.items()}
    return registers.values | bases
