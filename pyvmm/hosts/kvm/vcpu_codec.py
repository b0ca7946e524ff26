"""Between the structures of a vCPU's state and frozen values, both ways."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pyvmm.hosts.kvm.binding import CData, ffi
from pyvmm.hosts.kvm.vcpu_values import DebugRegs, Fpu, VcpuEvents, VcpuEventsFlag
from pyvmm.hosts.registers import DescriptorTable, Regs, Segment, Sregs

_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_TABLES = ("gdt", "idt")
_CONTROLS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_REGS = tuple(field.name for field in fields(Regs))
_SEGMENT = tuple(field.name for field in fields(Segment))
_FPU_NUMBERS = ("fcw", "fsw", "ftwx", "last_opcode", "last_ip", "last_dp", "mxcsr")
_EVENT_GROUPS = ("exception", "interrupt", "nmi", "smi", "triple_fault")
_TOP_LEVEL_EVENTS = ("sipi_vector", "flags", "exception_has_payload", "exception_payload")


def _event_place(name: str) -> tuple[str, str]:
    """The structure within kvm_vcpu_events, "" for itself, and the field that `name` stands for."""
    if name in _TOP_LEVEL_EVENTS:
        return "", name
    group = next(group for group in _EVENT_GROUPS if name.startswith(f"{group}_"))
    return group, name.removeprefix(f"{group}_")


_EVENTS = {field.name: _event_place(field.name) for field in fields(VcpuEvents)}


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


def decode_events(raw: CData) -> VcpuEvents:
    """From ``struct kvm_vcpu_events``."""
    values: dict[str, Any] = {
        name: getattr(getattr(raw, group) if group else raw, field)
        for name, (group, field) in _EVENTS.items()
    }
    values["flags"] = VcpuEventsFlag(values["flags"])
    return VcpuEvents(**values)


def encode_events(events: VcpuEvents, raw: CData) -> None:
    """Into ``struct kvm_vcpu_events``."""
    for name, (group, field) in _EVENTS.items():
        setattr(getattr(raw, group) if group else raw, field, int(getattr(events, name)))


def decode_fpu(raw: CData) -> Fpu:
    """From ``struct kvm_fpu``."""
    values: dict[str, Any] = {name: getattr(raw, name) for name in _FPU_NUMBERS}
    values["fpr"] = tuple(bytes(ffi.buffer(register)) for register in raw.fpr)
    values["xmm"] = tuple(bytes(ffi.buffer(register)) for register in raw.xmm)
    return Fpu(**values)


def encode_fpu(fpu: Fpu, raw: CData) -> None:
    """Into ``struct kvm_fpu``."""
    for name in _FPU_NUMBERS:
        setattr(raw, name, getattr(fpu, name))
    for registers, target in ((fpu.fpr, raw.fpr), (fpu.xmm, raw.xmm)):
        for number, register in enumerate(registers):
            ffi.buffer(target[number])[:] = register


def decode_debugregs(raw: CData) -> DebugRegs:
    """From ``struct kvm_debugregs``."""
    a, b, c, d = raw.db
    return DebugRegs((a, b, c, d), raw.dr6, raw.dr7)


def encode_debugregs(registers: DebugRegs, raw: CData) -> None:
    """Into ``struct kvm_debugregs``."""
    raw.db = list(registers.db)
    raw.dr6, raw.dr7 = registers.dr6, registers.dr7
