# SPDX-License-Identifier: MIT
"""A guest that resets its machine: the run ends with a code of its own, or it boots again."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from pyvmm import bundled_guests
from pyvmm.cli.main import main
from pyvmm.errors import ExitCode, InternalError, UsageError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import (
    HostChoice,
    IrqchipPolicy,
    MachineConfig,
    PrivateConfig,
    RebootPolicy,
)
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.events import Ended, MachineEvent, WasReset
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from tests.machine.inside import control_of

HANG = 240.0
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
RESETS = {"0x64": "b0fe e664", "0x92": "b003 e692", "0xcf9": "baf90c b006 ee"}
GO_ON = bytes.fromhex("b058 e6e9 b004 e6f4 f4")
"""mov al, 'X'; out 0xe9, al; mov al, 4; out 0xf4, al; hlt: what no guest gets to after a reset"""

MARK_AND_RESET = bytes.fromhex("a00080 e6e9 b041 a20080 e6e9 b0fe e664 eb00") + GO_ON
"""Say the byte at 0x8000 (zero at a start), make it 'A', say it, reset by 0x64; jmp, because the
model finishes the block of code that it is in."""


def small(code: bytes, **options: object) -> MachineConfig:
    return MachineConfig(code, memory=2 * MIB, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("way", RESETS)
def test_a_reset_ends_the_run_with_a_code_of_its_own(way: str, host: HostChoice) -> None:
    completed = run(small(bytes.fromhex(RESETS[way]) + GO_ON, host=host))
    ending = completed.result.ending
    assert ending.kind is EndingKind.RESET
    assert ending.exit_code == int(ExitCode.GUEST_RESET) == 84
    assert completed.output == b""


def within(config: MachineConfig, act: Callable[[Machine], Awaitable[object]]) -> None:
    async def whole() -> None:
        with trio.fail_after(HANG):
            async with open_machine(config) as machine:
                await act(machine)

    trio.run(whole)


@pytest.mark.parametrize("irqchip", [IrqchipPolicy.OFF, IrqchipPolicy.ON], ids=str)
@pytest.mark.parametrize("host", HOSTS)
def test_with_reboot_again_a_guest_starts_anew_as_often_as_it_asks(
    host: HostChoice, irqchip: IrqchipPolicy
) -> None:
    boots = 5
    events: list[MachineEvent] = []
    descriptors: set[int] = set()
    threads: set[int] = set()

    async def act(machine: Machine) -> None:
        with machine.events.listen(events.append):
            said = b""
            while len(said) < 2 * boots:
                said += await machine.console.receive()
                descriptors.add(len(os.listdir("/proc/self/fd")))
                threads.add(threading.active_count())
            assert said.startswith(b"\0A" * boots)
            machine.control.interrupt("enough")
            result = await machine.control.wait()
        assert result.resets >= boots - 1
        assert result.to_json()["resets"] == result.resets
        assert result.ending.kind is EndingKind.INTERRUPTED

    cpus = 2 if irqchip is IrqchipPolicy.ON else 1
    within(
        small(MARK_AND_RESET, host=host, irqchip=irqchip, cpus=cpus, reboot=RebootPolicy.AGAIN), act
    )
    assert events[-1] == Ended(events[-1].ending)  # type: ignore[union-attr]
    assert set(events[:-1]) == {WasReset(by_guest=True)}
    # Nothing piles up: a second VM may be there for a moment, with what belongs to it.
    assert max(descriptors) - min(descriptors) <= 8
    assert max(threads) - min(threads) <= 4


@pytest.mark.parametrize("host", HOSTS)
def test_a_time_limit_ends_a_guest_that_resets_for_ever(host: HostChoice) -> None:
    config = small(MARK_AND_RESET, host=host, reboot=RebootPolicy.AGAIN, timeout=0.1)
    assert run(config).result.ending.kind is EndingKind.TIME_LIMIT


def test_a_listener_that_fails_ends_the_run() -> None:
    def fail(event: MachineEvent) -> None:
        if event == WasReset(by_guest=True):
            raise UsageError("listen to it", "the test says no")

    async def act(machine: Machine) -> None:
        with machine.events.listen(fail), pytest.raises(UsageError, match="the test says no"):
            await machine.control.wait()

    within(small(MARK_AND_RESET, host=HostChoice.MODEL, reboot=RebootPolicy.AGAIN), act)


def test_who_resets_inside_of_its_own_freezing_waits_no_longer_than_the_run() -> None:
    async def act(machine: Machine) -> None:
        async with trio.open_nursery() as nursery, machine.control.freeze():

            async def end() -> None:
                await trio.testing.wait_all_tasks_blocked()
                machine.control.interrupt("enough")

            nursery.start_soon(end)
            with pytest.raises(InternalError, match="the guest has ended"):
                await machine.control.reset()
            async with machine.control.freeze():  # Nobody is kept out for it.
                pass
        async with machine.control.freeze():
            pass

    within(small(bytes.fromhex("ebfe"), host=HostChoice.MODEL), act)


def test_a_reset_waits_for_who_has_frozen_the_machine_and_keeps_others_out() -> None:
    async def act(machine: Machine) -> None:
        control = control_of(machine)
        order: list[str] = []

        async def reset() -> None:
            await machine.control.reset()
            order.append("reset")

        async with trio.open_nursery() as nursery:
            async with machine.control.freeze():
                nursery.start_soon(reset)
                await trio.testing.wait_all_tasks_blocked()
                async with machine.control.freeze():  # Nests, whoever waits for a reset.
                    order.append("frozen")
        assert order == ["frozen", "reset"]
        async with trio.open_nursery() as nursery:

            async def freeze() -> None:
                async with machine.control.freeze():
                    order.append("frozen again")

            async with control.resetting():
                nursery.start_soon(freeze)
                await trio.testing.wait_all_tasks_blocked()
                order.append("in the reset")
        assert order[2:] == ["in the reset", "frozen again"]

    within(small(bytes.fromhex("ebfe"), host=HostChoice.MODEL), act)


def test_a_private_guest_is_not_booted_again() -> None:
    with pytest.raises(UsageError, match="measured once"):
        small(
            b"\xf4",
            reboot=RebootPolicy.AGAIN,
            private=PrivateConfig(bundled_guests.firmware()),
        )


def test_the_command_refuses_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--private", "--reboot", "again"]) == 64
    assert "leave --reboot again out" in capsys.readouterr().err
