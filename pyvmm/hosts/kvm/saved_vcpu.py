# SPDX-License-Identifier: MIT
"""Saving a vCPU and restoring it: which ioctls in which order, and why that one.

Everything is kept as KVM gives it. Docs/decisions/0013 says what went wrong elsewhere.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import CData, ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.ioctls import IoctlSpec
from pyvmm.hosts.kvm.saved_msrs import MsrList
from pyvmm.hosts.kvm.saved_values import NESTED_HEAD, SREGS2_SIZE, KvmSavedVcpu
from pyvmm.hosts.saved_state import (
    Origin,
    SavedVcpu,
    require_same_origin,
    require_same_vcpu,
)

_LEGACY_XSAVE = 4096
_FEATURE_CONTROL = 0x3A
_SVM_FORMAT = 1
_GIF_SET = 1 << 8
_NO_PAGE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class VcpuLike:
    """Facts of a vCPU that saving has to know beside its fd.

    `cpuid` is the table that it was given; `msrs` those that vCPUs like it have; `nested_room` the
    bytes for what it has as a hypervisor, 0 where it is none.
    """

    origin: Origin
    index: int
    cpuid: bytes
    has_apic: bool
    has_sregs2: bool
    msrs: MsrList
    nested_room: int


def save(vcpu: Descriptor, like: VcpuLike) -> KvmSavedVcpu:
    """Read all the state of a vCPU whose last exit has been completed. Raises `KvmError`.

    What it waits for comes first, since reading that takes a pending INIT or start-up IPI (and so
    alters the local APIC). Events come before CR2 and the debug registers: reading them delivers
    what comes with a pending page fault or debug exception. MSRs come before the local APIC: a
    deadline that passes in between is then seen twice, in the other order not at all.
    """
    mp_state = _get(vcpu, ioctls.GET_MP_STATE, "struct kvm_mp_state *")
    return KvmSavedVcpu(
        origin=like.origin,
        index=like.index,
        cpuid=like.cpuid,
        tsc_khz=call(ioctls.GET_TSC_KHZ, vcpu),
        mp_state=int.from_bytes(mp_state, "little"),
        events=_get(vcpu, ioctls.GET_VCPU_EVENTS, "struct kvm_vcpu_events *"),
        regs=_get(vcpu, ioctls.GET_REGS, "struct kvm_regs *"),
        sregs=_get(vcpu, ioctls.GET_SREGS2, "struct kvm_sregs2 *")
        if like.has_sregs2
        else _get(vcpu, ioctls.GET_SREGS, "struct kvm_sregs *"),
        xsave=_get_xsave(vcpu, like.origin.xsave_size),
        xcrs=_get(vcpu, ioctls.GET_XCRS, "struct kvm_xcrs *"),
        debugregs=_get(vcpu, ioctls.GET_DEBUGREGS, "struct kvm_debugregs *"),
        msrs=like.msrs.read(vcpu),
        lapic=_get(vcpu, ioctls.GET_LAPIC, "struct kvm_lapic_state *") if like.has_apic else None,
        nested=_get_nested(vcpu, like.nested_room) if like.nested_room else None,
    )


def require(saved: SavedVcpu, like: VcpuLike) -> KvmSavedVcpu:
    """Return `saved` if such a vCPU can take it.

    Raises `HostLacksError` for a state of another origin, `UsageError` for one of another vCPU.
    """
    require_same_origin(saved.origin, like.origin)
    if not isinstance(saved, KvmSavedVcpu):
        raise InternalError(f"restore vCPU {like.index}", f"a {type(saved).__name__} is not KVM's")
    has_lapic = saved.lapic is not None
    require_same_vcpu(saved, like.index, saved_apic=has_lapic, has_apic=like.has_apic)
    return saved


def restore(vcpu: Descriptor, like: VcpuLike, saved: KvmSavedVcpu) -> None:
    """Give a vCPU, which has its CPUID already, the rest of the state that `saved` has.

    The rate of the time stamp counter comes before the counter; special registers before the local
    APIC, which they place, and that before the MSRs: a deadline is taken in its timer mode only.
    What the vCPU has as a hypervisor comes behind the special registers, which may be its guest's,
    and have SVM's switch; VMX has its own in an MSR, which comes before. To begin with there is no
    guest of its own, lest special registers become that one's. XCR0 before what it enables;
    registers before events, since setting them forgets exceptions;
    last of all what it waits for. Raises `KvmError`.
    """
    if call(ioctls.GET_TSC_KHZ, vcpu) != saved.tsc_khz:
        call(ioctls.SET_TSC_KHZ, vcpu, saved.tsc_khz)
    if saved.nested is not None:
        _set(vcpu, ioctls.SET_NESTED_STATE, _without_guest(saved.nested))
        like.msrs.write(vcpu, saved.msr_entry(_FEATURE_CONTROL))
    two = len(saved.sregs) == SREGS2_SIZE
    _set(vcpu, ioctls.SET_SREGS2 if two else ioctls.SET_SREGS, saved.sregs)
    if saved.nested is not None:
        _set(vcpu, ioctls.SET_NESTED_STATE, saved.nested)
    _set(vcpu, ioctls.SET_REGS, saved.regs)
    _set(vcpu, ioctls.SET_XCRS, saved.xcrs)
    _set(vcpu, ioctls.SET_XSAVE, saved.xsave)
    if saved.lapic is not None:
        _set(vcpu, ioctls.SET_LAPIC, saved.lapic)
    like.msrs.write(vcpu, saved.msrs)
    _set(vcpu, ioctls.SET_DEBUGREGS, saved.debugregs)
    _set(vcpu, ioctls.SET_VCPU_EVENTS, saved.events)
    _set(vcpu, ioctls.SET_MP_STATE, saved.mp_state.to_bytes(4, "little"))


def _get(vcpu: Descriptor, spec: IoctlSpec, declaration: str) -> bytes:
    raw = new(declaration)
    call(spec, vcpu, raw)
    return bytes(ffi.buffer(raw))


def _get_xsave(vcpu: Descriptor, size: int) -> bytes:
    spec = ioctls.GET_XSAVE2 if size > _LEGACY_XSAVE else ioctls.GET_XSAVE
    raw: CData = new("char[]", size)
    call(spec, vcpu, raw, f"size={size}")
    return bytes(ffi.buffer(raw))


def _get_nested(vcpu: Descriptor, room: int) -> bytes:
    raw: CData = new("char[]", room)
    ffi.buffer(raw)[4:8] = room.to_bytes(4, "little")
    call(ioctls.GET_NESTED_STATE, vcpu, raw, f"size={room}")
    size = int.from_bytes(ffi.buffer(raw)[4:8], "little")
    return bytes(ffi.buffer(raw, size))


def _without_guest(nested: bytes) -> bytes:
    """The same kind of state, of a vCPU that is no hypervisor yet."""
    format_ = int.from_bytes(nested[2:4], "little")
    if format_ == _SVM_FORMAT:
        head = struct.pack("<HHI", _GIF_SET, format_, NESTED_HEAD)
    else:  # VMX: neither VMXON's page nor a VMCS.
        head = struct.pack("<HHIQQ", 0, format_, NESTED_HEAD, _NO_PAGE, _NO_PAGE)
    return head.ljust(NESTED_HEAD, b"\0")


def _set(vcpu: Descriptor, spec: IoctlSpec, content: bytes) -> None:
    call(spec, vcpu, ffi.from_buffer(content), f"{len(content)} bytes")
