# SPDX-License-Identifier: MIT
"""CPUID as KVM takes and gives it (``struct kvm_cpuid2``, api.rst 4.20, 4.46)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from pyvmm.errors import InternalError
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.kvm.binding import CData, ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import IoctlSpec

_FIRST_ROOM = 128
_MOST_ROOM = 4096

FEATURES = 0x1
TOPOLOGY_LEAVES = (0xB, 0x1F)
ADDRESS_SIZES = 0x8000_0008
_VMX, _SVM = (FEATURES, 1 << 5), (0x8000_0001, 1 << 2)
"""Leaf and bit of ECX that say it (SDM vol. 2A, CPUID; APM vol. 3, appendix E)."""
_ENTRY = struct.Struct("<7I12x")
_HEAD = 8


def encode(entries: Iterable[CpuidEntry]) -> CData:
    """An owning ``struct kvm_cpuid2`` with `entries`."""
    rows = [
        (one.function, one.index, one.flags, one.eax, one.ebx, one.ecx, one.edx) for one in entries
    ]
    return new("struct kvm_cpuid2 *", {"nent": len(rows), "entries": rows})


def decode(table: CData) -> tuple[CpuidEntry, ...]:
    """The entries of a ``struct kvm_cpuid2``."""
    entries = table.entries
    return tuple(
        CpuidEntry(one.function, one.index, one.flags, one.eax, one.ebx, one.ecx, one.edx)
        for one in (entries[i] for i in range(table.nent))
    )


def fetch(spec: IoctlSpec, on: Descriptor) -> tuple[CpuidEntry, ...]:
    """The entries that a CPUID-reading ioctl gives. Raises `KvmError`."""
    return decode(fetch_table(spec, on))


def fetch_table(spec: IoctlSpec, on: Descriptor) -> CData:
    """Issue a CPUID-reading ioctl with as much room as it wants. Raises `KvmError`."""
    room = _FIRST_ROOM
    while room <= _MOST_ROOM:
        table = new("struct kvm_cpuid2 *", {"nent": room, "entries": room})
        try:
            call(spec, on, table, f"nent={room}")
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
            room *= 2
        else:
            return table
    raise InternalError(f"issue {spec.name}", f"the kernel wants more than {_MOST_ROOM} entries")


def table_for_vcpu(table: CData, apic_id: int) -> CData:
    """A copy of `table` with the APIC id of one vCPU where CPUID tells it (SDM vol. 2A, CPUID).

    KVM_GET_SUPPORTED_CPUID reports the id of whichever processor it ran on.
    """
    count = table.nent
    copy = new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
    ffi.memmove(copy.entries, table.entries, count * ffi.sizeof("struct kvm_cpuid_entry2"))
    entries = copy.entries
    for i in range(count):
        entry = entries[i]
        function = entry.function
        if function == FEATURES:
            entry.ebx = entry.ebx & 0x00FF_FFFF | (apic_id & 0xFF) << 24
        elif function in TOPOLOGY_LEAVES:
            entry.edx = apic_id
    return copy


def physical_address_bits(table: CData) -> int:
    """APM vol. 3, CPUID 8000_0008h: the width of a physical address; 36 where it is not told."""
    entries = table.entries
    for i in range(table.nent):
        if entries[i].function == ADDRESS_SIZES:
            return int(entries[i].eax) & 0xFF
    return 36


def describe_processor(table: CData) -> str:
    """Vendor, family, model and stepping, in words (SDM vol. 2A, CPUID, leaves 0 and 1)."""
    vendor, signature = "an unknown vendor", 0
    for i in range(table.nent):
        entry = table.entries[i]
        if entry.function == 0:
            words = (entry.ebx, entry.edx, entry.ecx)
            text = b"".join(int(word).to_bytes(4, "little") for word in words)
            vendor = text.decode("ascii", "replace")
        elif entry.function == FEATURES:
            signature = int(entry.eax)
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family in (6, 15):
        model |= signature >> 12 & 0xF0
    if family == 15:
        family += signature >> 20 & 0xFF
    return f"{vendor} family {family} model {model} stepping {signature & 0xF}"


def as_bytes(table: CData) -> bytes:
    """A ``struct kvm_cpuid2`` with its entries."""
    size = ffi.sizeof("struct kvm_cpuid2") + table.nent * ffi.sizeof("struct kvm_cpuid_entry2")
    return bytes(ffi.buffer(table, size))


def from_bytes(content: bytes) -> CData:
    """An owning ``struct kvm_cpuid2`` of what `as_bytes` gave."""
    count = int.from_bytes(content[:4], "little")
    table = new("struct kvm_cpuid2 *", {"nent": count, "entries": count})
    ffi.memmove(table, content, len(content))
    return table


def lets_guests_run_guests(table: bytes) -> bool:
    """Tell whether a ``kvm_cpuid2``, as bytes, has VMX or SVM."""
    return any(
        (function == leaf and ecx & bit)
        for function, _, _, _, _, ecx, _ in _ENTRY.iter_unpack(table[_HEAD:])
        for leaf, bit in (_VMX, _SVM)
    )
