# SPDX-License-Identifier: MIT
"""What a machine tells its listeners, starting it paused, and freezing it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.config import HostChoice, ImplicitPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.ending import Ending, EndingKind, Requester, RunResult
from pyvmm.machine.events import (
    AccessRefused,
    Ended,
    MachineEvent,
    Paused,
    PowerdownAsked,
    Resumed,
    WasReset,
)
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import MIB
from tests.machine.inside import is_paused

from .guests import COUNT, EXIT_42, PRINT_AND_SPIN, SPIN, bundled
from .test_reset import HANG, HOSTS


def small(image: bytes, host: HostChoice, **changes: object) -> MachineConfig:
    return MachineConfig(image, memory=2 * MIB, host=host, **changes)  # type: ignore[arg-type]


def told(
    config: MachineConfig, act: Callable[[Machine], Awaitable[object]], *, paused: bool = False
) -> tuple[list[MachineEvent], RunResult]:
    """What is told while `act` steers a machine up to its end; the run's result."""
    events: list[MachineEvent] = []

    async def main() -> RunResult:
        with trio.fail_after(HANG):
            async with open_machine(config, paused=paused) as machine:
                with machine.events.listen(events.append):
                    await act(machine)
                    result = await machine.control.wait()
                machine.control.powerdown()
                return result

    return events, trio.run(main)


@pytest.mark.parametrize("host", HOSTS)
def test_each_thing_is_told_once_and_in_order(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        machine.control.resume()
        await machine.control.pause()
        await machine.control.pause()
        await machine.control.reset()
        machine.control.powerdown()
        machine.control.resume()
        machine.control.resume()
        machine.control.interrupt("by the test", Requester.QMP)
        machine.control.interrupt("again", Requester.SIGNAL)

    events, result = told(small(SPIN, host), act)
    ending = Ending(EndingKind.INTERRUPTED, "by the test", requester=Requester.QMP)
    assert events == [Paused(), WasReset(), PowerdownAsked(), Resumed(), Ended(ending)]
    assert result.ending == ending


@pytest.mark.parametrize("host", HOSTS)
def test_an_end_of_the_guests_own_is_told(host: HostChoice) -> None:
    async def act(_machine: Machine) -> None:
        await trio.lowlevel.checkpoint()

    events, result = told(small(EXIT_42, host), act)
    assert events == [Ended(result.ending)]
    assert result.ending.status == 42
    assert result.ending.requester is None


def test_a_refused_access_is_told_before_the_end() -> None:
    private = PrivateConfig(bundled_guests.firmware(), implicit=ImplicitPolicy.REFUSE)
    config = MachineConfig(
        bundled("touch"), memory=16 * MIB, host=HostChoice.MODEL, private=private
    )

    async def act(_machine: Machine) -> None:
        await trio.lowlevel.checkpoint()

    events, result = told(config, act)
    refused, ended = events
    assert isinstance(refused, AccessRefused)
    assert refused.vcpu == 0
    assert f"{refused.fault.gpa:#x}" in result.ending.detail
    assert ended == Ended(result.ending)
    assert result.ending.kind is EndingKind.MEMORY_REFUSED


@pytest.mark.parametrize("host", HOSTS)
def test_a_paused_start(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        assert machine.control.state is MachineState.NEW
        # Nothing wakes its thread meanwhile.
        await trio.sleep(0.2)
        assert machine.console.total == 0
        regs = await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())
        assert regs.rip == 0x7C00
        await trio.sleep(0.05)
        assert await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs()) == regs
        machine.control.resume()
        assert machine.control.state.value == "running"
        while machine.console.total < 2:
            await trio.sleep(0.001)
        machine.control.interrupt("by the test")

    events, _result = told(small(PRINT_AND_SPIN, host), act, paused=True)
    # It did not run on: it began.
    assert [type(event) for event in events] == [Ended]


@pytest.mark.parametrize("host", HOSTS)
def test_the_time_limit_does_not_wait_for_a_paused_start(host: HostChoice) -> None:
    async def act(_machine: Machine) -> None:
        await trio.lowlevel.checkpoint()

    _events, result = told(small(SPIN, host, timeout=0.05), act, paused=True)
    assert result.ending.kind is EndingKind.TIME_LIMIT
    assert result.seconds == 0
    assert not result.exits or set(result.exits) == {"INTERRUPTED"}


