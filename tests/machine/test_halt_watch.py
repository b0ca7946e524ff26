# SPDX-License-Identifier: MIT
"""Guests that halt for ever behind interrupt controllers are found; that may go on, are not."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.kvm import sleeping
from pyvmm.hosts.kvm.interrupts import Irqchip
from pyvmm.hosts.kvm.vcpu import Vcpu as KvmVcpu
from pyvmm.hosts.kvm.vcpu_values import MpState
from pyvmm.hosts.kvm.vm import Vm as KvmVm
from pyvmm.machine import halt_watch
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.ending import EndingKind, RunResult
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from tests.machine.inside import assembly_of, control_of

HANG = 240.0
KVM, MODEL = HostChoice.KVM, HostChoice.MODEL
on_both = pytest.mark.parametrize(
    "host", [pytest.param(KVM, marks=pytest.mark.kvm, id="kvm"), pytest.param(MODEL, id="model")]
)

SAYS = "b021 e6e9"
"""mov al, '!'; out 0xe9, al"""
CLI_HLT = bytes.fromhex(f"fa {SAYS} f4 ebfd")
STI_HLT = bytes.fromhex(f"{SAYS} fb f4 ebfd")
BUSY = bytes.fromhex(f"fa {SAYS} ebfe")
WAITS_FOR_NMI = bytes.fromhex(
    "fa 31c0 8ed8 8ed0 bc007c"  # cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
    "c7060800 237c c7060a00 0000"  # the vector of the NMI: 0:0x7c23
    "baf903 b001 ee"  # mov dx, 0x3f9; mov al, 1; out dx, al: the UART interrupts when it receives
    f"{SAYS} f4 ebfd"
    "90 b007 e6f4"  # nop, at 0x7c23: mov al, 7; out 0xf4, al
)
REVIVED = bytes.fromhex(f"fa {SAYS} f4 ebfd b007 e6f4")
"""As `CLI_HLT`; at 0x7c08: exit with 7."""


def config(image: bytes, host: HostChoice = KVM, cpus: int = 1) -> MachineConfig:
    on = IrqchipPolicy.ON
    return MachineConfig(image, memory=2 * MIB, host=host, cpus=cpus, irqchip=on, timeout=HANG)


def end_of(
    config: MachineConfig, act: Callable[[Machine], Awaitable[object]] | None = None
) -> RunResult:
    """How a guest ends beside which `act` is done once it has said its '!'."""

    async def main() -> RunResult:
        async with open_machine(config) as machine:
            assert await machine.console.receive() == b"!"
            if act is not None:
                await act(machine)
            return await machine.control.wait()

    return trio.run(main)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine does not look by itself."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(halt_watch, "watch_for_halt", nothing)


def watched(machine: Machine) -> halt_watch.Watched:
    vm = assembly_of(machine).vm
    return halt_watch.Watched(
        control_of(machine), machine.vcpus, vm.can_send_unmaskable, lambda: False
    )


async def look(machine: Machine) -> None:
    """What the machine does when vCPUs have done nothing for a moment; several times."""
    for _ in range(5):
        if machine.control.ending is None:
            with suppress(InternalError):  # The guest has ended meanwhile.
                await halt_watch.look(watched(machine))


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("cpus", [1, 3])
def test_it_is_found(host: HostChoice, cpus: int) -> None:
    # Of several CPUs the others were never started.
    result = end_of(config(CLI_HLT, host, cpus))
    assert result.ending.kind is EndingKind.HALTED, result.ending
    assert result.ending.exit_code == 80
    assert len(result.reports) == cpus
    regs = result.reports[0].regs
    assert regs is not None
    assert regs.rip == 0x7C06


@on_both
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("image", [STI_HLT, BUSY])
def test_a_guest_that_may_go_on_is_let_go_on(host: HostChoice, image: bytes) -> None:
    async def act(machine: Machine) -> None:
        await settle(machine, image)
        await look(machine)
        assert machine.control.ending is None
        machine.control.interrupt("enough")

    assert end_of(config(image, host), act).ending.kind is EndingKind.INTERRUPTED


async def settle(machine: Machine, image: bytes) -> None:
    """Wait until the first vCPU has halted, where it will."""
    while image is not BUSY:
        if (await machine.vcpus[0].call(lambda vcpu: vcpu.get_further())).halted:
            return
        await trio.sleep(0.001)


@on_both
@pytest.mark.usefixtures("by_hand")
def test_a_paused_machine_is_not_over_before_it_goes_on(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        await settle(machine, CLI_HLT)
        await machine.control.pause()
        await look(machine)
        assert machine.control.ending is None
        machine.control.resume()
        await look(machine)

    assert end_of(config(CLI_HLT, host), act).ending.kind is EndingKind.HALTED


def set_up_nmi(vcpu: Vcpu, offset: int, entry: int) -> None:
    """An entry of the local vector table, with the APIC on."""
    assert isinstance(vcpu, KvmVcpu)
    registers = bytearray(vcpu.get_lapic())
    struct.pack_into("<I", registers, 0xF0, 0x1FF)
    struct.pack_into("<I", registers, offset, entry)
    vcpu.set_lapic(bytes(registers))


@pytest.mark.kvm
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("offset", [0x340, 0x350])
def test_a_local_apic_that_may_send_an_nmi_is_waited_for(offset: int) -> None:
    async def act(machine: Machine) -> None:
        await machine.vcpus[0].call(lambda vcpu: set_up_nmi(vcpu, offset, 0x400))
        await settle(machine, WAITS_FOR_NMI)
        await look(machine)
        assert machine.control.ending is None
        await machine.vcpus[0].call(send_nmi)

    assert end_of(config(WAITS_FOR_NMI), act).ending.status == 7


def send_nmi(vcpu: Vcpu) -> None:
    assert isinstance(vcpu, KvmVcpu)
    vcpu.nmi()


@pytest.mark.kvm
@pytest.mark.usefixtures("by_hand")
def test_a_line_that_sends_an_nmi_is_waited_for() -> None:
    async def act(machine: Machine) -> None:
        vm = assembly_of(machine).vm
        assert isinstance(vm, KvmVm)
        state = bytearray(vm.get_irqchip(Irqchip.IOAPIC))
        struct.pack_into("<Q", state, 24 + 8 * 4, 0x400)  # COM1: an NMI to the first CPU
        vm.set_irqchip(Irqchip.IOAPIC, bytes(state))
        await machine.vcpus[0].call(lambda vcpu: set_up_nmi(vcpu, 0x350, 1 << 16))
        await settle(machine, WAITS_FOR_NMI)
        await look(machine)
        assert machine.control.ending is None
        await machine.console.send(b"x")

    assert end_of(config(WAITS_FOR_NMI), act).ending.status == 7


@pytest.mark.kvm
@pytest.mark.usefixtures("by_hand")
def test_an_nmi_that_is_on_its_way_is_waited_for() -> None:
    async def act(machine: Machine) -> None:
        await settle(machine, WAITS_FOR_NMI)
        async with machine.control.freeze():
            assert await machine.vcpus[0].call(lambda vcpu: vcpu.sleeps_for_good())
            await machine.vcpus[0].call(send_nmi)
            assert not await machine.vcpus[0].call(lambda vcpu: vcpu.sleeps_for_good())

    assert end_of(config(WAITS_FOR_NMI), act).ending.status == 7


@pytest.mark.kvm
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("image", [STI_HLT, CLI_HLT])
def test_one_halted_cpu_is_no_halted_machine(image: bytes) -> None:
    async def act(machine: Machine) -> None:
        await settle(machine, image)
        await machine.vcpus[1].call(halt_here)
        await look(machine)
        machine.control.interrupt("enough")

    ended = end_of(config(image, cpus=2), act).ending.kind
    assert ended is (EndingKind.HALTED if image is CLI_HLT else EndingKind.INTERRUPTED)


def halt_here(vcpu: Vcpu) -> None:
    assert isinstance(vcpu, KvmVcpu)
    vcpu.set_mp_state(MpState.HALTED)


@pytest.mark.slow
@on_both
@pytest.mark.usefixtures("by_hand")
def test_who_revives_a_halted_guest_is_not_overlooked(host: HostChoice) -> None:
    # Beside a look that has begun: before it asks the vCPU, or after.
    async def act(machine: Machine) -> None:
        def revive_unless_over(vcpu: Vcpu) -> None:
            if machine.control.ending is None:
                revive(vcpu)
                revived.append(number)

        await settle(machine, REVIVED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, machine)
            for _ in range(number):
                await trio.lowlevel.checkpoint()
            with suppress(InternalError):
                await machine.vcpus[0].call(revive_unless_over)

    revived: list[int] = []
    for number in range(8):
        ending = end_of(config(REVIVED, host), act).ending
        assert (ending.status == 7) is (number in revived), ending
    assert revived


def revive(vcpu: Vcpu) -> None:
    """Let it go on at the instruction behind the end of the loop."""
    vcpu.reset()
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    vcpu.set_entry(replace(regs, rip=0x7C08), replace(sregs, cs=replace(sregs.cs, base=0)))


def entry(mode: int, *, masked: bool = False) -> int:
    return 0x20 | mode << 8 | masked << 16


@pytest.mark.parametrize(
    ("mode", "masked", "unmaskable"),
    [(0, False, False), (1, False, False), (7, False, False)]
    + [(mode, masked, not masked) for mode in (2, 4, 5, 6) for masked in (False, True)],
)
def test_which_entries_of_an_io_apic_are_no_interrupts(
    mode: int, masked: bool, unmaskable: bool
) -> None:
    state = bytearray(512)
    for pin in (0, 23):
        struct.pack_into("<24Q", state, 24, *[entry(4, masked=True)] * 24)
        struct.pack_into("<Q", state, 24 + 8 * pin, entry(mode, masked=masked))
        assert sleeping.has_unmaskable_pin(bytes(state)) is unmaskable


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The looks that are made, none of which sees anything."""
    looks: list[int] = []

    async def counted(*_: object) -> None:
        looks.append(1)

    monkeypatch.setattr(halt_watch, "look", counted)
    return looks


class FakeControl:
    """Vcpus that do as `marks` says, a list for each comparison; then the run is over."""

    is_held = False

    def __init__(self, marks: list[list[int] | None]) -> None:
        self._marks = marks

    @property
    def is_over(self) -> bool:
        return not self._marks

    def idle_marks(self) -> list[int] | None:
        return self._marks.pop(0) if self._marks else None


@pytest.mark.parametrize(
    ("marks", "looks"),
    [
        ([[number] for number in range(100)], 0),
        ([None] * 100, 0),
        ([[0]] * 4, 1),
        ([[0]] * 200, 9),
        ([[0]] * 200 + [[1]] * 4, 10),
    ],
    ids=["busy", "executing", "idle", "idle for long", "idle again"],
)
def test_who_does_something_costs_no_look_and_who_does_not_few(
    looked: list[int], marks: list[list[int] | None], looks: int
) -> None:
    control: Any = FakeControl(list(marks))
    faked = halt_watch.Watched(control, (), lambda: False, lambda: False)
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(halt_watch.watch_for_halt, faked, clock=clock)
    assert len(looked) == looks
