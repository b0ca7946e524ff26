# SPDX-License-Identifier: MIT
"""A machine that is reset starts again: vCPUs, controllers, devices and memory as they were."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.kvm.interrupts import Irqchip
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu as KvmVcpu
from pyvmm.hosts.kvm.vcpu_values import DebugRegs
from pyvmm.hosts.kvm.vm import Vm as KvmVm
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.events import MachineEvent, Paused, Resumed, WasReset
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from tests.machine.inside import assembly_of, is_paused, ram_of

from .guests import COUNT, SPIN, bundled

HANG = 240.0
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
CONTROLLERS = [IrqchipPolicy.OFF, IrqchipPolicy.ON]

SCRATCH = bytes.fromhex("baff03 ec e6e9 b055 ee ebfe")
"""mov dx, 0x3ff; in al, dx; out 0xe9, al; mov al, 0x55; out dx, al; jmp . - UART's scratch byte"""

_TSC = 0x10
_TSC_ADJUST = 0x3B
_KERNEL_GS_BASE = 0xC000_0102
_LSTAR = 0xC000_0082
_COUNTERS = {_TSC, _TSC_ADJUST}


def within(config: MachineConfig, act: Callable[[Machine], Awaitable[object]]) -> None:
    """Run `act` with a machine, which is ended afterwards."""

    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_machine(config) as machine:
                await act(machine)

    trio.run(main)


async def hear(machine: Machine, wanted: bytes) -> bytes:
    """What the guest says up to `wanted`."""
    heard = b""
    while wanted not in heard:
        data = await machine.console.receive()
        assert data, f"the guest ended after {heard!r}"
        heard += data
    return heard


@pytest.mark.parametrize("irqchip", CONTROLLERS, ids=str)
@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_starts_again(host: HostChoice, irqchip: IrqchipPolicy) -> None:
    async def act(machine: Machine) -> None:
        fresh = ram_of(machine).read(0x10_0000, 4096)
        for number in range(3):
            await machine.console.send(b"ping %d" % number)
            await hear(machine, b"ping %d" % number)
            ram_of(machine).write(16 * MIB, b"left by the guest")
            await machine.control.pause()
            ram_of(machine).write(0x10_0000, b"\xf4" * 4096)
            await machine.control.reset()
            assert is_paused(machine)
            assert ram_of(machine).read(0x10_0000, 4096) == fresh
            assert ram_of(machine).read(16 * MIB, 32) == bytes(32)
            machine.control.resume()

    cpus = 2 if irqchip is IrqchipPolicy.ON else 1
    within(MachineConfig(bundled("echo"), host=host, irqchip=irqchip, cpus=cpus), act)


@pytest.mark.parametrize("host", HOSTS)
def test_devices_forget(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        for _ in range(3):
            assert await hear(machine, b"\0") == b"\0"
            # Until it has written its scratch byte.
            while (await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())).rip != 0x7C09:
                await trio.sleep(0.001)
            await machine.control.reset()

    within(MachineConfig(SCRATCH, memory=2 * MIB, host=host), act)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.slow
