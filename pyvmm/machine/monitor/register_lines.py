# SPDX-License-Identifier: MIT
"""A vCPU's registers as lines, as ``info registers`` of QEMU's monitor prints them. Pure.

The form is that of QEMU 7.2 (target/i386/cpu-dump.c). What a host does not tell has no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyvmm.hosts.registers import Cr0, DescriptorTable, Efer, FurtherRegs, Regs, Segment, Sregs

_FLAGS = ((1 << 10, "D"), (1 << 11, "O"), (1 << 7, "S"), (1 << 6, "Z"), (1 << 4, "A"),
          (1 << 2, "P"), (1 << 0, "C"))  # fmt: skip
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
_SYSTEM_TYPES = (
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16",
    "TrapGate16", "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved",
    "IntGate32", "TrapGate32",
)  # fmt: skip
_SYSTEM_TYPES_64 = (
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
    "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64",
    "TrapGate64",
)  # fmt: skip
_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)


@dataclass(frozen=True, slots=True)
class VcpuRegisters:
    """All that is known of one vCPU between two instructions."""

    index: int
    regs: Regs
    sregs: Sregs
    further: FurtherRegs

    @property
    def is_64_bit(self) -> bool:
        """True while it executes 64-bit code."""
        return bool(self.sregs.efer & Efer.LMA and self.sregs.cs.l)

    def names(self) -> Mapping[str, int]:
        """Map names to values: ``rax`` and ``eax`` alike, as in QEMU; ``pc`` is linear."""
        regs, sregs = self.regs, self.sregs
        found = {name: getattr(regs, name) for row in _ROWS for name in row}
        found |= {f"e{name[1:]}": value for name, value in found.items() if not name[1:].isdigit()}
        found |= {"rip": regs.rip, "eip": regs.rip, "eflags": regs.rflags}
        found |= {name: getattr(sregs, name).selector for name in _SEGMENTS[:6]}
        found["pc"] = regs.rip + (0 if self.is_64_bit else sregs.cs.base)
        return found


def register_lines(vcpu: VcpuRegisters) -> Iterator[str]:
    """All of it, beginning with a line that names the vCPU."""
    regs, sregs, further = vcpu.regs, vcpu.sregs, vcpu.further
    wide = vcpu.is_64_bit
    yield f"CPU#{vcpu.index}"
    for row in _ROWS if wide else _ROWS[:2]:
        yield " ".join(
            f"{name.upper():<3}={getattr(regs, name):016x}"
            if wide
            else f"E{name[1:].upper()}={getattr(regs, name) & 0xFFFF_FFFF:08x}"
            for name in row
        )
    flags = "".join(letter if regs.rflags & bit else "-" for bit, letter in _FLAGS)
    state = (
        f"[{flags}] CPL={sregs.ss.dpl} II={further.interrupt_shadow:d} A20=1 "
        f"SMM={further.smm:d} HLT={further.halted:d}"
    )
    if wide:
        yield f"RIP={regs.rip:016x} RFL={regs.rflags:08x} {state}"
    else:
        yield f"EIP={regs.rip & 0xFFFF_FFFF:08x} EFL={regs.rflags:08x} {state}"
    for name in _SEGMENTS:
        yield _segment_line(name.upper(), getattr(sregs, name), sregs, wide=wide)
    yield _table_line("GDT", sregs.gdt, wide=wide)
    yield _table_line("IDT", sregs.idt, wide=wide)
    width = 16 if wide else 8
    yield (
        f"CR0={sregs.cr0:08x} CR2={sregs.cr2:0{width}x} CR3={sregs.cr3:0{width}x} "
        f"CR4={sregs.cr4:08x}"
    )
    if further.dr is not None:
        yield "".join(f"DR{number}={further.dr[number]:016x} " for number in range(4))
        yield f"DR6={further.dr[4]:016x} DR7={further.dr[5]:016x}"
    yield f"EFER={sregs.efer:016x}"
    yield from _fpu_lines(further, 16 if wide else 8)


def _segment_line(name: str, segment: Segment, sregs: Sregs, *, wide: bool) -> str:
    flags = segment.descriptor_flags
    width = 16 if wide else 8
    line = (
        f"{name:<3}={segment.selector:04x} {segment.base:0{width}x} {segment.limit:08x} {flags:08x}"
    )
    if not sregs.cr0 & Cr0.PE or not flags & 1 << 15:
        return line
    line += f" DPL={segment.dpl} "
    long_mode = bool(sregs.efer & Efer.LMA)
    if not segment.s:
        return line + (_SYSTEM_TYPES_64 if long_mode else _SYSTEM_TYPES)[segment.type & 15]
    accessed = "A" if segment.type & 1 else "-"
    if segment.type & 8:
        kind = "CS64" if segment.l else "CS32" if segment.db else "CS16"
        rights = ("C" if segment.type & 4 else "-") + ("R" if segment.type & 2 else "-")
    else:
        kind = "DS  " if segment.db or long_mode else "DS16"
        rights = ("E" if segment.type & 4 else "-") + ("W" if segment.type & 2 else "-")
    return f"{line}{kind} [{rights}{accessed}]"


def _table_line(name: str, table: DescriptorTable, *, wide: bool) -> str:
    return f"{name}=     {table.base:0{16 if wide else 8}x} {table.limit:08x}"


def _fpu_lines(further: FurtherRegs, registers: int) -> Iterator[str]:
    fpu = further.fpu
    if fpu is None:
        return
    yield (
        f"FCW={fpu.fcw:04x} FSW={fpu.fsw:04x} [ST={fpu.fsw >> 11 & 7}] FTW={fpu.ftw:02x} "
        f"MXCSR={fpu.mxcsr:08x}"
    )
    cells = [
        f"FPR{number}={int.from_bytes(raw[:8], 'little'):016x} "
        f"{int.from_bytes(raw[8:10], 'little'):04x}"
        for number, raw in enumerate(fpu.fpr)
    ]
    cells += [
        f"XMM{number:02}={int.from_bytes(raw[8:16], 'little'):016x} "
        f"{int.from_bytes(raw[:8], 'little'):016x}"
        for number, raw in enumerate(fpu.xmm[:registers])
    ]
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        yield f"{first} {second}"
