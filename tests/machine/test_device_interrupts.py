# SPDX-License-Identifier: MIT
"""Interrupts of a machine's devices: what they share, what they refuse, and their end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.protocols import Guard
from pyvmm.devices.stateless import Stateless
from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.interrupts import DoorbellPlace, Msi, Trigger
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import MIB
from tests.hosts.model.small_guest import assemble

LEVEL_TRIGGERED = 0x4D0


@pytest.fixture
def vm() -> Iterator[ModelVm]:
    with ModelSystem() as system, system.create_vm() as vm:
        yield vm


@pytest.fixture
def interrupts(vm: ModelVm) -> Iterator[DeviceInterrupts]:
    vm.create_irqchip()
    assert vm.controllers is not None
    vm.controllers.port_write(LEVEL_TRIGGERED, 1, 0xFF)
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        yield interrupts


def requests(vm: ModelVm) -> int | None:
    """The first 8259's request register: the levels of its lines, all being level-triggered."""
    assert vm.controllers is not None
    return vm.controllers.port_read(0x20, 1)


def test_a_device_s_level_and_the_test_device_s_hold_a_pin_up_together(
    vm: ModelVm, interrupts: DeviceInterrupts
) -> None:
    console = interrupts.level(4, "the console")
    assert console is not None
    interrupts.set_pin("pc-testdev", 4, False)
    console(True)
    interrupts.set_pin("pc-testdev", 4, True)
    interrupts.set_pin("pc-testdev", 5, True)
    assert requests(vm) == 1 << 4 | 1 << 5
    console(False)
    assert requests(vm) == 1 << 4 | 1 << 5
    interrupts.set_pin("pc-testdev", 4, False)
    assert requests(vm) == 1 << 5


def test_two_owners_hold_a_pin_up_together(vm: ModelVm, interrupts: DeviceInterrupts) -> None:
    for owner in ("pc-testdev", "another"):
        interrupts.set_pin(owner, 4, True)
    interrupts.set_pin("another", 4, False)
    assert requests(vm) == 1 << 4
    interrupts.set_pin("pc-testdev", 4, False)
    assert requests(vm) == 0


def test_a_pin_that_a_device_has_for_itself_is_not_the_test_device_s(
    vm: ModelVm, interrupts: DeviceInterrupts
) -> None:
    with interrupts.line(5, Trigger.LEVEL, "the disk"):
        for level in (True, False, True):
            interrupts.set_pin("pc-testdev", 5, level)
            assert requests(vm) == 0


def test_a_pin_taken_twice_names_both(interrupts: DeviceInterrupts) -> None:
    interrupts.level(4, "16550 at COM1")
    with pytest.raises(UsageError, match="give GSI 4 to the disk: 16550 at COM1 has it"):
        interrupts.line(4, Trigger.LEVEL, "the disk")


def test_without_controllers_there_is_no_level_and_all_doorbells(vm: ModelVm) -> None:
    with DeviceInterrupts(vm, has_controllers=False) as interrupts:
        assert interrupts.level(4, "the console") is None
        with pytest.raises(SystemCallError):
            interrupts.message("the disk")
        bell = interrupts.doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk")
    assert bell.fileno() == -1


def test_all_of_it_ends_with_the_machine(vm: ModelVm) -> None:
    vm.create_irqchip()
    before = set(os.listdir("/proc/self/fd"))
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        interrupts.set_pin("pc-testdev", 4, True)
        message = interrupts.message("the disk")
        message.route(Msi(0xFEE0_0000, 0x50))
        message.signal()
        interrupts.line(5, Trigger.LEVEL, "the disk", resample=True)
        interrupts.doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk")
        assert set(os.listdir("/proc/self/fd")) > before
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not message.is_pending
    vm.create_line(4, Trigger.EDGE, "another").close()


# -- a device that a task works for, in a machine --

PORT, PIN, ENDING = 0x5000, 5, 7
GUEST = f"""
    xor %ax, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x7c00, %sp
    movw $handler, 4 * (32 + {PIN}); movw %ax, 4 * (32 + {PIN}) + 2
    mov $0x11, %al; out %al, $0x20; mov $32, %al; out %al, $0x21
    mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21; mov $0, %al; out %al, $0x21
    mov $0x4d0, %dx; mov ${1 << PIN}, %al; out %al, %dx
    mov ${PORT:#x}, %dx; mov $3, %cx
1:  out %ax, %dx; loop 1b
2:  sti; hlt; jmp 2b
handler:
    mov $0x20, %al; out %al, $0x20
    incw served; cmpw $3, served; jb 3f
    mov ${ENDING}, %al; out %al, $0xf4
3:  iret
served: .word 0
"""
"""Rings three times, and ends when it has been interrupted three times."""


class Ringing(Stateless):
    """A device that interrupts once for each time it is rung; `bell` and `line` are the host's."""

    def __init__(self, wiring: Wiring) -> None:
        assert wiring.interrupts is not None
        place = DoorbellPlace(PORT, 2, is_port=True)
        self.bell = wiring.interrupts.doorbell(place, "ringing")
        self.line = wiring.interrupts.line(PIN, Trigger.LEVEL, "ringing", resample=True)


class RingingTask:
    def __init__(self, device: Ringing, guard: Guard) -> None:
        del guard
        self._device = device
        self.waiting = 0

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_rings)
            nursery.start_soon(self._take_ends)

    async def _take_rings(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._device.bell.fileno())
            before, self.waiting = self.waiting, self.waiting + self._device.bell.drain()
            if not before:
                self._device.line.raise_()

    async def _take_ends(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._device.line.fileno())
            self.waiting -= self._device.line.drain()
            if self.waiting:
                self._device.line.raise_()


@pytest.mark.parametrize(
    "host", [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
)
def test_a_task_takes_the_guest_s_rings_and_interrupts_it(host: HostChoice) -> None:
    made: list[Ringing] = []

    def make(wiring: Wiring) -> PlacedDevice:
        device = Ringing(wiring)
        made.append(device)
        return PlacedDevice(
            "ringing", device, (), gsis=(PIN,), backend=partial(RingingTask, device)
        )

    config = MachineConfig(
        assemble(GUEST, 16, 0x7C00),
        memory=2 * MIB,
        host=host,
        irqchip=IrqchipPolicy.ON,
        devices=DeviceChoice(added=(make,)),
        timeout=120.0,
    )
    result = run(config).result
    assert (result.ending.kind, result.ending.status) == (EndingKind.EXITED, ENDING), result
    assert [made[0].bell.fileno(), made[0].line.fileno()] == [-1, -1]
