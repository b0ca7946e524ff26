# SPDX-License-Identifier: MIT
"""From what a KVM_RUN left behind to an exit: `pyvmm.hosts.exits` from ``struct kvm_run``."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyvmm.errors import InternalError, PyvmmError
from pyvmm.hosts import exits
from pyvmm.hosts.kvm.binding import CData, ffi, lib
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import RUN, FdKind

INTERRUPTED = int(lib.PYVMM_INTERRUPTED)
POSTED_FULL = int(lib.PYVMM_POSTED_FULL)
FAULT_EFAULT = int(lib.PYVMM_FAULT_EFAULT)
FAULT_EHWPOISON = int(lib.PYVMM_FAULT_EHWPOISON)
BROKEN_RUN = int(lib.PYVMM_BROKEN_RUN)
PORT = int(lib.PYVMM_PORT)

_PORT_CACHE_MAX = 8192

_HYPERCALL_LONG_MODE = 1

code_cache: dict[int, exits.Exit] = {
    INTERRUPTED: exits.Interrupted(),
    POSTED_FULL: exits.PostedFull(),
    ExitReason.HLT: exits.Hlt(),
    ExitReason.SHUTDOWN: exits.Shutdown(),
    ExitReason.IRQ_WINDOW_OPEN: exits.IrqWindowOpen(),
    ExitReason.SET_TPR: exits.SetTpr(),
    ExitReason.DIRTY_RING_FULL: exits.DirtyRingFull(),
}
"""Finished exits by the code of run.c, for codes that say all there is to say.

Port accesses join as they come: building a frozen value costs more than a tenth of an exit, and a
guest's port accesses repeat.
"""
_FIXED = len(code_cache)


def _io(run: CData) -> exits.Exit:
    """More than one value at once: string I/O."""
    io = run.u.io
    port, size, count = io.port, io.size, io.count
    if io.direction == 0:
        return exits.IoIn(port, size, count)
    start = ffi.cast("char *", run) + io.data_offset
    return exits.IoOut(port, size, count, bytes(ffi.buffer(start, size * count)))


def _mmio(run: CData) -> exits.Exit:
    mmio = run.u.mmio
    if mmio.is_write:
        return exits.MmioWrite(mmio.phys_addr, bytes(ffi.buffer(mmio.data, mmio.len)))
    return exits.MmioRead(mmio.phys_addr, mmio.len)


def _hypercall(run: CData) -> exits.Exit:
    call = run.u.hypercall
    a, b, c, d, e, f = ffi.unpack(call.args, 6)
    return exits.Hypercall(call.nr, (a, b, c, d, e, f), bool(call.flags & _HYPERCALL_LONG_MODE))


def _internal_error(run: CData) -> exits.Exit:
    internal = run.u.internal
    data = ffi.unpack(internal.data, min(internal.ndata, 16))
    return exits.KvmInternalError(internal.suberror, tuple(data))


def _fail_entry(run: CData) -> exits.Exit:
    entry = run.u.fail_entry
    return exits.FailEntry(entry.hardware_entry_failure_reason, entry.cpu)


def _system_event(run: CData) -> exits.Exit:
    event = run.u.system_event
    return exits.SystemEvent(event.type, tuple(ffi.unpack(event.data, min(event.ndata, 16))))


def _debug(run: CData) -> exits.Exit:
    debug = run.u.debug
    return exits.Debug(debug.exception, debug.pc, debug.dr6, debug.dr7)


def _read_msr(run: CData) -> exits.Exit:
    msr = run.u.msr
    return exits.ReadMsr(msr.index, msr.reason)


def _write_msr(run: CData) -> exits.Exit:
    msr = run.u.msr
    return exits.WriteMsr(msr.index, msr.data, msr.reason)


def _ioapic_eoi(run: CData) -> exits.Exit:
    return exits.IoapicEoi(run.u.eoi.vector)


_BY_REASON: dict[int, Callable[[CData], exits.Exit]] = {
    ExitReason.IO: _io,
    ExitReason.MMIO: _mmio,
    ExitReason.HYPERCALL: _hypercall,
    ExitReason.INTERNAL_ERROR: _internal_error,
    ExitReason.FAIL_ENTRY: _fail_entry,
    ExitReason.SYSTEM_EVENT: _system_event,
    ExitReason.DEBUG: _debug,
    ExitReason.X86_RDMSR: _read_msr,
    ExitReason.X86_WRMSR: _write_msr,
    ExitReason.IOAPIC_EOI: _ioapic_eoi,
}


def _port_access(code: int) -> exits.Exit:
    port, size = code & 0xFFFF, code >> 16 & 0xFF
    if code & 1 << 24:
        value = code >> 25 & 0xFFFFFFFF
        return exits.IoOut(port, size, 1, value.to_bytes(size, "little"))
    return exits.IoIn(port, size, 1)


def _fault(run: CData, number: int) -> exits.Exit:
    fault = run.u.memory_fault
    return exits.MemoryFault(fault.gpa, fault.size, exits.MemoryFaultFlag(fault.flags), number)


def _failure(code: int, fd: int) -> PyvmmError:
    if code == BROKEN_RUN:
        return InternalError(
            f"take an exit of vCPU fd {fd}", "the kernel's answer lies outside of its own page"
        )
    if code == -errno.EBUSY:
        return InternalError(
            f"run vCPU fd {fd}", "another thread is running it", "one thread per vCPU"
        )
    return KvmError.of(RUN.name, FdKind.VCPU, fd, "", -code)


def decode(code: int, run: CData, fd: int) -> exits.Exit:
    """The exit that `code` (see run.h) stands for, details from the ``struct kvm_run`` at `run`.

    `fd` is the vCPU's, for errors. Raises `KvmError` for an errno of KVM_RUN that is no exit,
    `InternalError` for a structure that contradicts itself.
    """
    known = code_cache.get(code)
    if known is not None:
        return known
    if code >= PORT:
        if len(code_cache) >= _PORT_CACHE_MAX:
            for old in list(code_cache)[_FIXED:]:
                code_cache.pop(old, None)  # another thread may be at it too
        access = code_cache[code] = _port_access(code)
        return access
    if code == FAULT_EFAULT:
        return _fault(run, errno.EFAULT)
    if code == FAULT_EHWPOISON:
        return _fault(run, exits.EHWPOISON)
    if code < 0 or code == BROKEN_RUN:
        raise _failure(code, fd)
    by_reason = _BY_REASON.get(code)
    return exits.UnknownExit(code) if by_reason is None else by_reason(run)
