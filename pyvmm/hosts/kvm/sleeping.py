# SPDX-License-Identifier: MIT
"""vCPUs that wait in the kernel, and what could wake them although interrupts are off."""

from __future__ import annotations

import struct

from pyvmm.hosts.interrupts import Msi
from pyvmm.hosts.kvm.vcpu_values import MpState, VcpuEvents
from pyvmm.hosts.registers import Regs

_IF = 1 << 9
_MASKED = 1 << 16
_MODES_OF_INTERRUPTS = frozenset({0, 1, 7})
"""Delivery modes that IF holds back: fixed, lowest priority, ExtINT (SDM vol. 3A, 11.5.1)."""
_LVT_PERFORMANCE = 0x340
_LVT_LINT0 = 0x350
_SPURIOUS_VECTOR = 0xF0
_APIC_ENABLED = 1 << 8
_IOAPIC_PINS = 24
_IOAPIC_REDIRECTION = 24
"""Offset of the redirection table in ``struct kvm_ioapic_state``, in bytes."""


def waits(state: MpState) -> bool:
    """Tell whether a vCPU in `state` runs nothing until an event comes."""
    return state in (MpState.HALTED, MpState.UNINITIALIZED, MpState.INIT_RECEIVED)


def takes_interrupts(state: MpState, regs: Regs) -> bool:
    """Tell whether an ordinary interrupt wakes a vCPU that waits."""
    return state is MpState.HALTED and bool(regs.rflags & _IF)


def has_event(events: VcpuEvents) -> bool:
    """Tell whether any event is on its way to the guest."""
    return any(
        (
            events.exception_injected,
            events.exception_pending,
            events.interrupt_injected,
            events.nmi_injected,
            events.nmi_pending,
            events.smi_pending,
            events.smi_latched_init,
            events.triple_fault_pending,
        )
    )


def has_unmaskable_input(lapic: bytes) -> bool:
    """Tell whether the timer (KVM's 8254 drives LINT0) or a counter may send more than interrupts.

    LINT1 leads nowhere: neither KVM nor any device here drives it.
    """
    (spurious,) = struct.unpack_from("<I", lapic, _SPURIOUS_VECTOR)
    if not spurious & _APIC_ENABLED:
        return False
    entries = (struct.unpack_from("<I", lapic, at)[0] for at in (_LVT_PERFORMANCE, _LVT_LINT0))
    return any(_is_unmaskable(entry) for entry in entries)


def has_unmaskable_pin(ioapic: bytes) -> bool:
    """Tell whether a pin may send more than interrupts; `ioapic` is what KVM_GET_IRQCHIP gives."""
    entries = struct.unpack_from(f"<{_IOAPIC_PINS}Q", ioapic, _IOAPIC_REDIRECTION)
    return any(_is_unmaskable(entry) for entry in entries)


def is_unmaskable_message(msi: Msi) -> bool:
    """Tell whether a message sends more than an interrupt (SDM vol. 3A, 11.11.2)."""
    return msi.data >> 8 & 7 not in _MODES_OF_INTERRUPTS


def _is_unmaskable(entry: int) -> bool:
    return not entry & _MASKED and entry >> 8 & 7 not in _MODES_OF_INTERRUPTS
