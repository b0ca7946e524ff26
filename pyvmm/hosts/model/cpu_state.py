# SPDX-License-Identifier: MIT
"""The processor's state as Unicorn 2.1 keeps it, field by field.

``uc_context_save`` copies the head of QEMU's ``CPUX86State`` (target/i386/cpu.h). Unicorn's own
interface to registers reaches neither the hidden parts of segments nor the intercepts of SVM, and
this needs both. `layout` finds the fields out from registers that it has written, so another
layout is noticed and never misread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyvmm.hosts.registers import Cr0, Cr4, DescriptorTable, Efer, Regs, Segment, Sregs

_SEGMENT = struct.Struct("<I4xQII")
_Q = struct.Struct("<Q")
_I = struct.Struct("<I")
_INT = struct.Struct("<i")

REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
"""In the order of their numbers in instructions."""
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")

_RIP = 128
_RFLAGS = 136
_DF = 172  # while it executes; between instructions it is in the flags
_HFLAGS = 176
_HFLAGS2 = 180
_SEGMENT_BASE = 184
_GDT = _SEGMENT_BASE + 8 * _SEGMENT.size
_IDT = _GDT + _SEGMENT.size
_CR = _IDT + _SEGMENT.size
BEHIND_CR = _CR + 5 * 8

# Behind DR0..DR7; before them the last exception's error code.
_ERROR_CODE_BEFORE_DR = 16
_BREAKPOINTS_AFTER_DR = 64
_OLD_EXCEPTION_AFTER_DR = 96
_VMCB_AFTER_DR = 104
_INTERCEPT_AFTER_DR = 120
_EXCEPTIONS_AFTER_DR = 136

HF_INHIBIT_IRQ = 1 << 3
_HF_CS32 = 1 << 4
_HF_SS32 = 1 << 5
_HF_ADDSEG = 1 << 6
_HF_PE = 1 << 7
_HF_MP_EM_TS = 7 << 9
_HF_LMA = 1 << 14
_HF_CS64 = 1 << 15
_HF_GUEST = 1 << 21
_HF_OSFXSR = 1 << 22
_HF2_GIF = 1
_FLAGS_IN_HFLAGS = 1 << 8 | 3 << 12 | 1 << 17  # TF, IOPL, VM
_VM = 1 << 17
_SEGMENT_BIG = 1 << 22
_SEGMENT_LONG = 1 << 21
_MASK = (1 << 64) - 1

MSRS = {
    0xC000_0081: "star",
    0xC000_0082: "lstar",
    0xC000_0083: "cstar",
    0xC000_0084: "fmask",
    0xC000_0102: "kernel_gs_base",
    0xC000_0103: "tsc_aux",
    0x174: "sysenter_cs",
    0x175: "sysenter_esp",
    0x176: "sysenter_eip",
    0x277: "pat",
}
"""Model-specific registers that are found by writing them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets, in the state, of the fields that differ between builds."""

    dr: int
    efer: int
    msrs: dict[int, int]


class CpuState:
    """A view of one saved state; `raw` is its memory."""

    def __init__(self, raw: memoryview, layout: Layout) -> None:
        self.raw = raw
        self._layout = layout

    def save(self) -> bytes:
        """All of it, without the pointers to breakpoints that this engine has made."""
        start = self._layout.dr + _BREAKPOINTS_AFTER_DR
        end = self._layout.dr + _OLD_EXCEPTION_AFTER_DR
        return bytes(self.raw[:start]) + bytes(end - start) + bytes(self.raw[end:])

    def derive(self) -> None:
        """Make the hidden flags follow from the other state, as after any change; no breakpoints.

        Those of QEMU's that are kept beside them become what they are in a guest.
        """
        start = self._layout.dr + _BREAKPOINTS_AFTER_DR
        end = self._layout.dr + _OLD_EXCEPTION_AFTER_DR
        self.raw[start:end] = bytes(end - start)
        _I.pack_into(self.raw, _HFLAGS2, _HF2_GIF)
        self._refresh()

    def intercepts(self, mask: int) -> bool:
        """Tell whether one of these instructions ends the run."""
        return bool(self._get(self._layout.dr + _INTERCEPT_AFTER_DR) & mask)

    # -- single fields --

    def _get(self, offset: int) -> int:
        value: int = _Q.unpack_from(self.raw, offset)[0]
        return value

    def _set(self, offset: int, value: int) -> None:
        _Q.pack_into(self.raw, offset, value & _MASK)

    def register(self, number: int) -> int:
        """A general register, by its number in instructions."""
        return self._get(8 * number)

    def set_register(self, number: int, value: int) -> None:
        """Replace one."""
        self._set(8 * number, value)

    @property
    def rip(self) -> int:
        """The instruction pointer."""
        return self._get(_RIP)

    @rip.setter
    def rip(self, value: int) -> None:
        self._set(_RIP, value)

    @property
    def rflags(self) -> int:
        """The flags."""
        return self._get(_RFLAGS) | 2

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._set(_RFLAGS, value | 2)
        self._refresh()

    @property
    def hflags(self) -> int:
        """QEMU's hidden flags: derived from the other state, and the shadow of STI."""
        value: int = _I.unpack_from(self.raw, _HFLAGS)[0]
        return value

    @hflags.setter
    def hflags(self, value: int) -> None:
        _I.pack_into(self.raw, _HFLAGS, value)

    def cr(self, number: int) -> int:
        """A control register, CR0 to CR4."""
        return self._get(_CR + 8 * number)

    def set_cr(self, number: int, value: int) -> None:
        """Replace one, and what follows from it, but no translations."""
        self._set(_CR + 8 * number, value)
        self._refresh()

    @property
    def efer(self) -> int:
        """MSR 0xC0000080."""
        return self._get(self._layout.efer)

    @efer.setter
    def efer(self, value: int) -> None:
        self._set(self._layout.efer, value)
        self._refresh()

    def dr(self, number: int) -> int:
        """A debug register."""
        return self._get(self._layout.dr + 8 * number)

    def set_dr(self, number: int, value: int) -> None:
        """Replace one."""
        self._set(self._layout.dr + 8 * number, value)

    def msr(self, index: int) -> int | None:
        """One of `MSRS`; None for any other."""
        offset = self._layout.msrs.get(index)
        return None if offset is None else self._get(offset)

    def set_msr(self, index: int, value: int) -> bool:
        """Replace one of `MSRS`; False for any other."""
        offset = self._layout.msrs.get(index)
        if offset is None:
            return False
        if index == 0x174:
            _I.pack_into(self.raw, offset, value & 0xFFFF_FFFF)
        else:
            self._set(offset, value)
        return True

    @property
    def error_code(self) -> int:
        """Error code of the last exception or intercept."""
        offset = self._layout.dr - _ERROR_CODE_BEFORE_DR
        value: int = _I.unpack_from(self.raw, offset)[0]
        return value

    def forget_exception(self) -> None:
        """QEMU, which delivers none here, shall not take the next one for a double fault."""
        offset = self._layout.dr + _OLD_EXCEPTION_AFTER_DR
        _I.pack_into(self.raw, offset, 0xFFFF_FFFF)

    def intercept(self, mask: int, exceptions: int, vmcb: int) -> None:
        """Set the instructions and exceptions that end the run (APM vol. 2, 15.9)."""
        dr = self._layout.dr
        self._set(dr + _VMCB_AFTER_DR, vmcb)
        self._set(dr + _INTERCEPT_AFTER_DR, mask)
        _I.pack_into(self.raw, dr + _EXCEPTIONS_AFTER_DR, exceptions)
        flags2: int = _I.unpack_from(self.raw, _HFLAGS2)[0]
        _I.pack_into(self.raw, _HFLAGS2, flags2 | _HF2_GIF)
        self._refresh()

    # -- segments --

    def segment(self, name: str) -> Segment:
        """A segment register with its hidden part."""
        offset = _SEGMENT_BASE + _SEGMENT.size * _SEGMENTS.index(name)
        selector, base, limit, flags = _SEGMENT.unpack_from(self.raw, offset)
        present = flags >> 15 & 1
        return Segment(
            base=base,
            limit=limit,
            selector=selector & 0xFFFF,
            type=flags >> 8 & 15,
            present=present,
            dpl=flags >> 13 & 3,
            db=flags >> 22 & 1,
            s=flags >> 12 & 1,
            l=flags >> 21 & 1,
            g=flags >> 23 & 1,
            avl=flags >> 20 & 1,
            unusable=1 - present,
        )

    def set_segment(self, name: str, segment: Segment) -> None:
        """Replace one, and what follows from it."""
        flags = (
            segment.type << 8
            | segment.s << 12
            | segment.dpl << 13
            | (segment.present and not segment.unusable) << 15
            | segment.avl << 20
            | segment.l << 21
            | segment.db << 22
            | segment.g << 23
        )
        offset = _SEGMENT_BASE + _SEGMENT.size * _SEGMENTS.index(name)
        base = segment.base & _MASK
        _SEGMENT.pack_into(self.raw, offset, segment.selector, base, segment.limit, flags)
        self._refresh()

    def _flags_of(self, name: str) -> int:
        offset = _SEGMENT_BASE + _SEGMENT.size * _SEGMENTS.index(name)
        value: int = _I.unpack_from(self.raw, offset + 20)[0]
        return value

    def base_of(self, name: str) -> int:
        """A segment's base."""
        return self._get(_SEGMENT_BASE + _SEGMENT.size * _SEGMENTS.index(name) + 8)

    def _table(self, offset: int) -> DescriptorTable:
        _, base, limit, _ = _SEGMENT.unpack_from(self.raw, offset)
        return DescriptorTable(base, limit)

    def _set_table(self, offset: int, table: DescriptorTable) -> None:
        _SEGMENT.pack_into(self.raw, offset, 0, table.base, table.limit, 0)

    @property
    def idt(self) -> DescriptorTable:
        """The IDTR."""
        return self._table(_IDT)

    @property
    def gdt(self) -> DescriptorTable:
        """The GDTR."""
        return self._table(_GDT)

    @property
    def cpl(self) -> int:
        """The privilege level: SS's."""
        return self._flags_of("ss") >> 13 & 3

    @property
    def is_long(self) -> bool:
        """64-bit code, that is long mode and CS.L."""
        return bool(self.hflags & _HF_CS64)

    @property
    def is_code_32(self) -> bool:
        """CS.D: addresses have 32 bits outside of 64-bit code, and not 16."""
        return bool(self.hflags & _HF_CS32)

    @property
    def counts_down(self) -> bool:
        """The direction flag; in the middle of an instruction only."""
        direction: int = _INT.unpack_from(self.raw, _DF)[0]
        return direction < 0

    @property
    def linear_rip(self) -> int:
        """Linear address of the next instruction: RIP plus CS's base."""
        if self.is_long:
            return self.rip
        return (self.rip + self.base_of("cs")) & 0xFFFF_FFFF

    # -- all of it --

    @property
    def regs(self) -> Regs:
        """The general registers."""
        values = struct.unpack_from("<16Q", self.raw, 0)
        return Regs(**dict(zip(REGISTERS, values, strict=True)), rip=self.rip, rflags=self.rflags)

    @regs.setter
    def regs(self, regs: Regs) -> None:
        struct.pack_into("<16Q", self.raw, 0, *(getattr(regs, name) for name in REGISTERS))
        self.rip = regs.rip
        self.rflags = regs.rflags
        self.hflags &= ~HF_INHIBIT_IRQ

    def sregs(self, cr8: int, apic_base: int) -> Sregs:
        """The special registers; two of them are not here."""
        return Sregs(
            **{name: self.segment(name) for name in _SEGMENTS},
            gdt=self._table(_GDT),
            idt=self._table(_IDT),
            cr0=self.cr(0),
            cr2=self.cr(2),
            cr3=self.cr(3),
            cr4=self.cr(4),
            cr8=cr8,
            efer=self.efer,
            apic_base=apic_base,
        )

    def set_sregs(self, sregs: Sregs) -> None:
        """Replace them."""
        for name in _SEGMENTS:
            self.set_segment(name, getattr(sregs, name))
        self._set_table(_GDT, sregs.gdt)
        self._set_table(_IDT, sregs.idt)
        for number, value in ((0, sregs.cr0), (2, sregs.cr2), (3, sregs.cr3), (4, sregs.cr4)):
            self._set(_CR + 8 * number, value)
        self._set(self._layout.efer, sregs.efer)
        self._refresh()

    def _refresh(self) -> None:
        """Update the hidden flags, which QEMU derives from other state (``x86_update_hflags``)."""
        kept = self.hflags & HF_INHIBIT_IRQ
        cr0, efer, rflags = self.cr(0), self.efer, self._get(_RFLAGS)
        hflags = kept | _HF_GUEST | self.cpl
        hflags |= bool(cr0 & Cr0.PE) * _HF_PE
        hflags |= cr0 << 8 & _HF_MP_EM_TS
        hflags |= rflags & _FLAGS_IN_HFLAGS
        hflags |= bool(self.cr(4) & Cr4.OSFXSR) * _HF_OSFXSR
        hflags |= bool(efer & Efer.LMA) * _HF_LMA
        code = self._flags_of("cs")
        if hflags & _HF_LMA and code & _SEGMENT_LONG:
            self.hflags = hflags | _HF_CS32 | _HF_SS32 | _HF_CS64
            return
        hflags |= bool(code & _SEGMENT_BIG) * _HF_CS32
        hflags |= bool(self._flags_of("ss") & _SEGMENT_BIG) * _HF_SS32
        if (
            not cr0 & Cr0.PE
            or rflags & _VM
            or not hflags & _HF_CS32
            or self.base_of("ds") | self.base_of("es") | self.base_of("ss")
        ):
            hflags |= _HF_ADDSEG
        self.hflags = hflags
