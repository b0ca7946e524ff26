"""CPUID as KVM takes and gives it (``struct kvm_cpuid2``, api.rst 4.20, 4.46)."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm.binding import CData, call, new
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import IoctlSpec

_FIRST_ROOM = 128
_MOST_ROOM = 4096

FEATURES = 0x1
TOPOLOGY_LEAVES = (0xB, 0x1F)
ADDRESS_SIZES = 0x8000_0008


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One answer of the CPUID instruction: leaf `function`, subleaf `index`.

    `flags` bit 0: `index` counts (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
    """

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


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


def fetch(spec: IoctlSpec, fd: int) -> tuple[CpuidEntry, ...]:
    """Issue a CPUID-reading ioctl with as much room as it wants. Raises `KvmError`."""
    room = _FIRST_ROOM
    while room <= _MOST_ROOM:
        table = new("struct kvm_cpuid2 *", {"nent": room, "entries": room})
        try:
            call(spec, fd, table, f"nent={room}")
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
            room *= 2
        else:
            return decode(table)
    raise InternalError(f"issue {spec.name}", f"the kernel wants more than {_MOST_ROOM} entries")


def for_vcpu(entries: Iterable[CpuidEntry], apic_id: int) -> tuple[CpuidEntry, ...]:
    """`entries` with the APIC id of one vCPU where CPUID tells it (SDM vol. 2A, CPUID).

    KVM_GET_SUPPORTED_CPUID reports the id of whichever processor it ran on.
    """
    result: list[CpuidEntry] = []
    for entry in entries:
        if entry.function == FEATURES:
            result.append(replace(entry, ebx=entry.ebx & 0x00FF_FFFF | (apic_id & 0xFF) << 24))
        elif entry.function in TOPOLOGY_LEAVES:
            result.append(replace(entry, edx=apic_id))
        else:
            result.append(entry)
    return tuple(result)
