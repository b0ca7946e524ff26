# SPDX-License-Identifier: MIT
"""Registers after reset, as KVM creates a vCPU (``kvm_vcpu_reset``; SDM vol. 3A, table 10-1)."""

from __future__ import annotations

from pyvmm.hosts.registers import (
    RESET_CS_BASE,
    RESET_RIP,
    Cr0,
    DescriptorTable,
    Regs,
    Segment,
    Sregs,
)

_CODE = 11
_DATA = 3
_LDT = 2
_TASK = 11


def reset_registers(index: int) -> tuple[Regs, Sregs]:
    """Those of vCPU `index`: 16 bytes below 4 GiB, in real mode."""
    del index  # all the same: they tell each other apart by CPUID

    def segment(kind: int, *, system: bool = False) -> Segment:
        return Segment(limit=0xFFFF, type=kind, present=1, s=int(not system))

    data = segment(_DATA)
    code = Segment(base=RESET_CS_BASE, limit=0xFFFF, selector=0xF000, type=_CODE, present=1, s=1)
    table = DescriptorTable(0, 0xFFFF)
    sregs = Sregs(
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=segment(_TASK, system=True),
        ldt=segment(_LDT, system=True),
        gdt=table,
        idt=table,
        cr0=Cr0.CD | Cr0.NW | Cr0.ET,
    )
    return Regs(rdx=0x600, rip=RESET_RIP), sregs
