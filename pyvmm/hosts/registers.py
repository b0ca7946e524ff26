# SPDX-License-Identifier: MIT
"""The x86 register state that crosses the border to a host, as frozen values.

Field names are those of ``struct kvm_regs`` and ``struct kvm_sregs`` (KVM api.rst, KVM_GET_REGS,
KVM_GET_SREGS). A change is made with `dataclasses.replace`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

RESET_CS_BASE = 0xFFFF_0000
RESET_RIP = 0xFFF0
"""A processor starts, and is reset to, 16 bytes below 4 GiB (SDM vol. 3A, 10.1.4)."""


class Cr0(enum.IntFlag):
    """Control register 0 (SDM vol. 3A, 2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


class Cr4(enum.IntFlag):
    """Control register 4 (SDM vol. 3A, 2.5), the bits that this project names."""

    PAE = 1 << 5
    PGE = 1 << 7
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    LA57 = 1 << 12


class Efer(enum.IntFlag):
    """Extended feature enable register, MSR 0xC0000080 (APM vol. 2, 3.1.7)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11


@dataclass(frozen=True, slots=True)
class Regs:
    """The general registers. The defaults are not the reset state: all zero, RFLAGS bit 1 set."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part: `limit` in bytes, inclusive; `type`: SDM 3.4.5."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 - the field's name in the architecture
    g: int = 0
    avl: int = 0
    unusable: int = 0

    @property
    def descriptor_flags(self) -> int:
        """The attributes where a descriptor's upper half has them (SDM 3.4.5); no limit bits."""
        return (
            self.type << 8
            | self.s << 12
            | self.dpl << 13
            | (self.present and not self.unusable) << 15
            | self.avl << 20
            | self.l << 21
            | self.db << 22
            | self.g << 23
        )


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """GDTR or IDTR: linear `base`, `limit` in bytes, inclusive."""

    base: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Sregs:
    """The special registers: segments, descriptor tables, control registers, EFER, APIC base."""

    cs: Segment = field(default_factory=Segment)
    ds: Segment = field(default_factory=Segment)
    es: Segment = field(default_factory=Segment)
    fs: Segment = field(default_factory=Segment)
    gs: Segment = field(default_factory=Segment)
    ss: Segment = field(default_factory=Segment)
    tr: Segment = field(default_factory=Segment)
    ldt: Segment = field(default_factory=Segment)
    gdt: DescriptorTable = field(default_factory=DescriptorTable)
    idt: DescriptorTable = field(default_factory=DescriptorTable)
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0


class FpuRegs(NamedTuple):
    """x87 and SSE: `fpr` 8 registers, `xmm` 16, each of 16 bytes; `ftw` abridged as in FXSAVE."""

    fpr: tuple[bytes, ...]
    fcw: int
    fsw: int
    ftw: int
    xmm: tuple[bytes, ...]
    mxcsr: int


class FurtherRegs(NamedTuple):
    """Registers of a vCPU beside `Regs` and `Sregs`; None where a host does not tell.

    `dr` are DR0 to DR3, DR6, DR7. `halted`: it waits in HLT for an interrupt; `interrupt_shadow`:
    it takes none before its next instruction (SDM vol. 3A, 6.8.3).
    """

    kernel_gs_base: int = 0
    halted: bool = False
    interrupt_shadow: bool = False
    smm: bool = False
    dr: tuple[int, int, int, int, int, int] | None = None
    fpu: FpuRegs | None = None
