# SPDX-License-Identifier: MIT
"""Coalesced writes: port and MMIO writes that KVM only notes down (api.rst 4.116).

Inside a registered zone a guest's write costs no exit to user space: KVM appends it to a ring that
all vCPUs of the VM share, and exits only when the ring is full. Whoever registers a zone drains the
ring (`Vcpu.drain_coalesced`) before it looks at what the writes are about.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.kvm.binding import CData, ffi, new


@dataclass(frozen=True, slots=True)
class CoalescedZone:
    """[start, start + size): ports where `is_port`, else GPAs in bytes."""

    start: int
    size: int
    is_port: bool


@dataclass(frozen=True, slots=True)
class CoalescedWrite:
    """One write of 1..8 bytes to a port (`is_port`) or a GPA."""

    address: int
    data: bytes
    is_port: bool


def encode_zone(zone: CoalescedZone) -> CData:
    """An owning ``struct kvm_coalesced_mmio_zone``."""
    fields = {"addr": zone.start, "size": zone.size, "pio": int(zone.is_port)}
    return new("struct kvm_coalesced_mmio_zone *", fields)


def decode_writes(entries: CData, count: int) -> list[CoalescedWrite]:
    """The first `count` of an array of ``struct kvm_coalesced_mmio``, oldest first."""
    return [
        CoalescedWrite(
            entry.phys_addr, bytes(ffi.buffer(entry.data, min(entry.len, 8))), bool(entry.pio)
        )
        for entry in (entries[i] for i in range(count))
    ]
