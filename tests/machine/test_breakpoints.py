# SPDX-License-Identifier: MIT
"""Breakpoints of a machine: what they stop, who is told, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import pytest
import trio

import pyvmm
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vcpu import ModelVcpu
from tests.machine.guests import COUNT, PRINT_AND_SPIN
from tests.machine.in_trio import HANG, in_trio
from tests.machine.private_machines import config as private_config
from tests.machine.test_open_machine import config, each_host

AGAIN = 0x7C02
"""The loop of `COUNT`."""


async def require_breakpoints(machine: pyvmm.Machine) -> None:
    """Skip where the host's KVM never stops a guest."""
    try:
        await machine.control.set_breakpoint(0)
    except pyvmm.HostLacksError as lacks:
        pytest.skip(lacks.cause)
    await machine.control.clear_breakpoint(0)


@each_host
@in_trio
async def test_it_pauses_the_machine_each_time_and_is_got_past(host: pyvmm.HostChoice) -> None:
    async with pyvmm.open_machine(config(COUNT, host), paused=True) as machine:
        await require_breakpoints(machine)
        control = machine.control
        told: list[pyvmm.MachineEvent] = []
        await control.set_breakpoint(AGAIN)
        await control.set_breakpoint(AGAIN)
        assert control.breakpoints == (AGAIN,)
        with machine.events.listen(told.append):
            for count in range(3):
                control.resume()
                hit = await machine.events.wait_for(pyvmm.BreakpointHit)
                assert hit == pyvmm.BreakpointHit(0, AGAIN)
                assert control.state is pyvmm.MachineState.PAUSED
                regs = (await machine.vcpus[0].registers()).regs
                assert (regs.rip, regs.rbx) == (AGAIN, count)
        stop = [pyvmm.Paused(), hit]
        assert told == [*stop, pyvmm.Resumed(), *stop, pyvmm.Resumed(), *stop]
        await control.clear_breakpoint(AGAIN)
        with pytest.raises(pyvmm.UsageError, match="there is none"):
            await control.clear_breakpoint(AGAIN)
        while (await machine.vcpus[0].registers()).regs.rbx < 4:
            control.resume()
            await trio.sleep(0.001)
            await control.pause()
        assert told[-1] == pyvmm.BreakpointHit(0, AGAIN)


async def require_steps(machine: pyvmm.Machine) -> None:
    """Skip where the host's KVM never ends a step."""
    try:
        await machine.control.step(0)
    except pyvmm.HostLacksError as lacks:
        pytest.skip(lacks.cause)


@each_host
@in_trio
async def test_a_step_is_one_instruction_of_one_vcpu(host: pyvmm.HostChoice) -> None:
    async with pyvmm.open_machine(config(COUNT, host, cpus=2), paused=True) as machine:
        told: list[pyvmm.MachineEvent] = []
        control, vcpu = machine.control, machine.vcpus[0]
        await require_steps(machine)
        was = (await vcpu.registers()).regs
        with machine.events.listen(told.append):
            for _ in range(4):
                assert await control.step(0)
                assert control.state is pyvmm.MachineState.PAUSED
                now = (await vcpu.registers()).regs
                assert now.rip != was.rip
                steps = [one for one in told if isinstance(one, pyvmm.Stepped)]
                assert steps[-1] == pyvmm.Stepped(0, now.rip)
                was = now
        assert [type(one) for one in told] == [pyvmm.Resumed, pyvmm.Paused, pyvmm.Stepped] * 4
        assert (await machine.vcpus[1].registers()).regs.rbx == 0
        control.resume()
        with pytest.raises(pyvmm.UsageError, match="not paused"):
            await control.step(0)


@each_host
@in_trio
async def test_a_port_access_that_python_does_not_see_is_a_step_too(host: pyvmm.HostChoice) -> None:
    """KVM's exit for a byte that is posted is answered in C, and nothing more is executed."""
    async with pyvmm.open_machine(config(PRINT_AND_SPIN, host), paused=True) as machine:
        await require_steps(machine)
        places = []
        for _ in range(4):
            assert await machine.control.step(0)
            places.append((await machine.vcpus[0].registers()).regs.rip)
        assert places == [0x7C04, 0x7C06, 0x7C08, 0x7C08]
        assert await machine.console.wait_for(b"OK")


@each_host
@in_trio
async def test_who_is_left_out_stands_still_until_the_next_resume(host: pyvmm.HostChoice) -> None:
    async with pyvmm.open_machine(config(COUNT, host, cpus=1), paused=True) as machine:
        control, vcpu = machine.control, machine.vcpus[0]
        control.resume(only=())
        assert control.state is pyvmm.MachineState.RUNNING
        assert (await vcpu.registers()).regs.rip == 0x7C00
        await control.pause()
        control.resume()
        while (await vcpu.registers()).regs.rbx < 2:
            await trio.sleep(0.001)


