# SPDX-License-Identifier: MIT
"""The report on a vCPU of a guest that died: registers, code, page tables, the last exits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyvmm.errors import PyvmmError
from pyvmm.hosts.exits import ExitRecord
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.registers import RESET_CS_BASE, RESET_RIP, Cr0, Efer, Regs, Sregs
from pyvmm.memory.page_walk import PageWalk, walk
from pyvmm.rules.abi import PAGE_SIZE

INSTRUCTION_BYTES = 16
"""Bytes of code shown from RIP on; an x86 instruction has at most 15."""

_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")


@dataclass(frozen=True, slots=True)
class VcpuReport:
    """One vCPU's state at the end; registers are None where the kernel would not give them."""

    index: int
    regs: Regs | None
    sregs: Sregs | None
    code: bytes
    code_walk: PageWalk | None
    exits: tuple[ExitRecord, ...]
    at: int = 0
    """Time of the report (``time.monotonic_ns``)."""

    @property
    def mode(self) -> str:
        """The processor mode, in words."""
        if self.sregs is None:
            return "unknown mode"
        if self.sregs.efer & Efer.LMA:
            return "64-bit mode" if self.sregs.cs.l else "compatibility mode"
        if self.sregs.cr0 & Cr0.PE:
            return "32-bit protected mode" if self.sregs.cs.db else "16-bit protected mode"
        return "real mode"

    @property
    def was_reset(self) -> bool:
        """True if these are the registers after an INIT: AMD's KVM does one on a triple fault."""
        return (
            self.regs is not None
            and self.sregs is not None
            and self.regs.rip == RESET_RIP
            and self.sregs.cs.base == RESET_CS_BASE
        )

    def lines(self) -> Iterator[str]:
        """The report as text, a line each, without colour."""
        yield f"vCPU {self.index}: {self.mode}"
        if self.was_reset:
            yield "  the processor has been reset: the registers before it are gone"
        if self.regs is not None and self.sregs is not None:
            yield from _register_lines(self.regs, self.sregs)
        if self.code:
            yield f"  code at rip: {self.code.hex(' ')}"
        else:
            yield "  code at rip: not readable"
        if self.code_walk is not None and self.code_walk.steps:
            yield f"  page tables for {self.code_walk.linear:#x}:"
            yield from (f"    {step}" for step in self.code_walk.steps)
            gpa = self.code_walk.gpa
            yield f"    -> {'not mapped' if gpa is None else f'gpa {gpa:#x}'}"
        yield from self.exit_lines()

    def exit_lines(self) -> Iterator[str]:
        """The last exits, a line each, with the seconds from each to the report."""
        yield f"  last exits, oldest first ({len(self.exits)}), seconds before this:"
        yield from (
            f"    {age:11.6f}  {record}"
            for age, record in zip(self.ages(), self.exits, strict=True)
        )

    def ages(self) -> tuple[float, ...]:
        """Seconds from each of the last exits to the report."""
        return tuple((self.at - record.when) / 1e9 for record in self.exits)

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        registers: dict[str, int] = {}
        if self.regs is not None:
            registers |= {name: getattr(self.regs, name) for name in Regs.__slots__}
        if self.sregs is not None:
            registers |= {
                name: getattr(self.sregs, name) for name in ("cr0", "cr2", "cr3", "cr4", "efer")
            }
        return {
            "index": self.index,
            "mode": self.mode,
            "registers": registers,
            "code": self.code.hex(),
            "page_walk": [str(step) for step in self.code_walk.steps] if self.code_walk else [],
            "last_exits": [str(record) for record in self.exits],
            "last_exit_ages": [round(age, 6) for age in self.ages()],
        }


def _register_lines(regs: Regs, sregs: Sregs) -> Iterator[str]:
    yield f"  rip {regs.rip:016x}  rflags {regs.rflags:08x}"
    for row in _ROWS:
        yield "  " + "  ".join(f"{name:<3} {getattr(regs, name):016x}" for name in row)
    yield (
        f"  cr0 {sregs.cr0:08x}  cr2 {sregs.cr2:016x}  cr3 {sregs.cr3:016x}"
        f"  cr4 {sregs.cr4:08x}  efer {sregs.efer:04x}"
    )
    for names in (_SEGMENTS[:4], _SEGMENTS[4:]):
        cells = []
        for name in names:
            segment = getattr(sregs, name)
            cells.append(f"{name:<3} {segment.selector:04x} {segment.base:x}+{segment.limit:x}")
        yield "  " + "  ".join(cells)
    yield (
        f"  gdt {sregs.gdt.base:x}+{sregs.gdt.limit:x}  idt {sregs.idt.base:x}+{sregs.idt.limit:x}"
    )


def collect(index: int, vcpu: Vcpu, read: Callable[[int, int], bytes | None]) -> VcpuReport:
    """Ask a vCPU that will not run again for its state. Call on the vCPU's own thread.

    `read` reads guest RAM by GPA. What cannot be had is left out: a report never raises.
    """
    exits, at = tuple(vcpu.recent_exits()), time.monotonic_ns()
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except PyvmmError:
        return VcpuReport(index, None, None, b"", None, exits, at)
    linear = regs.rip if sregs.cs.l else (regs.rip + sregs.cs.base) & 0xFFFF_FFFF
    code_walk = walk(read, sregs, linear)
    code = _code(read, sregs, code_walk)
    return VcpuReport(index, regs, sregs, code, code_walk, exits, at)


def _code(read: Callable[[int, int], bytes | None], sregs: Sregs, code_walk: PageWalk) -> bytes:
    """Up to `INSTRUCTION_BYTES` from where `code_walk` leads to, as far as they are mapped."""
    code = b""
    gpa = code_walk.gpa
    while gpa is not None:
        size = min(INSTRUCTION_BYTES - len(code), PAGE_SIZE - gpa % PAGE_SIZE)
        piece = read(gpa, size)
        if piece is None:
            break
        code += piece
        if len(code) == INSTRUCTION_BYTES:
            break
        gpa = walk(read, sregs, code_walk.linear + len(code)).gpa
    return code
