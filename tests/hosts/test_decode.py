# SPDX-License-Identifier: MIT
"""Exits from hand-filled run structures: no /dev/kvm involved."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts import exits
from pyvmm.hosts.exits import EHWPOISON
from pyvmm.hosts.kvm.binding import ffi, lib
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.exits import decode

RUN_SIZE = 3 * 4096
DATA = 4096


class Run:
    """A zeroed mapping of a vCPU as the kernel would fill it."""

    def __init__(self) -> None:
        self.memory = ffi.new("char[]", RUN_SIZE)
        self.raw: Any = ffi.cast("struct kvm_run *", self.memory)

    def decode(self, run_errno: int = 0) -> exits.Exit:
        code = lib.pyvmm_exit_code(self.raw, RUN_SIZE, run_errno)
        return decode(code, self.raw, 5)

    def io(self, *, out: bool, size: int, count: int, data: bytes = b"") -> Run:
        self.raw.exit_reason = ExitReason.IO
        io = self.raw.u.io
        io.direction, io.size, io.port, io.count, io.data_offset = (
            int(out),
            size,
            0x3F8,
            count,
            DATA,
        )
        ffi.buffer(self.memory)[DATA : DATA + len(data)] = data
        return self


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.mark.parametrize("data", [b"\x7f", b"\x01\xff", b"\xff\xfe\xfd\xfc"])
def test_port_write(run: Run, data: bytes) -> None:
    run.io(out=True, size=len(data), count=1, data=data)
    assert run.decode() == exits.IoOut(0x3F8, len(data), 1, data)
    assert run.decode() == exits.IoOut(0x3F8, len(data), 1, data)  # from the cache as well


def test_port_write_takes_only_its_own_bytes(run: Run) -> None:
    run.io(out=True, size=1, count=1, data=b"\x41\x42\x43\x44")
    assert run.decode() == exits.IoOut(0x3F8, 1, 1, b"\x41")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_read(run: Run, size: int) -> None:
    assert run.io(out=False, size=size, count=1, data=b"\xff" * 4).decode() == exits.IoIn(
        0x3F8, size, 1
    )


def test_string_write_has_all_its_values(run: Run) -> None:
    run.io(out=True, size=2, count=3, data=b"abcdef!")
    assert run.decode() == exits.IoOut(0x3F8, 2, 3, b"abcdef")


def test_string_read(run: Run) -> None:
    assert run.io(out=False, size=1, count=300).decode() == exits.IoIn(0x3F8, 1, 300)


def test_more_port_writes_than_the_cache_holds(run: Run) -> None:
    for value in range(20_000):
        data = value.to_bytes(2, "little")
        run.io(out=True, size=2, count=1, data=data)
        assert run.decode() == exits.IoOut(0x3F8, 2, 1, data)
    run.raw.exit_reason = ExitReason.HLT
    assert run.decode() == exits.Hlt()


@pytest.mark.parametrize(
    ("size", "count", "offset"),
    [
        (1, 1, RUN_SIZE),
        (4, 1, RUN_SIZE - 3),
        (1, 1, 0),  # over the structure itself
        (1, 1, 2**64 - 1),
        (3, 1, DATA),
        (0, 1, DATA),
        (4, 0xFFFF_FFFF, DATA),
        (1, RUN_SIZE, DATA),
    ],
)
def test_data_outside_of_the_mapping_is_refused(
    run: Run, size: int, count: int, offset: int
) -> None:
    run.io(out=True, size=1, count=1)
    run.raw.u.io.size, run.raw.u.io.count, run.raw.u.io.data_offset = size, count, offset
    with pytest.raises(InternalError, match="outside"):
        run.decode()


def test_mmio(run: Run) -> None:
    run.raw.exit_reason = ExitReason.MMIO
    run.raw.u.mmio.phys_addr = 0xFEE0_0000
    run.raw.u.mmio.len = 3
    assert run.decode() == exits.MmioRead(0xFEE0_0000, 3)
    run.raw.u.mmio.is_write = 1
    run.raw.u.mmio.data = b"\x01\x02\x03\x04"
    assert run.decode() == exits.MmioWrite(0xFEE0_0000, b"\x01\x02\x03")
    run.raw.u.mmio.len = 9
    with pytest.raises(InternalError, match="outside"):
        run.decode()


def test_hypercall(run: Run) -> None:
    run.raw.exit_reason = ExitReason.HYPERCALL
    call = run.raw.u.hypercall
    call.nr, call.args, call.flags = 12, [1, 2, 3, 4, 5, 2**64 - 1], 1
    assert run.decode() == exits.Hypercall(12, (1, 2, 3, 4, 5, 2**64 - 1), long_mode=True)
    call.flags = 0
    assert run.decode() == exits.Hypercall(12, (1, 2, 3, 4, 5, 2**64 - 1), long_mode=False)


def test_reasons_without_details(run: Run) -> None:
    plain = {
        ExitReason.HLT: exits.Hlt(),
        ExitReason.SHUTDOWN: exits.Shutdown(),
        ExitReason.IRQ_WINDOW_OPEN: exits.IrqWindowOpen(),
        ExitReason.SET_TPR: exits.SetTpr(),
        ExitReason.DIRTY_RING_FULL: exits.DirtyRingFull(),
    }
    for reason, expected in plain.items():
        run.raw.exit_reason = reason
        assert run.decode() == expected


def test_reasons_with_details(run: Run) -> None:
    raw = run.raw
    raw.exit_reason = ExitReason.INTERNAL_ERROR
    raw.u.internal.suberror, raw.u.internal.ndata = 1, 2
    raw.u.internal.data[0], raw.u.internal.data[1] = 7, 8
    assert run.decode() == exits.KvmInternalError(1, (7, 8))
    raw.u.internal.ndata = 4_000_000_000  # never more than there is room for
    decoded = run.decode()
    assert isinstance(decoded, exits.KvmInternalError)
    assert len(decoded.data) == 16

    run = Run()
    run.raw.exit_reason = ExitReason.FAIL_ENTRY
    run.raw.u.fail_entry.hardware_entry_failure_reason, run.raw.u.fail_entry.cpu = 1 << 40, 3
    assert run.decode() == exits.FailEntry(1 << 40, 3)

    run = Run()
    run.raw.exit_reason = ExitReason.SYSTEM_EVENT
    run.raw.u.system_event.type, run.raw.u.system_event.ndata = 2, 1
    run.raw.u.system_event.data[0] = 9
    assert run.decode() == exits.SystemEvent(2, (9,))

    run = Run()
    run.raw.exit_reason = ExitReason.DEBUG
    debug = run.raw.u.debug
    debug.exception, debug.pc, debug.dr6, debug.dr7 = 1, 0x1000, 0x4000, 0x400
    assert run.decode() == exits.Debug(1, 0x1000, 0x4000, 0x400)

    run = Run()
    run.raw.exit_reason = ExitReason.IOAPIC_EOI
    run.raw.u.eoi.vector = 0x31
    assert run.decode() == exits.IoapicEoi(0x31)


def test_msr(run: Run) -> None:
    run.raw.exit_reason = ExitReason.X86_RDMSR
    msr = run.raw.u.msr
    msr.index, msr.reason, msr.data = 0xC000_0080, 2, 5
    assert run.decode() == exits.ReadMsr(0xC000_0080, 2)
    run.raw.exit_reason = ExitReason.X86_WRMSR
    assert run.decode() == exits.WriteMsr(0xC000_0080, 5, 2)


@pytest.mark.parametrize("reason", [0, 1, 10, 16, 27, 38, 40, 63, 64, 1000, 0xFFFF_FFFF])
def test_unknown_reasons(run: Run, reason: int) -> None:
    run.raw.exit_reason = reason
    assert run.decode() == exits.UnknownExit(reason)


@pytest.mark.parametrize("number", [errno.EFAULT, EHWPOISON])
def test_memory_fault(run: Run, number: int) -> None:
    run.raw.exit_reason = ExitReason.MEMORY_FAULT
    fault = run.raw.u.memory_fault
    fault.flags, fault.gpa, fault.size = 8, 0x20_0000, 4096
    assert run.decode(number) == exits.MemoryFault(
        0x20_0000, 4096, exits.MemoryFaultFlag.PRIVATE, number
    )
    fault.flags = 0
    assert run.decode(number) == exits.MemoryFault(
        0x20_0000, 4096, exits.MemoryFaultFlag(0), number
    )


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOMEM, errno.EIO, errno.EBADF])
def test_memory_fault_is_stale_with_other_errnos(run: Run, number: int) -> None:
    run.raw.exit_reason = ExitReason.MEMORY_FAULT
    with pytest.raises(KvmError) as caught:
        run.decode(number)
    assert caught.value.errno == number
    assert caught.value.ioctl == "KVM_RUN"


@pytest.mark.parametrize("reason", [ExitReason.IO, ExitReason.MMIO, ExitReason.HLT])
@pytest.mark.parametrize("number", [errno.EFAULT, EHWPOISON])
def test_other_reasons_are_stale_with_an_errno(run: Run, reason: ExitReason, number: int) -> None:
    run.raw.exit_reason = reason
    with pytest.raises(KvmError) as caught:
        run.decode(number)
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted_whatever_the_reason_left_behind(run: Run, number: int) -> None:
    for reason in (ExitReason.IO, ExitReason.MEMORY_FAULT, ExitReason.SHUTDOWN):
        run.raw.exit_reason = reason
        assert run.decode(number) == exits.Interrupted()


def test_error_says_what_on_what_and_why(run: Run) -> None:
    with pytest.raises(KvmError) as caught:
        run.decode(errno.ENOMEM)
    text = str(caught.value)
    assert text.startswith("cannot issue KVM_RUN() on vCPU fd 5: ENOMEM (Cannot allocate memory)")
    assert "\n" not in text
