# SPDX-License-Identifier: MIT
"""Registers of a vCPU as GDB numbers and names them. Pure.

Names, order and sizes are those of QEMU's description of an x86-64 (gdb-xml/i386-64bit.xml), which
is GDB's own ``org.gnu.gdb.i386.core`` and ``.sse`` with bases and control registers in between. So
what is written for QEMU's stub works here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from pyvmm.hosts.registers import FpuRegs, FurtherRegs, Regs, Segment, Sregs


class Values(NamedTuple):
    """All registers of a vCPU, as a host gives them."""

    regs: Regs
    sregs: Sregs
    further: FurtherRegs


class Bank(enum.Enum):
    """Part of a vCPU's state where a register is."""

    GENERAL = "general"
    SELECTOR = "selector"
    BASE = "base"
    SPECIAL = "special"
    KERNEL_GS = "kernel gs"
    ST = "st"
    XMM = "xmm"
    FPU = "fpu"
    UNKNOWN = "unknown"
    """Of those no host tells."""


@dataclass(frozen=True, slots=True)
class Register:
    """A register: GDB's name and type, size in bits, and where its value is."""

    name: str
    bits: int
    type: str
    bank: Bank
    field: str = ""
    number: int = 0
    group: str = ""

    @property
    def size(self) -> int:
        """Bytes that it has in a packet."""
        return self.bits // 8

    @property
    def is_writable(self) -> bool:
        """True where a write can reach it: not selectors, whose hidden parts would be left."""
        return self.bank in (Bank.GENERAL, Bank.BASE, Bank.SPECIAL)

    def read(self, values: Values) -> int | None:
        """Its value; None where the host does not tell."""
        match self.bank:
            case Bank.GENERAL:
                return int(getattr(values.regs, self.field))
            case Bank.SELECTOR:
                return _segment(values, self.field).selector
            case Bank.BASE:
                return _segment(values, self.field).base
            case Bank.SPECIAL:
                return int(getattr(values.sregs, self.field))
            case Bank.KERNEL_GS:
                return values.further.kernel_gs_base
            case Bank.UNKNOWN:
                return None
        fpu = values.further.fpu
        return None if fpu is None else self._read_fpu(fpu)

    def _read_fpu(self, fpu: FpuRegs) -> int:
        match self.bank:
            case Bank.ST:
                return int.from_bytes(fpu.fpr[self.number][: self.size], "little")
            case Bank.XMM:
                return int.from_bytes(fpu.xmm[self.number], "little")
        return full_tags(fpu) if self.field == "ftw" else int(getattr(fpu, self.field))

    def write(self, values: Values, value: int) -> Values:
        """`values` with this register changed; it must be writable."""
        assert self.is_writable
        change = {self.field: value & (1 << self.bits) - 1}
        match self.bank:
            case Bank.GENERAL:
                return values._replace(regs=replace(values.regs, **change))
            case Bank.BASE:
                change = {self.field: replace(_segment(values, self.field), base=value)}  # type: ignore[dict-item]
        return values._replace(sregs=replace(values.sregs, **change))  # type: ignore[arg-type]


def _segment(values: Values, name: str) -> Segment:
    segment = getattr(values.sregs, name)
    assert isinstance(segment, Segment)
    return segment


_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
_FPU_CONTROL = (
    ("fctrl", "fcw"), ("fstat", "fsw"), ("ftag", "ftw"), ("fiseg", ""), ("fioff", ""),
    ("foseg", ""), ("fooff", ""), ("fop", ""),
)  # fmt: skip


def _core() -> list[Register]:
    pointers = {"rbp": "data_ptr", "rsp": "data_ptr"}
    numbered = [f"r{number}" for number in range(8, 16)]
    found = [
        Register(name, 64, pointers.get(name, "int64"), Bank.GENERAL, name)
        for name in (*_GENERAL, *numbered)
    ]
    found += [
        Register("rip", 64, "code_ptr", Bank.GENERAL, "rip"),
        Register("eflags", 32, "x64_eflags", Bank.GENERAL, "rflags"),
    ]
    found += [Register(name, 32, "int32", Bank.SELECTOR, name) for name in _SELECTORS]
    found += [
        Register("fs_base", 64, "int64", Bank.BASE, "fs"),
        Register("gs_base", 64, "int64", Bank.BASE, "gs"),
        Register("k_gs_base", 64, "int64", Bank.KERNEL_GS),
        Register("cr0", 64, "x64_cr0", Bank.SPECIAL, "cr0"),
        Register("cr2", 64, "int64", Bank.SPECIAL, "cr2"),
        Register("cr3", 64, "int64", Bank.SPECIAL, "cr3"),
        Register("cr4", 64, "x64_cr4", Bank.SPECIAL, "cr4"),
        Register("cr8", 64, "int64", Bank.SPECIAL, "cr8"),
        Register("efer", 64, "x64_efer", Bank.SPECIAL, "efer"),
    ]
    found += [Register(f"st{i}", 80, "i387_ext", Bank.ST, number=i) for i in range(8)]
    found += [
        Register(name, 32, "int", Bank.FPU if field else Bank.UNKNOWN, field, group="float")
        for name, field in _FPU_CONTROL
    ]
    return found


CORE: Final = tuple(_core())
"""``org.gnu.gdb.i386.core``."""
SSE: Final = (
    *(Register(f"xmm{i}", 128, "vec128", Bank.XMM, number=i) for i in range(16)),
    Register("mxcsr", 32, "i386_mxcsr", Bank.FPU, "mxcsr", group="vector"),
)
"""``org.gnu.gdb.i386.sse``."""
REGISTERS: Final = CORE + SSE
"""By GDB's numbers."""


def full_tags(fpu: FpuRegs) -> int:
    """The x87 tag word, two bits for each register (SDM vol. 1, 8.1.7), of FXSAVE's abridged one.

    By the physical register; ST(0) is the one that FSW's TOP names.
    """
    top = fpu.fsw >> 11 & 7
    tags = 0
    for physical in range(8):
        tag = 3
        if fpu.ftw >> physical & 1:
            value = int.from_bytes(fpu.fpr[(physical - top) % 8][:10], "little")
            exponent, fraction = value >> 64 & 0x7FFF, value & (1 << 64) - 1
            if not exponent and not fraction:
                tag = 1
            else:
                is_normal = 0 < exponent < 0x7FFF and fraction >> 63
                tag = 0 if is_normal else 2
        tags |= tag << 2 * physical
    return tags


def encode(register: Register, values: Values) -> bytes:
    """The register's value in hexadecimal, as packets have it; ``x`` for what is not known."""
    value = register.read(values)
    if value is None:
        return b"xx" * register.size
    masked = value & (1 << register.bits) - 1
    return masked.to_bytes(register.size, "little").hex().encode("ascii")
