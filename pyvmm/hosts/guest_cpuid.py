# SPDX-License-Identifier: MIT
"""CPUID tables of a guest's vCPUs, made from the host's: topology, APIC IDs, XSAVE.

Leaves and bits are those of SDM vol. 2A, CPUID, and APM vol. 3, appendix E. The IDs are what the
guest's ACPI tables have as well: Linux compares them ("APIC ID mismatch").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.topology import Topology

_VENDOR, _FEATURES, _CACHES, _EXTENDED_FEATURES = 0x0, 0x1, 0x4, 0x7
_TOPOLOGY, _XSTATE, _TOPOLOGY_2 = 0xB, 0xD, 0x1F
_AMD_FEATURES = 0x8000_0001
_AMD_TOPOLOGY, _AMD_TOPOLOGY_2 = 0x8000_001E, 0x8000_0026
_INDEX_COUNTS = 1
"""KVM_CPUID_FLAG_SIGNIFCANT_INDEX."""
_AMD_VENDORS = (b"AuthenticAMD", b"HygonGenuine")

_X2APIC, _TSC_DEADLINE = 1 << 21, 1 << 24
_HTT = 1 << 28
_CMP_LEGACY, _TOPOEXT = 1 << 1, 1 << 22
_THREADS, _CORES = 1, 2
"""Types of a level of topology."""


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


_WITHOUT_XSAVE = (
    # FMA, XSAVE, OSXSAVE, AVX, F16C.
    (_FEATURES, 0, 0, 0, _bits(12, 26, 27, 28, 29), 0),
    # EBX: AVX2, MPX, AVX-512. ECX: AVX-512, PKU and OSPKE, CET, VAES and VPCLMULQDQ.
    # EDX: AVX-512, UINTR, CET, AMX.
    (
        _EXTENDED_FEATURES,
        0,
        0,
        _bits(5, 14, 16, 17, 21, 26, 27, 28, 30, 31),
        _bits(1, 3, 4, 6, 7, 9, 10, 11, 12, 14),
        _bits(2, 3, 5, 8, 20, 22, 23, 24, 25),
    ),
    # EAX: SHA512, SM3, SM4, AVX-VNNI, AVX-512, AMX, AVX-IFMA. EDX: AVX, AMX, CET, AVX10, APX.
    (_EXTENDED_FEATURES, 1, _bits(0, 1, 2, 4, 5, 21, 23), 0, 0, _bits(4, 5, 8, 10, 18, 19, 21)),
    # XOP, LWP, FMA4.
    (_AMD_FEATURES, 0, 0, 0, _bits(11, 15, 16), 0),
)
"""Features that live on XSAVE: leaf, subleaf, bits of EAX, EBX, ECX, EDX (Linux, cpuid-deps.c)."""
_XSAVE_LEAVES = frozenset({_XSTATE, 0x1D, 0x1E, 0x24, 0x8000_001C})
"""States, AMX (two), AVX10, LWP."""


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """A guest's processors. `xsave`: XSAVE as the host has it, not left out."""

    topology: Topology
    xsave: bool = True