def test_a_paused_start_is_interrupted() -> None:
    async def act(machine: Machine) -> None:
        machine.control.interrupt("by the test", Requester.SIGNAL)

    _events, result = told(small(SPIN, HostChoice.MODEL), act, paused=True)
    assert result.ending.kind is EndingKind.INTERRUPTED


@pytest.mark.parametrize("host", HOSTS)
def test_frozen_is_frozen_whoever_resumes(host: HostChoice) -> None:
    async def counter(machine: Machine) -> int:
        def read(vcpu: Vcpu) -> int:
            return vcpu.get_regs().rbx

        return await machine.vcpus[0].call(read)

    async def moves(machine: Machine) -> None:
        before = await counter(machine)
        while await counter(machine) == before:
            await trio.sleep(0.001)

    async def act(machine: Machine) -> None:
        async with machine.control.freeze():
            machine.control.resume()
            first = await counter(machine)
            async with machine.control.freeze():
                pass
            machine.control.resume()
            await trio.sleep(0.02)
            assert await counter(machine) == first
            assert not is_paused(machine)
        await moves(machine)
        await machine.control.pause()
        async with machine.control.freeze():
            pass
        stands = await counter(machine)
        await trio.sleep(0.02)
        assert await counter(machine) == stands
        machine.control.resume()
        await moves(machine)
        machine.control.interrupt("by the test")

    events, _result = told(small(COUNT, host), act)
    assert events[:-1] == [Paused(), Resumed()]


def test_freezing_is_cancelled_without_a_trace() -> None:
    async def act(machine: Machine) -> None:
        for _ in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                async with machine.control.freeze():
                    await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
        while machine.console.total < 2:
            await trio.sleep(0.001)
        machine.control.interrupt("by the test")

    told(small(PRINT_AND_SPIN, HostChoice.MODEL), act)


def test_the_end_comes_through_while_frozen() -> None:
    async def act(machine: Machine) -> None:
        async with machine.control.freeze():
            machine.control.interrupt("by the test")
            with pytest.raises(InternalError):
                while True:
                    await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())

    _events, result = told(small(SPIN, HostChoice.MODEL), act)
    assert result.ending.kind is EndingKind.INTERRUPTED


def test_a_listener_hears_while_it_listens_only() -> None:
    first: list[MachineEvent] = []

    async def act(machine: Machine) -> None:
        with machine.events.listen(first.append):
            await machine.control.pause()
        machine.control.resume()
        machine.control.interrupt("by the test")

    events, _result = told(small(SPIN, HostChoice.MODEL), act)
    assert first == [Paused()]
    assert [type(event) for event in events] == [Paused, Resumed, Ended]


def test_nothing_is_told_after_the_end() -> None:
    async def act(machine: Machine) -> None:
        await machine.control.pause()
        machine.control.interrupt("by the test")
        await machine.control.wait()
        machine.control.resume()
        machine.control.powerdown()

    events, _result = told(small(SPIN, HostChoice.MODEL), act)
    assert [type(event) for event in events] == [Paused, Ended]


def test_a_call_that_was_cancelled_is_not_made() -> None:
    made: list[str] = []

    async def act(machine: Machine) -> None:
        (vcpu,) = machine.vcpus
        begun, let_go = trio.Event(), threading.Event()
        token = trio.lowlevel.current_trio_token()

        def keep(_vcpu: Vcpu) -> None:
            token.run_sync_soon(begun.set)
            let_go.wait(HANG)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(vcpu.call, keep)
            await begun.wait()
            with trio.CancelScope() as scope:
                scope.cancel()
                await vcpu.call(lambda _vcpu: made.append("cancelled"))
            let_go.set()
            await vcpu.call(lambda _vcpu: made.append("waited for"))
        machine.control.interrupt("by the test")

    told(small(SPIN, HostChoice.MODEL), act)
    assert made == ["waited for"]


def test_a_vcpu_is_not_waited_for_once_the_guest_has_ended() -> None:
    """Not even while somebody who reads slowly still takes the guest's last words."""

    async def never_done(_console: object) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        config = small(EXIT_42, HostChoice.MODEL, timeout=HANG)
        with trio.fail_after(HANG / 2):
            async with open_machine(config, never_done) as machine:
                while machine.control.ending is None:
                    await trio.sleep(0.001)
                with pytest.raises(InternalError, match="has ended"):
                    while True:  # Its thread may still be on its way out, and do it.
                        await machine.vcpus[0].call(lambda vcpu: vcpu.get_regs())

    trio.run(main)