def test_a_guest_with_a_timer_starts_again_in_the_middle_of_its_ticks(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        for _ in range(2):
            await hear(machine, b"tick 10\n")
            await machine.control.reset()
        # Whatever was said before the reset comes first.
        _, _, said = (await hear(machine, b"timer at")).partition(b"timer at")
        while b"tick 30\n" not in said:
            said += await machine.console.receive()
        _, begun, said = said.partition(b"\n")
        assert begun
        assert said.startswith(b"tick 10\ntick 20\ntick 30\n")

    # More ticks than anybody waits for, however late this is told of them.
    within(MachineConfig(bundled("timer"), command_line=b"ticks=100000", host=host), act)


@pytest.mark.parametrize("host", HOSTS)
def test_registers_are_those_of_the_entry(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        def registers(vcpu: Vcpu) -> tuple[object, object]:
            return vcpu.get_regs(), vcpu.get_sregs()

        async with machine.control.freeze():
            before = await machine.vcpus[0].call(registers)
        machine.control.resume()
        while await machine.vcpus[0].call(registers) == before:
            await trio.sleep(0.001)
        await machine.control.pause()
        await machine.control.reset()
        assert await machine.vcpus[0].call(registers) == before

    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_machine(
                MachineConfig(COUNT, memory=2 * MIB, host=host), paused=True
            ) as machine:
                await act(machine)

    trio.run(main)


def kvm_state(vcpu: Vcpu, msrs: tuple[int, ...]) -> dict[str, object]:
    """All that a vCPU of KVM has."""
    assert isinstance(vcpu, KvmVcpu)
    values: dict[int, int] = {}
    for index in msrs:
        try:
            values |= vcpu.get_msrs((index,))
        except SystemCallError:
            continue
    return {
        "regs": vcpu.get_regs(),
        "sregs": vcpu.get_sregs(),
        "xsave": without_xstate_bv(vcpu.get_xsave()),
        "xcrs": vcpu.get_xcrs(),
        "msrs": {index: value for index, value in values.items() if index not in _COUNTERS},
        "lapic": vcpu.get_lapic(),
        "debug": vcpu.get_debugregs(),
        "events": vcpu.get_events(),
        "mp": vcpu.get_mp_state(),
    }


def without_xstate_bv(area: bytes) -> bytes:
    """A component in its initial state may have its bit set or not (SDM vol. 1, 13.6)."""
    return area[:512] + bytes(8) + area[520:]


def disturb(vcpu: Vcpu) -> None:
    assert isinstance(vcpu, KvmVcpu)
    area = bytearray(vcpu.get_xsave())
    area[0:2] = b"\x7f\x02"  # The x87 control word, and XMM0.
    area[160:176] = b"\x5a" * 16
    area[512] |= 3
    vcpu.set_xsave(bytes(area))
    vcpu.set_msrs({_KERNEL_GS_BASE: 0x1234, _LSTAR: 0x5678})
    vcpu.set_debugregs(DebugRegs(db=(1, 2, 3, 4)))
    registers = bytearray(vcpu.get_lapic())
    registers[0x3E0] = 0x0B  # The timer's divisor.
    vcpu.set_lapic(bytes(registers))
    vcpu.set_sregs(replace(vcpu.get_sregs(), cr2=0x1234, cr3=0x5000))


def timer_state(vm: KvmVm) -> list[bytes]:
    """``struct kvm_pit_state2``: three channels without their last 8 bytes, when they began."""
    state = vm.get_pit()
    return [state[at : at + 16] for at in (0, 24, 48)]


@pytest.mark.kvm
def test_on_kvm_everything_is_as_at_the_start() -> None:
    with System() as system:
        msrs = system.msr_indices()

    async def main() -> None:
        config = MachineConfig(
            SPIN, memory=2 * MIB, host=HostChoice.KVM, cpus=2, irqchip=IrqchipPolicy.ON
        )
        with trio.fail_after(HANG):
            async with open_machine(config, paused=True) as machine:
                vm = assembly_of(machine).vm
                assert isinstance(vm, KvmVm)
                before = [await machine.vcpus[n].call(lambda v: kvm_state(v, msrs)) for n in (0, 1)]
                chips = [vm.get_irqchip(chip) for chip in Irqchip]
                timer = timer_state(vm)
                machine.control.resume()
                await machine.control.pause()
                for number in (0, 1):
                    await machine.vcpus[number].call(disturb)
                    changed = await machine.vcpus[number].call(lambda v: kvm_state(v, msrs))
                    for part in ("sregs", "xsave", "msrs", "debug", "lapic"):
                        assert changed[part] != before[number][part], part
                vm.set_irq_line(4, True)
                vm.set_irqchip(Irqchip.PIC_MASTER, b"\x01" * 512)
                assert [vm.get_irqchip(chip) for chip in Irqchip] != chips
                vm.set_pit(b"\x34\x12" + vm.get_pit()[2:])
                assert timer_state(vm) != timer
                await machine.control.reset()
                for number in (0, 1):
                    after = await machine.vcpus[number].call(lambda v: kvm_state(v, msrs))
                    for part, value in after.items():
                        assert value == before[number][part], (number, part)
                assert [vm.get_irqchip(chip) for chip in Irqchip] == chips
                assert timer_state(vm) == timer

    trio.run(main)


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_runs_in_the_middle_whoever_steers(host: HostChoice) -> None:
    events: list[MachineEvent] = []

    async def act(machine: Machine) -> None:
        with machine.events.listen(events.append):
            async with trio.open_nursery() as nursery:

                async def pause_and_resume() -> None:
                    for _ in range(10):
                        await machine.control.pause()
                        machine.control.resume()
                        await trio.sleep(0.001)

                async def reset() -> None:
                    for _ in range(5):
                        await machine.control.reset()

                for task in (pause_and_resume, pause_and_resume, reset, reset):
                    nursery.start_soon(task)
        assert events.count(WasReset()) == 10
        told = [event for event in events if not isinstance(event, WasReset)]
        assert told == [Paused(), Resumed()] * (len(told) // 2)
        await machine.console.send(b"still there")
        await hear(machine, b"there")

    within(MachineConfig(bundled("echo"), host=host), act)


def test_input_that_the_guest_has_not_read_is_kept_and_its_end_too() -> None:
    async def act(machine: Machine) -> None:
        await machine.control.pause()
        await machine.console.send(b"x" * 100)
        machine.console.end_input()
        await machine.control.reset()
        machine.control.resume()
        result = await machine.control.wait()
        assert result.ending.exit_code == 0
        # What the UART's FIFO held is lost, as on hardware.
        assert 100 - 16 <= (await machine.console.read_all()).count(b"x") <= 100

    within(MachineConfig(bundled("echo"), host=HostChoice.MODEL), act)


def test_a_private_machine_is_not_reset_and_says_why() -> None:
    async def act(machine: Machine) -> None:
        with pytest.raises(UsageError, match="measured once"):
            await machine.control.reset()
        assert not is_paused(machine)
        assert (await machine.control.wait()).ending.exit_code == 7

    private = PrivateConfig(bundled_guests.firmware())
    config = MachineConfig(
        bundled("exit"),
        command_line=b"7",
        memory=16 * MIB,
        host=HostChoice.MODEL,
        private=private,
    )
    within(config, act)


def test_a_guest_that_has_ended_is_not_reset() -> None:
    async def act(machine: Machine) -> None:
        machine.control.interrupt("by the test")
        with pytest.raises(InternalError, match="has ended"):
            await machine.control.reset()
        assert (await machine.control.wait()).ending.kind is EndingKind.INTERRUPTED

    within(MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL), act)


def test_a_reset_that_fails_half_way_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SystemCallError("give memory back", 12, "ENOMEM")

    def fail(_ram: object) -> None:
        raise broken

    monkeypatch.setattr("pyvmm.machine.ram.GuestRam.clear", fail)

    async def act(machine: Machine) -> None:
        with pytest.raises(SystemCallError):
            await machine.control.reset()
        with pytest.raises(SystemCallError):
            await machine.control.wait()

    within(MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL), act)
