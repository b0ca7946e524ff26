# SPDX-License-Identifier: MIT
"""Running a vCPU: exits and their answers, on the real /dev/kvm."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.exits import ExitRecord
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import MsrFilterRange
from pyvmm.hosts.registers import Cr0, Regs, Segment

from .flat_guest import (
    ENTRY,
    LOAD_9000,
    OUT_F1_FOR_EVER,
    MakeGuest,
    enter_user_mode,
    has_hardware_virtualization,
)

pytestmark = pytest.mark.kvm

MMIO = 0x9000
MAP_GPA_RANGE = 12
NO_SUCH_MSR = 0x1_2345
"""An MSR that no processor has."""


def test_port_writes_of_all_sizes(guest: MakeGuest) -> None:
    # `mov dx, 0x100; mov eax, 0x44332211; out dx, al; out dx, ax; out dx, eax`
    vcpu = guest(bytes.fromhex("ba0001 66b811223344 ee ef 66ef")).vcpu
    assert vcpu.run() == exits.IoOut(0x100, 1, 1, b"\x11")
    assert vcpu.run() == exits.IoOut(0x100, 2, 1, b"\x11\x22")
    assert vcpu.run() == exits.IoOut(0x100, 4, 1, b"\x11\x22\x33\x44")


def test_port_reads_of_all_sizes(guest: MakeGuest) -> None:
    # `in al, 0x60; out 0x61, al; in ax, 0x60; out 0x61, ax; in eax, 0x60; out 0x61, eax`
    vcpu = guest(bytes.fromhex("e460 e661 e560 e761 66e560 66e761")).vcpu
    for data in (b"\x7e", b"\x01\x02", b"\xff\xfe\xfd\xfc"):
        assert vcpu.run() == exits.IoIn(0x60, len(data), 1)
        vcpu.answer(data)
        assert vcpu.run() == exits.IoOut(0x61, len(data), 1, data)


def test_string_output_comes_with_all_values(guest: MakeGuest) -> None:
    # `cld; rep outsb`
    regs = Regs(rip=ENTRY, rsi=0x2000, rcx=5, rdx=0xE9)
    made = guest(bytes.fromhex("fc f36e f4"), regs)
    made.write(0x2000, b"hello")
    seen = b""
    while (out := made.vcpu.run()) != exits.Hlt():
        assert isinstance(out, exits.IoOut)
        assert (out.port, out.size) == (0xE9, 1)
        assert len(out.data) == out.count
        seen += out.data
    assert seen == b"hello"


def test_string_input_takes_all_values(guest: MakeGuest) -> None:
    # `cld; rep insw`
    made = guest(bytes.fromhex("fc f36d f4"), Regs(rip=ENTRY, rdi=0x2000, rcx=4, rdx=0x70))
    fed = b""
    while (asked := made.vcpu.run()) != exits.Hlt():
        assert isinstance(asked, exits.IoIn)
        data = bytes(range(len(fed) + 1, len(fed) + 1 + asked.size * asked.count))
        fed += data
        made.vcpu.answer(data)
    assert made.read(0x2000, 8) == fed == bytes(range(1, 9))


def test_mmio(guest: MakeGuest) -> None:
    # `mov ax, 0xbeef; mov [0x9000], ax; mov al, [0x9000]; out 0x61, al`
    made = guest(bytes.fromhex("b8efbe a30090 a00090 e661"))
    assert made.vcpu.run() == exits.MmioWrite(MMIO, b"\xef\xbe")
    assert made.vcpu.run() == exits.MmioRead(MMIO, 1)
    made.vcpu.answer(b"\x5a")
    assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\x5a")


def test_write_to_a_read_only_slot_is_mmio(guest: MakeGuest, system: System) -> None:
    made = guest(bytes.fromhex("a20090 a00090 e661"), Regs(rip=ENTRY, rax=0x11))
    with system.map_anonymous(4096) as rom:
        with rom.view() as view:
            view[0] = 0x77
        made.vm.set_memslot(Memslot(1, MMIO, 4096, rom.hva, MemslotFlag.READONLY))
        assert made.vcpu.run() == exits.MmioWrite(MMIO, b"\x11")
        assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\x77")


def test_halt_and_go_on(guest: MakeGuest) -> None:
    vcpu = guest(bytes.fromhex("f4 e661")).vcpu
    assert vcpu.run() == exits.Hlt()
    assert vcpu.run() == exits.IoOut(0x61, 1, 1, b"\0")


def test_triple_fault(guest: MakeGuest) -> None:
    """ud2 in protected mode with an empty interrupt table."""
    vcpu = guest(bytes.fromhex("0f0b")).vcpu
    sregs = vcpu.get_sregs()
    code = Segment(0, 0xFFFF_FFFF, 8, 11, 1, 0, 1, 1, 0, 1, 0, 0)
    data = replace(code, selector=16, type=3)
    vcpu.set_sregs(
        replace(
            sregs, cs=code, ds=data, es=data, ss=data, fs=data, gs=data,
            idt=replace(sregs.idt, limit=0), cr0=sregs.cr0 | Cr0.PE,
        )
    )  # fmt: skip
    assert vcpu.run() == exits.Shutdown()


def test_hypercall(guest: MakeGuest, system: System) -> None:
    assert system.capabilities().hypercalls & 1 << MAP_GPA_RANGE
    regs = Regs(rip=ENTRY, rax=MAP_GPA_RANGE, rbx=0x2000, rcx=1, rdx=0)
    # `vmcall; out 0x61, eax`
    made = guest(
        bytes.fromhex("0f01c1 66e761"),
        regs,
        lambda vm: vm.enable_hypercall_exits(1 << MAP_GPA_RANGE),
    )
    if not has_hardware_virtualization():
        # Here KVM emulates ring 0, and its emulator, having put the processor's own hypercall
        # instruction in place, executes the same one again, for ever.
        timer = threading.Timer(0.1, made.vcpu.kick)
        timer.start()
        assert made.vcpu.run() == exits.Interrupted()
        timer.join()
        assert made.vcpu.get_regs().rip == ENTRY
        return
    call = made.vcpu.run()
    assert isinstance(call, exits.Hypercall)
    assert (call.number, call.args[:3], call.long_mode) == (MAP_GPA_RANGE, (0x2000, 1, 0), False)
    made.vcpu.answer_hypercall(0x1234)
    assert made.vcpu.run() == exits.IoOut(0x61, 4, 1, b"\x34\x12\0\0")


def test_hypercalls_that_cannot_be_enabled_are_refused(guest: MakeGuest, system: System) -> None:
    made = guest(OUT_F1_FOR_EVER)
    beyond = 1 << 30
    assert not system.capabilities().hypercalls & beyond
    with pytest.raises(KvmError) as caught:
        made.vm.enable_hypercall_exits(beyond)
    assert (caught.value.errno, caught.value.ioctl) == (errno.EINVAL, "KVM_ENABLE_CAP")


def test_unknown_msrs_in_user_space(guest: MakeGuest, system: System) -> None:
    assert system.capabilities().user_space_msr
    # `mov ecx, 0x12345; rdmsr; out 0x61, eax; wrmsr; rdmsr`
    code = bytes.fromhex("66b945230100 0f32 66e761 0f30 0f32")
    made = guest(code, prepare=lambda vm: vm.enable_user_space_msr(2))
    assert made.vcpu.run() == exits.ReadMsr(NO_SUCH_MSR, 2)
    made.vcpu.answer_msr(0xAABB_CCDD, fault=False)
    assert made.vcpu.run() == exits.IoOut(0x61, 4, 1, bytes.fromhex("ddccbbaa"))
    written = made.vcpu.run()
    assert isinstance(written, exits.WriteMsr)
    assert (written.index, written.value & 0xFFFF_FFFF) == (NO_SUCH_MSR, 0xAABB_CCDD)
    made.vcpu.answer_msr(0, fault=False)
    assert isinstance(made.vcpu.run(), exits.ReadMsr)
    # A refused access is a #GP, vector 13, whose handler writes to port 0x62.
    made.write(13 * 4, (0x3000).to_bytes(4, "little"))
    made.write(0x3000, bytes.fromhex("e662"))
    made.vcpu.answer_msr(0, fault=True)
    # Where ring 0 is emulated, KVM cannot deliver an exception in real mode: a triple fault. On
    # an emulated processor without next-RIP save it gives up while delivering it (suberror 3).
    end = made.vcpu.run()
    gave_up = isinstance(end, exits.KvmInternalError) and end.suberror == 3
    assert gave_up or end in {exits.IoOut(0x62, 1, 1, b"\xdd"), exits.Shutdown()}


def test_filtered_msr(guest: MakeGuest) -> None:
    # `mov ecx, 0x10 (the time stamp counter); rdmsr`
    made = guest(bytes.fromhex("66b910000000 0f32"), prepare=lambda vm: vm.enable_user_space_msr(4))
    made.vm.set_msr_filter([MsrFilterRange(3, 0, [True] * 16 + [False])], deny_by_default=False)
    assert made.vcpu.run() == exits.ReadMsr(0x10, 4)
    with pytest.raises(KvmError):
        made.vm.set_msr_filter([], deny_by_default=True)


def test_answers_are_taken_once_and_only_when_asked_for(guest: MakeGuest) -> None:
    vcpu = guest(bytes.fromhex("e460 e661 e460 f4")).vcpu
    with pytest.raises(InternalError):
        vcpu.answer(b"\0")
    assert isinstance(vcpu.run(), exits.IoIn)
    with pytest.raises(InternalError, match="another number of bytes"):
        vcpu.answer(b"\0\0")
    with pytest.raises(InternalError):
        vcpu.answer_hypercall(0)
    with pytest.raises(InternalError):
        vcpu.answer_msr(0, fault=True)
    vcpu.answer(b"\x42")
    with pytest.raises(InternalError):
        vcpu.answer(b"\x43")
    assert vcpu.run() == exits.IoOut(0x61, 1, 1, b"\x42")
    with pytest.raises(InternalError):
        vcpu.answer(b"\0")
    assert isinstance(vcpu.run(), exits.IoIn)
    vcpu.kick()
    assert vcpu.run() == exits.Interrupted()
    vcpu.answer(b"\x01")  # nothing ran in between: the question still stands
    assert vcpu.run() == exits.Hlt()
    assert vcpu.get_regs().rax & 0xFF == 1


def test_complete_finishes_the_access_without_running_on(guest: MakeGuest) -> None:
    # `in al, 0x60; mov bl, al; hlt`
    vcpu = guest(bytes.fromhex("e460 88c3 f4")).vcpu
    assert isinstance(vcpu.run(), exits.IoIn)
    vcpu.answer(b"\x99")
    vcpu.complete()
    regs = vcpu.get_regs()
    assert (regs.rip, regs.rax & 0xFF, regs.rbx) == (ENTRY + 2, 0x99, 0)
    vcpu.complete()  # nothing is left to complete
    assert vcpu.get_regs() == regs
    assert vcpu.run() == exits.Hlt()
    assert vcpu.get_regs().rbx == 0x99


def test_exits_during_completion_are_not_lost(guest: MakeGuest) -> None:
    """A write across a page is two accesses: completing the first exits with the second."""
    # `mov [0x9fff], eax; hlt`
    vcpu = guest(bytes.fromhex("66a3ff9f f4"), Regs(rip=ENTRY, rax=0x44332211)).vcpu
    assert vcpu.run() == exits.MmioWrite(0x9FFF, b"\x11")
    vcpu.complete()
    vcpu.complete()  # must not complete the second one, which nobody has seen
    assert vcpu.run() == exits.MmioWrite(0xA000, b"\x22\x33\x44")
    assert vcpu.run() == exits.Hlt()
    assert vcpu.exit_counts() == {"MMIO": 2, "HLT": 1}


def test_a_slot_over_nothing_is_an_error(guest: MakeGuest, system: System) -> None:
    """EFAULT without KVM_EXIT_MEMORY_FAULT: the reason in the run structure is stale."""
    made = guest(LOAD_9000)
    enter_user_mode(made)
    ghost = system.map_anonymous(4096)
    made.vm.set_memslot(Memslot(1, MMIO, 4096, ghost.hva))
    ghost.close()
    with pytest.raises(KvmError) as caught:
        made.vcpu.run()
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_RUN", errno.EFAULT)


def test_memory_fault_where_the_guest_memfd_is_gone(guest: MakeGuest, system: System) -> None:
    flags = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
    capabilities = system.capabilities()
    made = guest(LOAD_9000)
    if capabilities.guest_memfd_flags & flags != flags:
        with pytest.raises(KvmError):
            made.vm.create_guest_memfd(4096, flags)
        return
    enter_user_mode(made)
    with made.vm.create_guest_memfd(4096, flags) as file, file.map() as mapping:
        made.vm.set_memslot(Memslot(1, MMIO, 4096, mapping.hva, guest_memfd=file))
    assert capabilities.memory_fault_info
    expected = exits.MemoryFault(MMIO, 4096, exits.MemoryFaultFlag(0), errno.EFAULT)
    assert made.vcpu.run() == expected
    assert made.vcpu.run() == expected
    assert made.vcpu.recent_exits() == [ExitRecord(39, "MEMORY_FAULT", MMIO, 4096, False, 0, 2)]
    assert made.vcpu.get_regs().rip == ENTRY


def test_recent_exits_fold_what_differs_only_in_value(guest: MakeGuest) -> None:
    # `out 0x61, al; inc al, four times; in al, 0x60; mov [0x9000], al; hlt`
    made = guest(bytes.fromhex("e661 fec0" * 4 + "e460 a20090 f4"), Regs(rip=ENTRY, rax=7))
    vcpu = made.vcpu
    for _ in range(4):
        before_the_last = time.monotonic_ns()
        assert isinstance(vcpu.run(), exits.IoOut)
    behind = time.monotonic_ns()
    assert isinstance(vcpu.run(), exits.IoIn)
    vcpu.answer(b"\x03")
    assert isinstance(vcpu.run(), exits.MmioWrite)
    assert vcpu.run() == exits.Hlt()
    assert vcpu.recent_exits() == [
        ExitRecord(2, "IO", 0x61, 1, True, 7, 4),
        ExitRecord(2, "IO", 0x60, 1, False, 0, 1),
        ExitRecord(6, "MMIO", MMIO, 1, True, 3, 1),
        ExitRecord(5, "HLT", 0, 0, False, 0, 1),
    ]
    assert vcpu.exit_counts() == {"IO": 5, "MMIO": 1, "HLT": 1}
    times = [record.when for record in vcpu.recent_exits()]
    assert times == sorted(times)
    assert before_the_last <= times[0] <= behind <= times[1]


def test_recent_exits_are_the_last_32(guest: MakeGuest) -> None:
    # `mov dx, 0; l: out dx, al; inc dx; jmp l`
    vcpu = guest(bytes.fromhex("ba0000 ee 42 ebfc")).vcpu
    for port in range(50):
        out = vcpu.run()
        assert isinstance(out, exits.IoOut)
        assert out.port == port
    assert [record.address for record in vcpu.recent_exits()] == list(range(18, 50))


def test_a_closed_vcpu_refuses(guest: MakeGuest) -> None:
    vcpu = guest(OUT_F1_FOR_EVER).vcpu
    vcpu.close()
    vcpu.close()
    assert vcpu.fd == -1
    with pytest.raises(KvmError, match="closed vCPU") as caught:
        vcpu.run()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(KvmError, match="closed vCPU"):
        vcpu.get_regs()
    with pytest.raises(InternalError):
        vcpu.answer(b"")
    with pytest.raises(InternalError):
        vcpu.synced()
