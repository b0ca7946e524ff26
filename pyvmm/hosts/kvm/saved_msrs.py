# SPDX-License-Identifier: MIT
"""Reading and setting all model-specific registers of a vCPU at once.

KVM lists more than a vCPU has: what one has depends on its CPUID. KVM_GET_MSRS and KVM_SET_MSRS
stop in front of one that they refuse and return how many they did, so the rest is asked for behind
it. What was refused is remembered: the next vCPU of that CPUID takes one ioctl.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import CData, ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import FdKind

_ENTRY = struct.Struct("<I4xQ")
_TSC = 0x10
_TSC_DEADLINE = 0x6E0
_UNLISTED = (
    *range(0x200, 0x220),  # MTRRs with a variable range (SDM vol. 3A, 13.11)
    *(0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF),  # MTRRs with a fixed one, their default
    *range(0x400, 0x480),  # banks of machine checks: 32, KVM_MAX_MCE_BANKS
)
"""State of a guest that older kernels do not list."""


class MsrList:
    """The MSRs of vCPUs of one kind (CPUID, VM type, controllers), learned as they are read.

    Any thread: machines of one process share it.
    """

    def __init__(self, listed: Iterable[int]) -> None:
        """`listed` is what KVM_GET_MSR_INDEX_LIST gives."""
        indices = {*listed, *_UNLISTED} - {_TSC, _TSC_DEADLINE}
        # The counter before the deadline, which is compared with it.
        # Dictionaries, since each change of one, and a copy of all its keys, is one step.
        self._indices = dict.fromkeys([_TSC, *sorted(indices), _TSC_DEADLINE])
        self._fixed: dict[int, None] = {}

    def read(self, vcpu: Descriptor) -> bytes:
        """All that the vCPU has: entries of ``kvm_msrs``. Raises `KvmError`."""
        wanted = [*self._indices, *self._fixed]
        found, refused = _read(vcpu, b"".join(_ENTRY.pack(index, 0) for index in wanted))
        for index in refused:
            self._indices.pop(index, None)
            self._fixed.pop(index, None)
        return found

    def write(self, vcpu: Descriptor, entries: bytes) -> None:
        """Set them all. One that KVM does not take is an error where its value differs.

        Raises `KvmError`, with errno 0, that names the first such one; those before it are set.
        """
        at = 0
        while at < len(entries):
            at += _set(vcpu, entries[at:]) * _ENTRY.size
            rest = entries[at:]
            if not rest or _read(vcpu, rest) == (rest, frozenset()):
                return
            first = rest[: _ENTRY.size]
            index, value = _ENTRY.unpack(first)
            if _read(vcpu, first)[0] != first:
                described = f"msr={index:#x} value={value:#x}"
                raise KvmError.of(ioctls.SET_MSRS.name, FdKind.VCPU, vcpu.fd, described, 0)
            if index in self._indices:
                # At the end: then what can be set is set by one ioctl, and this one compared.
                self._fixed[index] = None
                self._indices.pop(index, None)
            at += _ENTRY.size


def _read(vcpu: Descriptor, wanted: bytes) -> tuple[bytes, frozenset[int]]:
    """The entries whose indices `wanted` has, as they are now; and the indices refused."""
    parts: list[bytes] = []
    refused: set[int] = set()
    while wanted:
        count = len(wanted) // _ENTRY.size
        raw = _msrs(wanted, count)
        done = call(ioctls.GET_MSRS, vcpu, raw, f"nmsrs={count}")
        parts.append(bytes(ffi.buffer(raw.entries, done * _ENTRY.size)))
        if done < count:
            refused.add(raw.entries[done].index)
        wanted = wanted[(done + 1) * _ENTRY.size :]
    return b"".join(parts), frozenset(refused)


def _set(vcpu: Descriptor, entries: bytes) -> int:
    """Set what KVM takes up to the first one that it refuses; how many that were."""
    count = len(entries) // _ENTRY.size
    return call(ioctls.SET_MSRS, vcpu, _msrs(entries, count), f"nmsrs={count}")


def _msrs(entries: bytes, count: int) -> CData:
    raw = new("struct kvm_msrs *", {"nmsrs": count, "entries": count})
    ffi.memmove(raw.entries, entries, len(entries))
    return raw
