# SPDX-License-Identifier: MIT
"""Controllers, lines, eventfds, routing; coalesced writes; dirty pages; clocks; statistics."""

from __future__ import annotations

import errno
import os
import time
from functools import partial

import pytest

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.interrupts import DoorbellPlace, Msi, Trigger
from pyvmm.hosts.kvm.coalesced import CoalescedWrite, CoalescedZone
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.dirty_ring import DirtyPage
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.interrupts import Irqchip, IrqchipPin, MsiRoute
from pyvmm.hosts.kvm.ioctls import FdKind
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Clock, Vm
from pyvmm.hosts.registers import Regs
from tests.readable import is_readable

from .flat_guest import ENTRY, HALT_FOR_EVER, RAM_SIZE, MakeGuest

pytestmark = pytest.mark.kvm


def errno_of(action: object, *args: object, **kwargs: object) -> int:
    with pytest.raises(KvmError) as caught:
        action(*args, **kwargs)  # type: ignore[operator]
    return caught.value.errno


def with_controllers(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_pit()


def test_controllers(guest: MakeGuest) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm
    assert errno_of(vm.create_irqchip) == errno.EEXIST
    assert errno_of(vm.create_pit) == errno.EEXIST
    for chip in Irqchip:
        state = vm.get_irqchip(chip)
        assert len(state) == 512
        vm.set_irqchip(chip, state)
    vm.set_irq_line(4, True)
    assert vm.get_irqchip(Irqchip.PIC_MASTER)[1] & 1 << 4  # its request register
    vm.set_irq_line(4, False)
    assert not vm.get_irqchip(Irqchip.PIC_MASTER)[0] & 1 << 4
    pit = vm.get_pit()
    vm.set_pit(pit)
    assert len(pit) == 112
    with pytest.raises(UsageError):
        vm.set_pit(b"short")
    with pytest.raises(UsageError):
        vm.set_irqchip(Irqchip.IOAPIC, b"short")


def test_controllers_that_are_not_there(guest: MakeGuest) -> None:
    vm = guest(HALT_FOR_EVER).vm
    assert errno_of(vm.set_irq_line, 4, True) == errno.ENXIO
    assert errno_of(vm.get_irqchip, Irqchip.IOAPIC) == errno.ENXIO
    assert errno_of(vm.create_pit) == errno.ENOENT
    assert errno_of(vm.get_pit) == errno.ENXIO
    assert errno_of(vm.create_irqchip) == errno.EINVAL  # too late: there is a vCPU


def test_split_controllers(guest: MakeGuest) -> None:
    made = guest(HALT_FOR_EVER, prepare=lambda vm: vm.enable_split_irqchip(24))
    assert len(made.vcpu.get_lapic()) == 1024
    assert errno_of(made.vm.get_irqchip, Irqchip.IOAPIC) == errno.ENXIO


def test_irqfd_and_routing(guest: MakeGuest) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm
    msi = Msi(0xFEE0_0000, 0x31)
    vm.set_gsi_routing([IrqchipPin(4, Irqchip.PIC_MASTER, 4), MsiRoute(30, msi)])
    assert errno_of(vm.set_gsi_routing, [MsiRoute(1 << 20, msi)]) == errno.EINVAL
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        vm.assign_irqfd(eventfd, 4)
        assert errno_of(vm.assign_irqfd, eventfd, 4) == errno.EBUSY
        os.eventfd_write(eventfd, 1)
        # The kernel raises it from a work queue: some time later.
        for _ in range(5000):
            if vm.get_irqchip(Irqchip.PIC_MASTER)[1] & 1 << 4:
                break
            time.sleep(0.001)
        else:
            pytest.fail("the interrupt never arrived")
        vm.deassign_irqfd(eventfd, 4)
    finally:
        os.close(eventfd)
    assert errno_of(vm.assign_irqfd, 999, 4) == errno.EBADF


def test_a_line_that_resamples_can_be_lowered_without_the_guest(guest: MakeGuest) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm

    def is_up() -> int:
        return vm.get_irqchip(Irqchip.PIC_MASTER)[0] & 1 << 5  # its last levels

    with vm.create_line(5, Trigger.LEVEL, "the test device", resample=True) as line:
        for _ in range(2):
            line.raise_()
            for _ in range(5000):
                if is_up():
                    break
                time.sleep(0.001)
            else:
                pytest.fail("the line never went up")
            line.lower()
            assert not is_up()


def test_a_line_that_could_not_be_assigned_again_says_so(
    guest: MakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm

    def short_of_memory(*_arguments: object, **_more: object) -> None:
        raise KvmError.of("KVM_IRQFD", FdKind.VM, vm.fd, "", errno.ENOMEM)

    make = partial(vm.create_line, 5, Trigger.LEVEL, shared=True, resample=True)
    with make("one") as one, make("two") as two:
        with monkeypatch.context() as patched:
            patched.setattr(vm, "assign_irqfd", short_of_memory)
            with pytest.raises(KvmError):
                one.lower()
        for line in (one, two):
            with pytest.raises(UsageError, match="could not be assigned again"):
                line.raise_()
        two.lower()
        for line in (one, two):
            line.raise_()


def test_a_line_whose_level_cannot_be_set_is_closed_all_the_same(
    guest: MakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm

    def refused(*_arguments: object) -> None:
        raise KvmError.of("KVM_IRQ_LINE", FdKind.VM, vm.fd, "", errno.EIO)

    line = vm.create_line(5, Trigger.LEVEL, "the test device")
    line.raise_()
    with monkeypatch.context() as patched:
        patched.setattr(vm, "set_irq_line", refused)
        with pytest.raises(KvmError):
            line.close()
    vm.create_line(5, Trigger.EDGE, "another").close()  # the pin is free


def test_msi(guest: MakeGuest) -> None:
    made = guest(HALT_FOR_EVER, prepare=with_controllers)
    lapic = bytearray(made.vcpu.get_lapic())
    lapic[0xF0:0xF2] = b"\xff\x01"  # spurious vector 255, enabled
    made.vcpu.set_lapic(bytes(lapic))
    assert made.vm.signal_msi(Msi(0xFEE0_0000, 0x31))
    with pytest.raises(KvmError):
        guest(HALT_FOR_EVER).vm.signal_msi(Msi(0xFEE0_0000, 0x31))


def test_a_message_that_is_an_nmi_may_wake_who_takes_no_interrupts(guest: MakeGuest) -> None:
    vm = guest(HALT_FOR_EVER, prepare=with_controllers).vm
    with vm.create_message("the test device") as message:
        message.route(Msi(0xFEE0_0000, 0x31))
        assert not vm.can_send_unmaskable()
        message.route(Msi(0xFEE0_0000, 0x400))
        assert vm.can_send_unmaskable()
    assert not vm.can_send_unmaskable()


def test_interrupt_without_controllers(guest: MakeGuest) -> None:
    vcpu = guest(HALT_FOR_EVER).vcpu
    vcpu.interrupt(0x20)
    vcpu.interrupt(0x21)
    events = vcpu.get_events()
    assert (events.interrupt_injected, events.interrupt_nr) == (1, 0x21)
    split = guest(HALT_FOR_EVER, prepare=lambda vm: vm.enable_split_irqchip(24)).vcpu
    split.interrupt(0x20)
    assert errno_of(split.interrupt, 0x21) == errno.EEXIST
    with_chips = guest(HALT_FOR_EVER, prepare=Vm.create_irqchip).vcpu
    assert errno_of(with_chips.interrupt, 0x20) == errno.ENXIO


def test_interrupt_window(guest: MakeGuest) -> None:
    # `sti; nop; l: jmp l`
    vcpu = guest(bytes.fromhex("fb 90 ebfe")).vcpu
    vcpu.request_interrupt_window(True)
    assert vcpu.run() == exits.IrqWindowOpen()
    assert vcpu.can_take_interrupt()


@pytest.mark.parametrize("match", [None, 0x42])
def test_ioeventfd(guest: MakeGuest, match: int | None) -> None:
    # `mov al, 0x42; out 0x61, al; inc al; out 0x61, al; hlt`
    made = guest(bytes.fromhex("b042 e661 fec0 e661 f4"))
    where = DoorbellPlace(0x61, 1, is_port=True, value=match)
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        made.vm.assign_ioeventfd(eventfd, where)
        assert errno_of(made.vm.assign_ioeventfd, eventfd, where) == errno.EEXIST
        if match is not None:
            assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\x43")
        assert made.vcpu.run() == exits.Hlt()
        assert is_readable(eventfd)
        assert os.eventfd_read(eventfd) == (2 if match is None else 1)
        made.vm.deassign_ioeventfd(eventfd, where)
        assert errno_of(made.vm.deassign_ioeventfd, eventfd, where) == errno.ENOENT
    finally:
        os.close(eventfd)


def test_coalesced_writes(guest: MakeGuest, system: System) -> None:
    page = system.check_extension(Cap.COALESCED_MMIO)
    assert page
    assert system.capabilities().coalesced_pio
    # `out 0x61, al; mov [0x9004], ax; out 0x62, al; hlt`
    made = guest(bytes.fromhex("e661 a30490 e662 f4"), Regs(rip=ENTRY, rax=0x1234))
    zones = CoalescedZone(0x61, 1, is_port=True), CoalescedZone(0x9000, 16, is_port=False)
    for zone in zones:
        made.vm.coalesce(zone)
    assert made.vcpu.drain_coalesced(page) == []
    assert made.vcpu.run() == exits.IoOut(0x62, 1, 1, b"\x34")
    assert made.vcpu.drain_coalesced(page) == [
        CoalescedWrite(0x61, b"\x34", is_port=True),
        CoalescedWrite(0x9004, b"\x34\x12", is_port=False),
    ]
    assert made.vcpu.drain_coalesced(page) == []
    for zone in zones:
        made.vm.uncoalesce(zone)
    made.vcpu.set_regs(Regs(rip=ENTRY))
    assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\0")
    made.vcpu.close()
    with pytest.raises(Exception, match="EBADF"):
        made.vcpu.drain_coalesced(page)


def test_coalesced_ring_wraps(guest: MakeGuest, system: System) -> None:
    # `mov dx, 0xf1; l: out dx, al; inc al; jmp l`
    made = guest(bytes.fromhex("baf100 ee fec0 ebfb"))
    made.vm.coalesce(CoalescedZone(0xF1, 1, is_port=True))
    page = system.check_extension(Cap.COALESCED_MMIO)
    values: list[int] = []
    for _ in range(5):
        full = made.vcpu.run()  # the ring is full: this write is an ordinary exit
        values += [write.data[0] for write in made.vcpu.drain_coalesced(page)]
        assert isinstance(full, exits.IoOut)
        values.append(full.data[0])
    assert values == [number & 0xFF for number in range(len(values))]


def written(bitmap: bytes) -> set[int]:
    """The pages set, without that of the code: an emulated processor dirties what it fetches."""
    pages = {page for page in range(8 * len(bitmap)) if bitmap[page // 8] >> page % 8 & 1}
    return pages - {ENTRY // 4096}


def test_dirty_log(guest: MakeGuest) -> None:
    # `mov [0x2000], al; mov [0x5000], al; hlt`
    made = guest(bytes.fromhex("a20020 a20050 f4"))
    hva = made.ram.hva
    made.vm.set_memslot(Memslot(0, 0, RAM_SIZE, hva, MemslotFlag.LOG_DIRTY_PAGES))
    assert made.vm.get_dirty_log(0, RAM_SIZE) == bytes(8)
    assert made.vcpu.run() == exits.Hlt()
    assert written(made.vm.get_dirty_log(0, RAM_SIZE)) == {2, 5}
    assert made.vm.get_dirty_log(0, RAM_SIZE) == bytes(8)
    made.vm.enable_cap(Cap.MANUAL_DIRTY_LOG_PROTECT2, 1)
    made.vcpu.set_regs(Regs(rip=ENTRY))
    assert made.vcpu.run() == exits.Hlt()
    dirty = made.vm.get_dirty_log(0, RAM_SIZE)
    assert written(dirty) == {2, 5}
    made.vm.clear_dirty_log(0, 0, RAM_SIZE // 4096, dirty)
    assert made.vm.get_dirty_log(0, RAM_SIZE) == bytes(8)
    assert errno_of(made.vm.get_dirty_log, 7, RAM_SIZE) == errno.ENOENT
    with pytest.raises(UsageError):
        made.vm.get_dirty_log(0, RAM_SIZE // 2)


def test_dirty_ring(guest: MakeGuest, system: System) -> None:
    largest = system.capabilities().dirty_log_ring
    assert largest
    # `mov [0x2000], al; mov [0x5000], al; hlt`
    made = guest(bytes.fromhex("a20020 a20050 f4"), prepare=lambda vm: vm.enable_dirty_ring(65536))
    made.vm.set_memslot(Memslot(0, 0, RAM_SIZE, made.ram.hva, MemslotFlag.LOG_DIRTY_PAGES))
    with made.vcpu.dirty_ring() as ring:
        assert made.vcpu.run() == exits.Hlt()
        harvest = ring.harvest()
        code = DirtyPage(0, 0, ENTRY // 4096)
        assert [page for page in harvest if page != code] == [
            DirtyPage(0, 0, 2),
            DirtyPage(0, 0, 5),
        ]
        assert ring.harvest() == []
        assert made.vm.reset_dirty_rings() == len(harvest)
    assert ring.harvest() == []
    with pytest.raises(InternalError):
        guest(b"\xf4").vcpu.dirty_ring()


def test_places_and_clock(system: System) -> None:
    with system.create_vm() as vm:
        vm.set_tss_addr(0xFFFB_D000)
        vm.set_identity_map_addr(0xFFFB_C000)
        vm.set_boot_cpu_id(0)
        vm.set_clock(Clock(10**9))
        assert vm.get_clock().clock >= 10**9
        assert not vm.has_device(0xFFFF)
        assert errno_of(vm.create_device, 0xFFFF) == errno.ENODEV
        vfio = 4
        if vm.has_device(vfio):
            vm.create_device(vfio).close()
        with vm.create_vcpu(0):
            assert errno_of(vm.set_boot_cpu_id, 0) == errno.EBUSY


def test_statistics(guest: MakeGuest, system: System) -> None:
    assert system.capabilities().binary_stats
    made = guest(bytes.fromhex("e661 f4"))
    with made.vcpu.statistics() as stats, made.vm.statistics() as vm_stats:
        before = {one.descriptor.name: one.values for one in stats.read()}
        assert isinstance(made.vcpu.run(), exits.IoOut)
        after = {one.descriptor.name: one.values for one in stats.read()}
        assert after["exits"][0] > before["exits"][0]
        assert f"vcpu-{0}" in stats.layout.ident
        assert "remote_tlb_flush" in {one.name for one in vm_stats.layout.descriptors}


def test_exits_that_can_be_disabled(system: System) -> None:
    offered = system.capabilities().disable_exits
    with system.create_vm() as vm:
        vm.disable_exits(offered)
    with system.create_vm() as vm:
        assert errno_of(vm.disable_exits, 1 << 20) == errno.EINVAL


def test_extensions(system: System) -> None:
    known = {one.name: one for one in system.extensions()}
    assert known["GUEST_MEMFD"].value == int(system.capabilities().guest_memfd)
    assert known["NR_MEMSLOTS"].value == system.capabilities().nr_memslots
    assert all(one.about for one in known.values())