@in_trio
async def test_a_pause_ends_a_step_that_waits() -> None:
    """Halted for an interrupt that does not come: a step waits, as the guest does.

    On the model; a KVM that emulates HLT after a step executes one instruction more.
    """
    halts = bytes.fromhex("fb f4 90 ebfe")  # sti; hlt; nop; jmp $
    given = replace(config(halts, pyvmm.HostChoice.MODEL), irqchip=pyvmm.IrqchipPolicy.ON)
    async with pyvmm.open_machine(given, paused=True) as machine:
        for _ in range(2):
            assert await machine.control.step(0)
        made: list[bool] = []
        async with trio.open_nursery() as nursery:

            async def step() -> None:
                made.append(await machine.control.step(0))

            nursery.start_soon(step)
            while machine.control.state is not pyvmm.MachineState.RUNNING:
                await trio.lowlevel.checkpoint()
            await machine.control.pause()
        assert made == [False]


@each_host
@in_trio
async def test_it_stays_through_a_reset(host: pyvmm.HostChoice) -> None:
    async with pyvmm.open_machine(config(COUNT, host), paused=True) as machine:
        await require_breakpoints(machine)
        await machine.control.set_breakpoint(0x7C00)
        for _ in range(2):
            machine.control.resume()
            assert await machine.events.wait_for(pyvmm.BreakpointHit)
            await machine.control.reset()
            assert machine.control.state is pyvmm.MachineState.PAUSED


@in_trio
async def test_private_code_is_stopped_on_every_vcpu() -> None:
    """Both vCPUs begin in the firmware, at one address; nobody resumes past a hit by chance."""
    given = replace(private_config("selftest", cpus=2), host=pyvmm.HostChoice.MODEL)
    async with pyvmm.open_machine(given, paused=True) as machine:
        regs = [(await vcpu.registers()) for vcpu in machine.vcpus]
        start = regs[0].regs.rip + regs[0].sregs.cs.base
        assert start == regs[1].regs.rip + regs[1].sregs.cs.base
        await machine.control.set_breakpoint(start)
        hits: list[pyvmm.MachineEvent] = []
        with machine.events.listen(hits.append):
            while {one.vcpu for one in hits if isinstance(one, pyvmm.BreakpointHit)} != {0, 1}:
                machine.control.resume()
                assert await machine.events.wait_for(pyvmm.BreakpointHit)
        assert sum(isinstance(one, pyvmm.BreakpointHit) for one in hits) == 2


@in_trio
async def test_a_host_without_breakpoints_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSystem, "most_breakpoints", lambda _self: 0)
    async with pyvmm.open_machine(config(COUNT, pyvmm.HostChoice.MODEL)) as machine:
        with pytest.raises(pyvmm.HostLacksError, match="ran past it"):
            await machine.control.set_breakpoint(AGAIN)
        assert machine.control.breakpoints == ()
        machine.control.interrupt()
        await machine.control.wait()
        with pytest.raises(pyvmm.InternalError, match="the guest has ended"):
            monkeypatch.undo()
            await machine.control.set_breakpoint(AGAIN)
        assert machine.control.breakpoints == ()


@in_trio
async def test_what_one_vcpu_cannot_have_no_vcpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    given = replace(config(COUNT, pyvmm.HostChoice.MODEL), cpus=2)
    had: list[tuple[int, ...]] = []

    def fails_second(_self: object, addresses: tuple[int, ...]) -> None:
        had.append(tuple(addresses))
        if len(had) == 2:
            raise pyvmm.SystemCallError("set a breakpoint", 5, "Input/output error")

    async with pyvmm.open_machine(given, paused=True) as machine:
        monkeypatch.setattr(ModelVcpu, "set_breakpoints", fails_second)
        with pytest.raises(pyvmm.SystemCallError):
            await machine.control.set_breakpoint(AGAIN)
        assert machine.control.breakpoints == ()
        assert had == [(AGAIN,), (AGAIN,), (), ()]
        await machine.control.set_breakpoint(AGAIN)
        assert had[4:] == [(AGAIN,), (AGAIN,)]


def test_a_blocking_machine_has_them() -> None:
    given = config(COUNT, pyvmm.HostChoice.MODEL)
    with pyvmm.open_blocking_machine(given, paused=True) as machine:
        machine.control.set_breakpoint(AGAIN, timeout=HANG)
        hit = Event()

        def hear(event: pyvmm.MachineEvent) -> None:
            if event == pyvmm.BreakpointHit(0, AGAIN):
                hit.set()

        with machine.events.listen(hear):
            machine.control.resume()
            assert hit.wait(HANG)
        assert machine.vcpus[0].registers().regs.rip == AGAIN