def guest_table(host: Sequence[CpuidEntry], guest: GuestCpu, cpu: int) -> tuple[CpuidEntry, ...]:
    """The table of vCPU number `cpu`: the host's table, with its own topology.

    `host` is what `CpuidHost.guest_cpuid` gave.
    """
    topology = guest.topology
    apic_id = topology.apic_id(cpu)
    amd = any(one.function == _VENDOR and _vendor(one) in _AMD_VENDORS for one in host)
    made = frozenset({_TOPOLOGY, _TOPOLOGY_2, _AMD_TOPOLOGY, _AMD_TOPOLOGY_2})
    kept = [one for one in host if one.function not in made]
    if not guest.xsave:
        kept = [_without_xsave(one) for one in kept if one.function not in _XSAVE_LEAVES]
    most = max((one.eax for one in kept if one.function == _VENDOR), default=0)
    table = [_of_vcpu(one, topology, apic_id, amd=amd) for one in kept]
    table.extend(_levels(_TOPOLOGY, topology, apic_id))
    if most >= _TOPOLOGY_2:
        table.extend(_levels(_TOPOLOGY_2, topology, apic_id))
    if amd and any(one.function == _AMD_FEATURES and one.ecx & _TOPOEXT for one in kept):
        core, package = apic_id >> topology.thread_bits, apic_id >> topology.package_bits
        core &= (1 << topology.package_bits - topology.thread_bits) - 1
        ebx = (topology.threads - 1) << 8 | core
        table.append(CpuidEntry(_AMD_TOPOLOGY, eax=apic_id, ebx=ebx, ecx=package & 0xFF))
    return tuple(sorted(table, key=lambda one: (one.function, one.index)))


def with_tsc_deadline(one: CpuidEntry) -> CpuidEntry:
    """Have `one` say that there is a TSC deadline timer, if it is the leaf that says such."""
    return replace(one, ecx=one.ecx | _TSC_DEADLINE) if one.function == _FEATURES else one


def _vendor(one: CpuidEntry) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in (one.ebx, one.edx, one.ecx))


def _of_vcpu(one: CpuidEntry, topology: Topology, apic_id: int, *, amd: bool) -> CpuidEntry:
    """`one` with what it tells of topology; everything else stays."""
    eax, ebx, ecx, edx = one.eax, one.ebx, one.ecx, one.edx
    several = topology.threads_per_package > 1
    room = 1 << topology.package_bits
    match one.function:
        case 0x0:
            # There is a leaf of topology even where the host has none.
            eax = max(eax, _TOPOLOGY)
        case 0x1:
            ebx = ebx & 0xFFFF | min(room, 0xFF) << 16 | (apic_id & 0xFF) << 24
            ecx |= _X2APIC
            edx = edx | _HTT if several else edx & ~_HTT
        case 0x4 | 0x8000_001D if eax & 0x1F:
            # Level 3 is the package's, those below a core's.
            sharing = room if eax >> 5 & 7 >= 3 else 1 << topology.thread_bits
            eax = eax & ~(0xFFF << 14) | min(sharing - 1, 0xFFF) << 14
            if one.function == _CACHES:
                cores = 1 << topology.package_bits - topology.thread_bits
                eax = eax & ~(0x3F << 26) | min(cores - 1, 0x3F) << 26
        case 0x8000_0001 if amd:
            ecx = ecx | _CMP_LEGACY if several else ecx & ~_CMP_LEGACY
        case 0x8000_0008 if amd:
            threads = topology.threads_per_package
            ecx = ecx & ~0xF0FF | min(threads - 1, 0xFF) | topology.package_bits << 12
    return replace(one, eax=eax, ebx=ebx, ecx=ecx, edx=edx)


def _levels(leaf: int, topology: Topology, apic_id: int) -> Iterator[CpuidEntry]:
    """The subleaves of an extended topology leaf: threads, cores, and the end. All tell the ID."""
    levels: Iterable[tuple[int, int, int]] = (
        (topology.thread_bits, topology.threads, _THREADS),
        (topology.package_bits, topology.threads_per_package, _CORES),
        (0, 0, 0),
    )
    for index, (shift, count, kind) in enumerate(levels):
        yield CpuidEntry(
            leaf, index, _INDEX_COUNTS, eax=shift, ebx=count, ecx=kind << 8 | index, edx=apic_id
        )


def _without_xsave(one: CpuidEntry) -> CpuidEntry:
    for function, index, eax, ebx, ecx, edx in _WITHOUT_XSAVE:
        if (one.function, one.index) == (function, index):
            return replace(
                one, eax=one.eax & ~eax, ebx=one.ebx & ~ebx, ecx=one.ecx & ~ecx, edx=one.edx & ~edx
            )
    return one
