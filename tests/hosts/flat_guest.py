# SPDX-License-Identifier: MIT
"""Small guests in real mode: a few bytes of hand-assembled code, one vCPU, no firmware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment

ENTRY = 0x1000
RAM_SIZE = 0x8000
"""Half of what a 16-bit address reaches: from here on a guest's access is MMIO."""

OUT_F1_FOR_EVER = bytes.fromhex("ba f100  ee  ebfd")
"""mov dx, 0xf1; l: out dx, al; jmp l"""
COUNT_TO_F1 = bytes.fromhex("ba f100  ee  fec0  ebfb")
"""mov dx, 0xf1; l: out dx, al; inc al; jmp l"""
SPIN = bytes.fromhex("ebfe")
"""l: jmp l"""
HALT_FOR_EVER = bytes.fromhex("f4  ebfd")
"""l: hlt; jmp l"""


@dataclass
class FlatGuest:
    vm: Vm
    vcpu: Vcpu
    ram: Mapping

    def write(self, gpa: int, data: bytes) -> None:
        with self.ram.view() as view:
            view[gpa : gpa + len(data)] = data

    def read(self, gpa: int, size: int) -> bytes:
        with self.ram.view() as view:
            return bytes(view[gpa : gpa + size])


def enter_at(vcpu: Vcpu, regs: Regs) -> None:
    sregs = vcpu.get_sregs()
    vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
    vcpu.set_regs(regs)


MakeGuest = Callable[..., FlatGuest]

PAGE_TABLES = 0x4000
LOAD_9000 = bytes.fromhex("8a042500900000  ebfe")
"""mov al, [0x9000]; l: jmp l - in 64-bit mode"""


def enter_user_mode(guest: FlatGuest) -> None:
    """64-bit mode at ring 3, the first 2 MiB mapped one to one: run by the processor everywhere.

    Ring 0 is run by KVM's instruction emulator on hosts without hardware virtualization, which
    treats an access that it cannot make as MMIO; so page faults of the guest want ring 3.
    """
    for level, entry in enumerate((PAGE_TABLES + 0x1007, PAGE_TABLES + 0x2007, 0x87)):
        guest.write(PAGE_TABLES + level * 0x1000, entry.to_bytes(8, "little"))
    code = Segment(0, 0xFFFF_FFFF, 0x1B, 11, 1, 3, 0, 1, 1, 1, 0, 0)
    data = replace(code, selector=0x23, type=3, l=0, db=1)
    sregs = replace(
        guest.vcpu.get_sregs(),
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        cr0=Cr0.PG | Cr0.PE,
        cr3=PAGE_TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )
    guest.vcpu.set_sregs(sregs)
    guest.vcpu.set_regs(Regs(rip=ENTRY, rflags=0x3002))  # IOPL 3


def has_hardware_virtualization() -> bool:
    """Whether the processor has VMX or SVM; without, KVM emulates what a guest does at ring 0."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    return "vmx" in flags or "svm" in flags
