# SPDX-License-Identifier: MIT
"""States of pyvmm's own vCPUs, as every driver tells them."""

from __future__ import annotations

from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.machine.report import VcpuReport
from pyvmm.testing.drivers.driver import Registers, VcpuState

_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_CONTROLS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")


def registers_of(regs: Regs, sregs: Sregs) -> Registers:
    """Registers of a vCPU by name."""
    values = {name: getattr(regs, name) for name in regs.__slots__}
    values |= {name: getattr(sregs, name) for name in _CONTROLS}
    values |= {name: getattr(sregs, name).selector for name in _SEGMENTS}
    return Registers(values, {name: getattr(sregs, name).base for name in _SEGMENTS})


def state_of(report: VcpuReport) -> VcpuState:
    """State of a vCPU from the report on it."""
    registers = None
    if report.regs is not None and report.sregs is not None:
        registers = registers_of(report.regs, report.sregs)
    walk = report.code_walk
    steps: tuple[str, ...] = ()
    if walk is not None and walk.steps:
        gpa = "not mapped" if walk.gpa is None else f"gpa {walk.gpa:#x}"
        steps = (*map(str, walk.steps), f"-> {gpa}")
    exits = zip(report.ages(), report.exits, strict=True)
    return VcpuState(
        report.index,
        "reset" if report.was_reset else report.mode,
        registers,
        None if walk is None else walk.linear,
        report.code,
        steps,
        tuple(f"{age:11.6f} s ago  {record}" for age, record in exits),
    )
