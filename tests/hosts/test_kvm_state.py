# SPDX-License-Identifier: MIT
"""The state of a vCPU: what is set can be read back, and the guest sees it."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace

import pytest

from pyvmm.errors import UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu_values import (
    DebugRegs,
    Fpu,
    GuestDebug,
    MpState,
    SyncedRegs,
    SyncRegs,
    VcpuEventsFlag,
)
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Regs

from .flat_guest import COUNT_TO_F1, ENTRY, HALT_FOR_EVER, MakeGuest, enter_user_mode

pytestmark = pytest.mark.kvm


def test_every_general_register_has_its_own_place(guest: MakeGuest) -> None:
    vcpu = guest(b"\xf4").vcpu
    numbers = tuple(range(1, 17))
    regs = Regs(*numbers, ENTRY, 0x46)  # type: ignore[call-arg]
    vcpu.set_regs(regs)
    assert vcpu.get_regs() == regs
    # `out 0x61, eax; xchg ax, bx; out 0x61, eax`
    made = guest(bytes.fromhex("66e761 93 66e761"), Regs(rip=ENTRY, rax=1, rbx=2))
    assert made.vcpu.run() == exits.IoOut(0x61, 4, 1, b"\x01\0\0\0")
    assert made.vcpu.run() == exits.IoOut(0x61, 4, 1, b"\x02\0\0\0")


def test_special_registers(guest: MakeGuest, system: System) -> None:
    made = guest(b"\xf4")
    enter_user_mode(made)
    vcpu = made.vcpu
    sregs = vcpu.get_sregs()
    assert (sregs.cs.selector, sregs.cs.l, sregs.ss.dpl, sregs.cr3) == (0x1B, 1, 3, 0x4000)
    changed = replace(sregs, fs=replace(sregs.fs, base=0x1234), cr2=0x77, cr8=3)
    vcpu.set_sregs(changed)
    assert vcpu.get_sregs() == changed
    assert system.check_extension(Cap.SREGS2)
    same, pointers = vcpu.get_sregs2()
    assert same == changed
    assert not pointers.valid
    vcpu.set_sregs2(sregs, pointers)
    assert vcpu.get_sregs() == sregs
    with pytest.raises(KvmError) as caught:
        vcpu.set_sregs(replace(sregs, cr0=0x8000_0000))  # paging without protection
    assert caught.value.errno == errno.EINVAL


def test_translate(guest: MakeGuest) -> None:
    made = guest(b"\xf4")
    assert made.vcpu.translate(0x1234) == 0x1234
    enter_user_mode(made)
    assert made.vcpu.translate(0x1F_1234) == 0x1F_1234
    assert made.vcpu.translate(0x20_0000) is None


def test_cpuid(guest: MakeGuest, system: System) -> None:
    vcpu = guest(b"\xf4").vcpu
    given = {(entry.function, entry.index): entry for entry in vcpu.get_cpuid()}
    assert given[1, 0].ebx >> 24 == 0
    assert given[0x8000_0008, 0].eax & 0xFF == system.capabilities().physical_address_bits
    vcpu.set_cpuid((CpuidEntry(0, eax=1), CpuidEntry(1, eax=0x123)))
    changed = {entry.function: entry.eax for entry in vcpu.get_cpuid()}
    assert (changed[0], changed[1]) == (1, 0x123)
    assert 0x8000_0008 not in changed
    assert system.supported_cpuid()
    assert isinstance(system.emulated_cpuid(), tuple)


def test_each_vcpu_has_its_own_apic_id(guest: MakeGuest) -> None:
    made = guest(b"\xf4")
    with made.vm.create_vcpu(5) as vcpu:
        vcpu.use_host_cpuid()
        assert [e.ebx >> 24 for e in vcpu.get_cpuid() if e.function == 1] == [5]


def test_fpu_and_xsave(guest: MakeGuest) -> None:
    made = guest(b"\xf4")
    vcpu = made.vcpu
    fpu = Fpu(
        fpr=tuple(bytes([number + 1] * 10 + [0] * 6) for number in range(8)),
        fcw=0x27F,
        xmm=tuple(bytes([number + 16] * 16) for number in range(16)),
    )
    vcpu.set_fpu(fpu)
    read = vcpu.get_fpu()
    assert (read.fpr, read.xmm, read.fcw) == (fpu.fpr, fpu.xmm, 0x27F)
    # A legacy area of our own (SDM vol. 1, 13.4): the SSE state is present, with one XMM0.
    area = bytearray(vcpu.get_xsave(max(4096, made.vm.check_extension(Cap.XSAVE2))))
    area[24:28] = (0x1F80).to_bytes(4, "little")
    area[160:176] = b"\x77" * 16
    area[512] |= 1 << 1
    vcpu.set_xsave(bytes(area))
    assert vcpu.get_fpu().xmm[0] == b"\x77" * 16
    assert vcpu.get_xsave(len(area))[160:176] == b"\x77" * 16


def test_extended_control_registers(guest: MakeGuest) -> None:
    vcpu = guest(b"\xf4").vcpu
    values = vcpu.get_xcrs()
    assert values[0] & 1
    vcpu.set_xcrs(values)
    with pytest.raises(KvmError):
        vcpu.set_xcrs({0: 0})  # x87 cannot be off


def test_kvm_reads_a_time_stamp_that_goes_on(guest: MakeGuest) -> None:
    # Where it stands still, a deadline of the guest's local APIC timer never comes.
    vcpu = guest(b"\xf4").vcpu
    time_stamp = 0x10
    vcpu.set_msrs({time_stamp: 1 << 40})
    first = vcpu.get_msrs([time_stamp])[time_stamp]
    assert 1 << 40 < first < vcpu.get_msrs([time_stamp])[time_stamp]


def test_msrs(guest: MakeGuest, system: System) -> None:
    vcpu = guest(b"\xf4").vcpu
    kernel_gs_base, no_such = 0xC000_0102, 0x1_2345
    vcpu.set_msrs({kernel_gs_base: 0x1000})
    assert vcpu.get_msrs([kernel_gs_base]) == {kernel_gs_base: 0x1000}
    assert kernel_gs_base in system.msr_indices()
    assert system.msr_feature_indices()
    for action in (
        lambda: vcpu.get_msrs([kernel_gs_base, no_such]),
        lambda: vcpu.set_msrs({no_such: 0}),
    ):
        with pytest.raises(KvmError, match="0x12345") as caught:
            action()
        assert caught.value.errno == 0


def test_events(guest: MakeGuest) -> None:
    vcpu = guest(b"\xf4").vcpu
    events = vcpu.get_events()
    assert not events.nmi_pending
    vcpu.nmi()
    assert vcpu.get_events().nmi_pending
    flags = VcpuEventsFlag.NMI_PENDING
    vcpu.set_events(replace(events, nmi_masked=1, flags=flags))
    after = vcpu.get_events()
    assert (after.nmi_pending, after.nmi_masked) == (0, 1)


def test_debug_registers(guest: MakeGuest) -> None:
    vcpu = guest(b"\xf4").vcpu
    registers = DebugRegs((1, 2, 3, 4), 0xFFFF_0FF1, 0x455)
    vcpu.set_debugregs(registers)
    assert vcpu.get_debugregs() == registers


def test_single_step(guest: MakeGuest) -> None:
    vcpu = guest(bytes.fromhex("90 90 f4")).vcpu
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
    stop = vcpu.run()
    assert isinstance(stop, exits.Debug)
    assert (stop.exception, stop.pc) == (1, ENTRY + 1)
    vcpu.set_guest_debug(GuestDebug(0))
    assert vcpu.run() == exits.Hlt()


def test_synced_registers(guest: MakeGuest, system: System) -> None:
    offered = SyncRegs(system.capabilities().sync_regs)
    assert offered == SyncRegs.REGS | SyncRegs.SREGS | SyncRegs.EVENTS
    vcpu = guest(COUNT_TO_F1).vcpu
    assert vcpu.synced() == SyncedRegs(None, None, None)
    vcpu.enable_sync(offered)
    assert vcpu.run() == exits.IoOut(0xF1, 1, 1, b"\0")
    synced = vcpu.synced()
    assert (synced.regs, synced.sregs) == (vcpu.get_regs(), vcpu.get_sregs())
    assert synced.events is not None
    assert synced.regs is not None
    vcpu.complete()
    vcpu.put_synced(SyncedRegs(replace(vcpu.get_regs(), rax=0x41), None, None))
    assert vcpu.run() == exits.IoOut(0xF1, 1, 1, b"\x42")


def test_mp_state_and_lapic_need_the_controllers(guest: MakeGuest) -> None:
    made = guest(HALT_FOR_EVER)
    assert made.vcpu.get_mp_state() is MpState.RUNNABLE
    with pytest.raises(KvmError):
        made.vcpu.get_lapic()
    inside = guest(HALT_FOR_EVER, prepare=Vm.create_irqchip).vcpu
    lapic = inside.get_lapic()
    assert len(lapic) == 1024
    inside.set_lapic(lapic)
    with pytest.raises(UsageError):
        inside.set_lapic(b"")
    inside.set_mp_state(MpState.HALTED)
    assert inside.get_mp_state() is MpState.HALTED


def test_time_stamp_counter_rate(guest: MakeGuest, system: System) -> None:
    vcpu = guest(b"\xf4").vcpu
    rate = vcpu.get_tsc_khz()
    assert rate > 0
    if system.check_extension(Cap.TSC_CONTROL):
        vcpu.set_tsc_khz(rate // 2)
        assert vcpu.get_tsc_khz() == rate // 2
    else:
        # KVM takes a rate that is near enough to the processor's own, or none.
        with suppress(KvmError):
            vcpu.set_tsc_khz(rate)
        assert vcpu.get_tsc_khz() == rate


def test_vcpus_of_one_index(guest: MakeGuest, system: System) -> None:
    made = guest(b"\xf4")
    with pytest.raises(KvmError) as caught:
        made.vm.create_vcpu(0)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(KvmError) as caught:
        made.vm.create_vcpu(1 << 20)
    assert caught.value.errno == errno.EINVAL
    assert system.capabilities().max_vcpus >= 2


def test_entry_leaves_the_apic_base_alone(guest: MakeGuest) -> None:
    vcpu = guest(b"\xf4").vcpu
    before = vcpu.get_sregs()
    regs = Regs(rip=ENTRY, rax=5)
    vcpu.set_entry(regs, replace(before, cr2=0x1234, apic_base=0))
    assert vcpu.get_regs() == regs
    assert vcpu.get_sregs() == replace(before, cr2=0x1234)
    assert before.apic_base
