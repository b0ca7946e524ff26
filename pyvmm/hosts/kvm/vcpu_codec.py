# SPDX-License-Identifier: MIT
"""Between the structures of a vCPU's lesser state and frozen values, both ways.

Imported late: a plain run needs none of it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pyvmm.hosts.kvm.binding import CData, ffi
from pyvmm.hosts.kvm.vcpu_values import DebugRegs, Fpu, VcpuEvents, VcpuEventsFlag

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
