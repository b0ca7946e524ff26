"""The state of a vCPU: registers of all kinds, read and written through its fd."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pyvmm.hosts.kvm import cpuid, ioctls
from pyvmm.hosts.kvm.binding import CData, call, new
from pyvmm.hosts.kvm.cpuid import CpuidEntry
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.registers import DescriptorTable, Regs, Segment, Sregs

_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_TABLES = ("gdt", "idt")
_CONTROLS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_REGS = tuple(field.name for field in fields(Regs))
_SEGMENT = tuple(field.name for field in fields(Segment))


def decode_regs(raw: CData) -> Regs:
    """From ``struct kvm_regs``."""
    return Regs(*(getattr(raw, name) for name in _REGS))


def encode_regs(regs: Regs, raw: CData) -> None:
    """Into ``struct kvm_regs``."""
    for name in _REGS:
        setattr(raw, name, getattr(regs, name))


def decode_sregs(raw: CData) -> Sregs:
    """From ``struct kvm_sregs`` or ``struct kvm_sregs2``."""
    # One untyped dictionary: the fields differ in type, and the names are checked at the call.
    values: dict[str, Any] = {name: getattr(raw, name) for name in _CONTROLS}
    for name in _SEGMENTS:
        segment = getattr(raw, name)
        values[name] = Segment(*(getattr(segment, field) for field in _SEGMENT))
    for name in _TABLES:
        table = getattr(raw, name)
        values[name] = DescriptorTable(table.base, table.limit)
    return Sregs(**values)


def encode_sregs(sregs: Sregs, raw: CData) -> None:
    """Into ``struct kvm_sregs`` or ``struct kvm_sregs2``; leaves their other fields alone."""
    for name in _SEGMENTS:
        segment, target = getattr(sregs, name), getattr(raw, name)
        for field in _SEGMENT:
            setattr(target, field, getattr(segment, field))
    for name in _TABLES:
        table, target = getattr(sregs, name), getattr(raw, name)
        target.base, target.limit = table.base, table.limit
    for name in _CONTROLS:
        setattr(raw, name, getattr(sregs, name))


class VcpuState(FdOwner):
    """What can be read from and written to a vCPU that is not running. All raise `KvmError`."""

    def get_regs(self) -> Regs:
        """The general registers (KVM_GET_REGS, api.rst 4.11)."""
        raw = new("struct kvm_regs *")
        call(ioctls.GET_REGS, self.fd, raw)
        return decode_regs(raw)

    def set_regs(self, regs: Regs) -> None:
        """Replace the general registers (KVM_SET_REGS, api.rst 4.12)."""
        raw = new("struct kvm_regs *")
        encode_regs(regs, raw)
        call(ioctls.SET_REGS, self.fd, raw, f"rip={regs.rip:#x} rflags={regs.rflags:#x}")

    def get_sregs(self) -> Sregs:
        """The special registers (KVM_GET_SREGS, api.rst 4.13)."""
        raw = new("struct kvm_sregs *")
        call(ioctls.GET_SREGS, self.fd, raw)
        return decode_sregs(raw)

    def set_sregs(self, sregs: Sregs) -> None:
        """Replace the special registers (KVM_SET_SREGS, api.rst 4.14). Queues no interrupt."""
        raw = new("struct kvm_sregs *")
        encode_sregs(sregs, raw)
        described = f"cr0={sregs.cr0:#x} cr3={sregs.cr3:#x} cr4={sregs.cr4:#x} efer={sregs.efer:#x}"
        call(ioctls.SET_SREGS, self.fd, raw, described)

    def translate(self, linear: int) -> int | None:
        """The GPA of a linear address under the present page tables; None if unmapped (4.15)."""
        raw = new("struct kvm_translation *", {"linear_address": linear})
        call(ioctls.TRANSLATE, self.fd, raw, f"linear={linear:#x}")
        return int(raw.physical_address) if raw.valid else None

    def get_cpuid(self) -> tuple[CpuidEntry, ...]:
        """What CPUID answers in the guest (KVM_GET_CPUID2)."""
        return cpuid.fetch(ioctls.GET_CPUID2, self.fd)

    def set_cpuid(self, entries: tuple[CpuidEntry, ...]) -> None:
        """What CPUID shall answer in the guest, before its first run (KVM_SET_CPUID2, 4.20)."""
        table = cpuid.encode(entries)
        call(ioctls.SET_CPUID2, self.fd, table, f"nent={len(entries)}")
