# SPDX-License-Identifier: MIT
"""Between the structures of a vCPU's registers and frozen values, both ways."""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

from pyvmm.hosts.kvm.binding import CData
from pyvmm.hosts.registers import DescriptorTable, Regs, Segment, Sregs

_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_TABLES = ("gdt", "idt")
_CONTROLS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_REGS = tuple(field.name for field in fields(Regs))
_SEGMENT = tuple(field.name for field in fields(Segment))
_regs_of = attrgetter(*_REGS)
_segment_of = attrgetter(*_SEGMENT)


def decode_regs(raw: CData) -> Regs:
    """From ``struct kvm_regs``."""
    return Regs(*_regs_of(raw))


def encode_regs(regs: Regs, raw: CData) -> None:
    """Into ``struct kvm_regs``."""
    for name in _REGS:
        setattr(raw, name, getattr(regs, name))


def decode_sregs(raw: CData) -> Sregs:
    """From ``struct kvm_sregs`` or ``struct kvm_sregs2``."""
    # One untyped dictionary: the fields differ in type, and the names are checked at the call.
    values: dict[str, Any] = {name: getattr(raw, name) for name in _CONTROLS}
    for name in _SEGMENTS:
        values[name] = Segment(*_segment_of(getattr(raw, name)))
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
