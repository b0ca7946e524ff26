# SPDX-License-Identifier: MIT
"""Every piece of a vCPU's and a VM's state is saved, and restored in another one."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial

import pytest

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.hosts import exits, interface
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.kvm import cpuid, saved_msrs
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.interrupts import Irqchip
from pyvmm.hosts.kvm.saved_values import KvmSavedVcpu
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vcpu_values import DebugRegs, MpState, VcpuEventsFlag
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.registers import Regs
from pyvmm.hosts.saved_state import SavedVcpu

from .flat_guest import COUNT_TO_F1, ENTRY, MakeGuest, has_hardware_virtualization
from .interleaving import call_with_another_at

_TSC = 0x10
_TSC_DEADLINE = 0x6E0
_LSTAR = 0xC000_0082
_KERNEL_GS_BASE = 0xC000_0102
_MTRR_DEFAULT = 0x2FF
_LAPIC_TIMER, _LAPIC_DIVISOR, _LAPIC_TPR = 0x320, 0x3E0, 0x80
_ONE_SECOND = 1_000_000_000


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def kvm_vcpu(system: System, owned: ExitStack, *, controllers: bool = True, index: int = 0) -> Vcpu:
    """A new vCPU of a new VM."""
    vm = owned.enter_context(system.create_vm())
    if controllers:
        vm.create_irqchip()
    vcpu = owned.enter_context(vm.create_vcpu(index))
    vcpu.use_host_cpuid()
    return vcpu


def same(one: KvmSavedVcpu, other: KvmSavedVcpu) -> None:
    """Both are the same, but for the time that has passed."""
    for field in fields(KvmSavedVcpu):
        if field.name != "msrs":
            assert getattr(one, field.name) == getattr(other, field.name), field.name
    first, second = one.msr_values(), other.msr_values()
    assert first.keys() == second.keys()
    assert [hex(i) for i in first if i != _TSC and first[i] != second[i]] == []
    passed = second[_TSC] - first[_TSC]
    assert 0 <= passed < 600 * one.tsc_khz * 1000


def disturb(vcpu: Vcpu, *, controllers: bool = True) -> None:
    """Unusual values everywhere."""
    sregs = vcpu.get_sregs()
    vcpu.set_sregs(
        replace(sregs, cr2=0x1234, cr3=0x5000, cr8=5, fs=replace(sregs.fs, base=0x77, limit=0x123))
    )
    vcpu.set_regs(Regs(*range(1, 17), 0xFFF7, 0x46))  # type: ignore[call-arg]
    vcpu.set_xcrs({0: vcpu.get_xcrs()[0] | 7 if _has_avx(vcpu) else vcpu.get_xcrs()[0]})
    area = bytearray(vcpu.save().xsave)
    area[0:2] = b"\x7f\x02"  # x87's control word
    area[24:28] = (0x3F80).to_bytes(4, "little")  # MXCSR
    area[32:42] = b"\x11" * 10
    area[160:416] = bytes(range(256))  # XMM0 to XMM15
    area[512] |= 3
    if _has_avx(vcpu):
        area[576:832] = bytes(reversed(range(256)))  # the upper halves of YMM0 to YMM15
        area[512] |= 4
    vcpu.set_xsave(bytes(area))
    vcpu.set_msrs({_KERNEL_GS_BASE: 0x1234, _LSTAR: 0x5678, _MTRR_DEFAULT: 0xC06})
    vcpu.set_debugregs(DebugRegs((1, 2, 3, 4), 0xFFFF_0FF1, 0x455))
    if controllers:
        registers = bytearray(vcpu.get_lapic())
        registers[_LAPIC_DIVISOR] = 0x0B
        registers[0x0F0 + 1] = 1  # the software enable bit
        vcpu.set_lapic(bytes(registers))
    events = vcpu.get_events()
    vcpu.set_events(
        replace(
            events,
            exception_injected=1,
            exception_nr=14,
            exception_has_error_code=1,
            exception_error_code=2,
            nmi_pending=1,
            nmi_masked=1,
            interrupt_shadow=1,
            flags=VcpuEventsFlag.NMI_PENDING | VcpuEventsFlag.SHADOW,
        )
    )
    if controllers:
        vcpu.set_mp_state(MpState.HALTED)


def _has_avx(vcpu: Vcpu) -> bool:
    return any(one.function == 1 and one.ecx >> 28 & 1 for one in vcpu.get_cpuid())


@pytest.mark.kvm
@pytest.mark.parametrize("controllers", [False, True])
def test_all_of_a_vcpu_of_kvm(system: System, owned: ExitStack, controllers: bool) -> None:
    source = kvm_vcpu(system, owned, controllers=controllers)
    new = source.save()
    disturb(source, controllers=controllers)
    saved = source.save()
    for field in fields(KvmSavedVcpu):
        if field.name not in ("origin", "index", "cpuid", "tsc_khz"):
            changed = getattr(saved, field.name) != getattr(new, field.name)
            skipped = field.name in ("lapic", "mp_state") and not controllers
            assert changed or skipped or field.name in ("xcrs", "nested"), field.name
    target = kvm_vcpu(system, owned, controllers=controllers)
    target.restore(saved)
    same(saved, target.save())
    # The one that it came from has changed nothing by being saved.
    same(saved, source.save())
    source.reset()
    target.reset()
    assert source.get_regs() == target.get_regs() == Regs(rdx=target.get_regs().rdx, rip=0xFFF0)
    assert replace(source.save(), msrs=b"") == replace(new, msrs=b"", xsave=source.save().xsave)


@pytest.mark.kvm
def test_a_vcpu_that_waits_to_be_started(system: System, owned: ExitStack) -> None:
    source = kvm_vcpu(system, owned, index=1)
    assert source.save().mp_state == MpState.UNINITIALIZED
    started = kvm_vcpu(system, owned, index=1)
    started.make_runnable()
    started.restore(source.save())
    assert started.get_mp_state() is MpState.UNINITIALIZED


@pytest.mark.kvm
def test_a_deadline_survives_and_none_stays_none(system: System, owned: ExitStack) -> None:
    source = kvm_vcpu(system, owned)
    table = tuple(
        replace(one, ecx=one.ecx | 1 << 24) if one.function == 1 else one
        for one in source.get_cpuid()
    )
    source.set_cpuid(table)
    registers = bytearray(source.get_lapic())
    registers[0x0F0 + 1] = 1
    registers[_LAPIC_TIMER : _LAPIC_TIMER + 4] = (0x4_0031).to_bytes(4, "little")
    source.set_lapic(bytes(registers))
    no_deadline = source.save()
    assert no_deadline.msr_values()[_TSC_DEADLINE] == 0
    later = source.get_msrs([_TSC])[_TSC] + 3600 * source.get_tsc_khz() * 1000
    source.set_msrs({_TSC_DEADLINE: later})
    target = kvm_vcpu(system, owned)
    target.restore(source.save())
    assert target.get_msrs([_TSC_DEADLINE]) == {_TSC_DEADLINE: later}
    target.restore(no_deadline)
    assert target.get_msrs([_TSC_DEADLINE]) == {_TSC_DEADLINE: 0}


@pytest.mark.kvm
def test_the_time_stamp_counter_goes_on_from_where_it_was(system: System, owned: ExitStack) -> None:
    source = kvm_vcpu(system, owned)
    far = 1 << 50
    source.set_msrs({_TSC: far})
    saved = source.save()
    at = saved.msr_values()[_TSC]
    # A KVM without hardware virtualization below it shows every guest the host's own counter.
    assert at >= far or not has_hardware_virtualization()
    source.set_msrs({_TSC: 0})
    source.restore(saved)
    after = source.get_msrs([_TSC])[_TSC]
    assert at <= after < at + 600 * saved.tsc_khz * 1000


@pytest.mark.kvm
def test_all_of_a_vm_of_kvm(system: System, owned: ExitStack) -> None:
    def made() -> Vm:
        vm = owned.enter_context(system.create_vm())
        vm.create_irqchip()
        vm.create_pit()
        return vm

    source, target = made(), made()
    owned.enter_context(source.create_vcpu(0))
    owned.enter_context(target.create_vcpu(0))
    new = source.save()
    for chip in (Irqchip.PIC_MASTER, Irqchip.PIC_SLAVE):
        state = bytearray(source.get_irqchip(chip))
        state[3], state[6] = 0xA5, 0x20 + 8 * chip  # the mask, the base
        source.set_irqchip(chip, bytes(state))
    ioapic = bytearray(source.get_irqchip(Irqchip.IOAPIC))
    ioapic[24 + 8 * 7 : 24 + 8 * 8] = struct.pack("<Q", 0x0300_0000_0001_0037)  # pin 7, masked
    source.set_irqchip(Irqchip.IOAPIC, bytes(ioapic))
    source.set_irq_line(3, True)
    source.set_pit(b"\x34\x12" + source.get_pit()[2:])
    source.set_clock(replace(source.get_clock(), clock=1 << 60, flags=0))
    saved = source.save()
    assert saved.irqchips != new.irqchips
    target.restore(saved)
    after = target.save()
    assert after.irqchips == saved.irqchips
    assert after.pit is not None and saved.pit is not None
    for at in (0, 24, 48):  # without the moments when the channels began
        assert after.pit[at : at + 16] == saved.pit[at : at + 16]
    assert saved.clock is not None and after.clock is not None
    assert 1 << 60 <= saved.clock <= after.clock < saved.clock + 600 * _ONE_SECOND
    source.reset_controllers()
    assert source.save().irqchips == new.irqchips


@pytest.mark.kvm
def test_an_exit_under_way_is_refused_and_one_is_forgotten(guest: MakeGuest) -> None:
    made = guest(COUNT_TO_F1)
    saved = made.vcpu.save()
    for expected in (0, 1, 2):
        assert made.vcpu.run() == exits.IoOut(0xF1, 1, 1, bytes([expected]))
    made.vcpu.restore(saved)
    assert made.vcpu.get_regs().rip == ENTRY
    assert made.vcpu.run() == exits.IoOut(0xF1, 1, 1, b"\0")
    assert not made.vcpu.complete()
    later = made.vcpu.save()
    made.vcpu.restore(saved)
    made.vcpu.restore(later)
    assert made.vcpu.run() == exits.IoOut(0xF1, 1, 1, b"\1")


@pytest.mark.kvm
def test_an_access_in_parts(guest: MakeGuest) -> None:
    # `mov dword [0x8ffe], eax` crosses a page of MMIO: two exits, the second one on completion.
    made = guest(bytes.fromhex("66a3fe8f f4"), Regs(rip=ENTRY, rax=0x4433_2211))
    assert made.vcpu.run() == exits.MmioWrite(0x8FFE, b"\x11\x22")
    start = made.vcpu.complete()
    assert start
    with pytest.raises(InternalError, match="waits to be answered"):
        made.vcpu.save()
    assert made.vcpu.run() == exits.MmioWrite(0x9000, b"\x33\x44")
    assert not made.vcpu.complete()
    behind = made.vcpu.save()
    again = guest(bytes.fromhex("66a3fe8f f4"), Regs(rip=ENTRY, rax=0x4433_2211))
    assert again.vcpu.run() == exits.MmioWrite(0x8FFE, b"\x11\x22")
    again.vcpu.complete()
    again.vcpu.restore(behind)
    assert again.vcpu.run() == exits.Hlt()
    assert again.vcpu.get_regs().rip == made.vcpu.get_regs().rip + 1


@pytest.mark.kvm
def test_an_msr_that_cannot_be_set_is_an_error_where_it_differs(
    system: System, owned: ExitStack
) -> None:
    vcpu = kvm_vcpu(system, owned)
    saved = vcpu.save()
    entry = struct.Struct("<I4xQ")
    no_such = 0x1_2345
    msrs = saved_msrs.MsrList([_LSTAR, no_such])
    read = msrs.read(vcpu)
    assert no_such not in dict(entry.iter_unpack(read))
    with pytest.raises(KvmError, match="0x12345") as caught:
        msrs.write(vcpu, entry.pack(no_such, 5) + entry.pack(_LSTAR, 0x99))
    assert caught.value.errno == 0
    msrs.write(vcpu, entry.pack(_LSTAR, 0x99))
    assert vcpu.get_msrs([_LSTAR]) == {_LSTAR: 0x99}
    assert saved.msr_values()[_LSTAR] == 0


class NoVcpu:
    fd = -1
    recorder = None


NO_VCPU = NoVcpu()


def test_two_machines_may_learn_of_an_msr_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 16
    entries = struct.pack("<I4xQI4xQ", _LSTAR, 1, 0x1_2345, 2)
    # None can be set, and each is what it should be by the time that it is looked at alone.
    monkeypatch.setattr(saved_msrs, "_set", lambda _fd, _entries: 0)
    monkeypatch.setattr(
        saved_msrs,
        "_read",
        lambda _fd, wanted: (wanted if len(wanted) == size else b"", frozenset()),
    )
    for step in range(1, 250):
        msrs = saved_msrs.MsrList([_LSTAR])
        write = partial(msrs.write, NO_VCPU, entries)
        call_with_another_at(step, saved_msrs.MsrList.write.__code__, write, write)


@pytest.mark.kvm
def test_the_large_xsave_area_is_taken_where_there_is_one(system: System, owned: ExitStack) -> None:
    saved = kvm_vcpu(system, owned).save()
    assert len(saved.xsave) == max(4096, system.check_extension(Cap.XSAVE2))


SYSTEMS = ["model", pytest.param("kvm", marks=pytest.mark.kvm)]


@pytest.fixture(params=SYSTEMS)
def each(request: pytest.FixtureRequest) -> Iterator[interface.System]:
    with System() if request.param == "kvm" else ModelSystem() as system:
        yield system


def new_vcpu(
    system: interface.System, owned: ExitStack, *, controllers: bool = False, index: int = 0
) -> interface.Vcpu:
    vm = owned.enter_context(system.create_vm())
    if controllers:
        vm.create_irqchip()
    return owned.enter_context(vm.create_vcpu(index))


def test_a_state_of_another_origin_names_both(each: interface.System, owned: ExitStack) -> None:
    vcpu = new_vcpu(each, owned)
    saved = vcpu.save()
    here = str(saved.origin)
    for other in (
        replace(saved.origin, version=saved.origin.version + 1),
        replace(saved.origin, processor="GenuineIntel family 6 model 143 stepping 8"),
        replace(saved.origin, xsave_size=saved.origin.xsave_size + 64),
    ):
        with pytest.raises(HostLacksError) as caught:
            vcpu.restore(SavedVcpu(other, 0))
        assert here in str(caught.value)
        assert str(other) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.kvm
def test_what_one_host_saves_is_not_the_others(owned: ExitStack) -> None:
    kvm = new_vcpu(owned.enter_context(System()), owned)
    model = new_vcpu(owned.enter_context(ModelSystem()), owned)
    with pytest.raises(HostLacksError, match=r"saved by KVM, .* this is the model"):
        model.restore(kvm.save())
    with pytest.raises(HostLacksError, match=r"saved by the model, .* this is KVM"):
        kvm.restore(model.save())


def test_a_state_of_another_vcpu_is_refused(each: interface.System, owned: ExitStack) -> None:
    vcpu = new_vcpu(each, owned)
    with pytest.raises(UsageError, match="vCPU 1: this is vCPU 0"):
        vcpu.restore(new_vcpu(each, owned, index=1).save())
    with pytest.raises(UsageError, match=r"saved with interrupt .* without them"):
        vcpu.restore(new_vcpu(each, owned, controllers=True).save())


def test_controllers_of_another_vm_are_refused(each: interface.System, owned: ExitStack) -> None:
    without, with_timer, with_none = (owned.enter_context(each.create_vm()) for _ in range(3))
    for vm in (without, with_timer):
        vm.create_irqchip()
    with_timer.create_pit()
    for source, target in ((without, with_none), (with_none, without), (with_timer, without)):
        with pytest.raises(UsageError, match="was saved with"):
            target.restore(source.save())


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["regs", "sregs", "xsave", "msrs", "lapic", "cpuid", "events"])
def test_a_structure_of_another_size_is_refused(
    system: System, owned: ExitStack, name: str
) -> None:
    saved = kvm_vcpu(system, owned).save()
    with pytest.raises(UsageError, match=name):
        replace(saved, **{name: getattr(saved, name)[:-1]})


def test_all_of_a_vcpu_of_the_model(owned: ExitStack) -> None:
    system = owned.enter_context(ModelSystem())
    source = new_vcpu(system, owned, controllers=True)
    target = new_vcpu(system, owned, controllers=True)
    assert isinstance(source, ModelVcpu)
    source.use_host_cpuid()
    source.set_sregs(replace(source.get_sregs(), cr2=0x1234, cr8=5, apic_base=0xFEE0_0900))
    source.set_regs(Regs(*range(1, 17), 0xFFF7, 0x46))  # type: ignore[call-arg]
    saved = source.save()
    target.restore(saved)
    again = target.save()
    assert isinstance(again, type(saved))
    assert again.tsc >= saved.tsc
    assert replace(again, tsc=saved.tsc) == saved
    assert target.get_regs() == source.get_regs()
    target.reset()
    assert target.get_regs() == Regs(rdx=0x600, rip=0xFFF0)
    assert target.get_sregs().cr8 == 0


@pytest.mark.kvm
def test_a_new_cpuid_is_given_before_the_rest(system: System, owned: ExitStack) -> None:
    source = kvm_vcpu(system, owned)
    table = tuple(one for one in source.get_cpuid() if one.function < 0x4000_0000)
    source.set_cpuid(table)
    target = kvm_vcpu(system, owned)
    target.restore(source.save())
    assert {one.function for one in target.get_cpuid()} == {one.function for one in table}
    with pytest.raises(KvmError) as caught:
        target.give_cpuid(struct.pack("<II", 300, 0) + bytes(40 * 300))
    assert caught.value.errno == errno.E2BIG


@pytest.mark.kvm
def test_a_state_as_a_hypervisor_says_its_own_size(system: System, owned: ExitStack) -> None:
    saved = kvm_vcpu(system, owned).save()
    for size, said in ((128, 128), (4224, 4224)):
        nested = struct.pack("<HHI", 0, 0, said).ljust(size, b"\0")
        assert replace(saved, nested=nested).nested == nested
    for size, said in ((127, 127), (128, 4224), (4224, 128), (0, 0)):
        with pytest.raises(UsageError, match="its nested has not the right size"):
            replace(saved, nested=struct.pack("<HHI", 0, 0, said).ljust(size, b"\0")[:size])


def test_who_may_run_guests_is_in_cpuid() -> None:
    features, extended, other = (
        cpuid.as_bytes(cpuid.encode([CpuidEntry(leaf, ecx=ecx), CpuidEntry(7)]))
        for leaf, ecx in ((1, 1 << 5), (0x8000_0001, 1 << 2), (1, 1 << 2))
    )
    assert cpuid.lets_guests_run_guests(features)
    assert cpuid.lets_guests_run_guests(extended)
    assert not cpuid.lets_guests_run_guests(other)
    assert not cpuid.lets_guests_run_guests(b"")
