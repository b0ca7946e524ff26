# SPDX-License-Identifier: MIT
"""Backends and the console go on while a machine is saved or restored, and nothing gets lost."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from pyvmm.devices.ports import CMOS_INDEX
from pyvmm.devices.rtc_flags import Flag
from pyvmm.devices.saved_values import SavedCmos, SavedUart
from pyvmm.errors import UsageError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.kvm.saved_values import KvmSavedVm
from pyvmm.hosts.model.saved_values import ModelSavedVm
from pyvmm.hosts.saved_state import SavedVm
from pyvmm.machine import pc_platform, saving
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.board import Board
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.console.port import INPUT_LIMIT, ConsolePort
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.saved_machine import SavedMachine
from pyvmm.memory.layout import MIB
from tests.machine.inside import assembly_of

from .guests import SPIN, bundled
from .test_saved_machine import HANG, HOSTS, hear, saved_now, within

MODEL = MachineConfig(SPIN, memory=2 * MIB, host=HostChoice.MODEL)
MESSAGE = b"a message that is longer than the FIFO of a UART"


def flags_of(board: Board) -> int:
    return next(
        value.flags.happened for _, value in board.save_devices() if isinstance(value, SavedCmos)
    )


def received(saved: SavedMachine) -> bytes:
    return next(value.received for _, value in saved.devices if isinstance(value, SavedUart))


def requests_of_second_pic(saved: SavedVm) -> int:
    if isinstance(saved, KvmSavedVm):
        return saved.irqchips[1][1]
    assert isinstance(saved, ModelSavedVm)
    return saved.pics[1].requests


def before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Call `act` on the worker thread that reads or writes memory, before it does."""
    original = getattr(saving, name)

    def then(*arguments: object) -> object:
        act()
        return original(*arguments)

    monkeypatch.setattr(saving, name, then)
    monkeypatch.setattr(saving, "_WRITTEN_AT_ONCE", 0)


def during_a_reset(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call `act` on the vCPU's thread, when that has been reset and nothing else has."""
    original = Assembly.reset_vcpu

    def then(assembly: Assembly, index: int, vcpu: Vcpu) -> None:
        original(assembly, index, vcpu)
        act()

    monkeypatch.setattr(Assembly, "reset_vcpu", then)


def pause_until(board: Board, flags: int) -> None:
    """Wait, on a worker thread, until the clock's backend has seen these events."""

    async def seen() -> None:
        await clock_has(board, flags)

    trio.from_thread.run(seen)


async def clock_has(board: Board, flags: int) -> None:
    while flags_of(board) & flags != flags:
        await trio.sleep(0.001)


async def arrive(machine: Machine, data: bytes) -> None:
    """Send it, and wait until the UART has begun to take it: its backend may be about to start."""
    await machine.console.send(data)
    while len(machine.console._port.queued_input()) == len(data):
        await trio.sleep(0.001)


async def want_updates(machine: Machine) -> Board:
    """Have the clock interrupt at each update."""
    board = assembly_of(machine).board
    for index, value in ((0x0B, 0x12), (0x0C, None)):
        board.port_out(CMOS_INDEX, 1, 1, bytes((index,)))
        if value is None:
            board.port_in(CMOS_INDEX + 1, 1, 1)
        else:
            board.port_out(CMOS_INDEX + 1, 1, 1, bytes((value,)))
    return board


@pytest.mark.parametrize("host", HOSTS)
def test_what_backends_do_during_a_reset_is_undone_by_it(
    host: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(pc_platform, "_utc_now", lambda: now)
    config = replace(MODEL, host=host, irqchip=IrqchipPolicy.ON)

    async def act(machine: Machine) -> None:
        nonlocal now
        board = await want_updates(machine)
        token = trio.lowlevel.current_trio_token()
        now += datetime.timedelta(seconds=2)
        was_up: list[int] = []

        async def work() -> None:
            await clock_has(board, Flag.INTERRUPT)
            was_up.append(requests_of_second_pic(assembly_of(machine).vm.save()) & 1)
            await arrive(machine, MESSAGE)

        during_a_reset(monkeypatch, lambda: trio.from_thread.run(work, trio_token=token))
        await machine.control.reset()
        assert was_up == [1]
        after = await machine.control.save()
        assert not requests_of_second_pic(after.vm) & 1
        assert not flags_of(board)
        # All but the input: what is not lost with the FIFO has come behind the reset.
        kept = received(after) + after.console.unread
        assert MESSAGE.endswith(kept)
        assert len(MESSAGE) - len(kept) in range(1, 17)

    within(config, act)


@pytest.mark.parametrize("host", HOSTS)
def test_a_clock_that_interrupts_during_a_restore_interrupts_the_guest(
    host: HostChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(pc_platform, "_utc_now", lambda: now)
    config = replace(MODEL, host=host, irqchip=IrqchipPolicy.ON)

    async def wanting_updates(machine: Machine) -> SavedMachine:
        await want_updates(machine)
        return await machine.control.save()

    saved = within(config, wanting_updates)
    now += datetime.timedelta(seconds=2)

    async def restored(machine: Machine) -> None:
        assembly = assembly_of(machine)
        board = assembly.board
        before(monkeypatch, "_write", lambda: pause_until(board, Flag.INTERRUPT))
        await machine.control.restore(saved)
        await clock_has(board, Flag.INTERRUPT)
        assert requests_of_second_pic(assembly.vm.save()) & 1

    within(config, restored)


@pytest.mark.parametrize("unread", [b"", b"saved, and then "])
@pytest.mark.parametrize("host", HOSTS)
def test_an_attachment_s_input_comes_behind_what_was_saved(host: HostChoice, unread: bytes) -> None:
    async def idle(machine: Machine) -> SavedMachine:
        machine.control.resume()
        await machine.console.send(b"one")
        await hear(machine, b"one")
        return await machine.control.save()

    saved = within(MachineConfig(bundled("echo"), host=host), idle)
    saved = replace(saved, console=replace(saved.console, unread=unread))
    typing = Collector(b"typed ahead\n")

    async def main() -> None:
        with trio.fail_after(HANG):
            async with open_machine(saved.config, typing, saved=saved) as machine:
                result = await machine.control.wait()
                assert result.ending.status == 0
                assert machine.console.output == unread + b"typed ahead\n"

    trio.run(main)


def test_an_attachment_takes_nothing_for_a_machine_that_is_refused() -> None:
    saved = within(MODEL, saved_now)
    served = []

    async def attach(port: ConsolePort) -> None:
        served.append(port)

    async def main() -> None:
        with trio.fail_after(HANG), pytest.raises(UsageError, match="has 0 vCPUs"):
            async with open_machine(MODEL, attach, saved=replace(saved, vcpus=())):
                raise AssertionError("it was made")

    trio.run(main)
    assert not served


def test_what_is_typed_during_a_restore_comes_behind_what_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = within(MODEL, saved_now)
    saved = replace(saved, console=replace(saved.console, unread=b"saved, and then "))

    async def restored(machine: Machine) -> None:
        await arrive(machine, b"x")  # In the UART as it was.
        before(monkeypatch, "_write", lambda: trio.from_thread.run(machine.console.send, MESSAGE))
        await machine.control.restore(saved)
        after = await machine.control.save()
        assert received(after) != b""
        assert received(after) + after.console.unread == b"saved, and then " + MESSAGE

    within(MODEL, restored)


def test_saved_input_is_restored_whole_and_its_end_too() -> None:
    unread = bytes(range(256)) * (INPUT_LIMIT // 256) + b"and more"
    saved = within(MODEL, saved_now)
    saved = replace(saved, console=replace(saved.console, unread=unread, input_ended=True))

    async def restored(machine: Machine) -> None:
        await machine.control.restore(saved)
        after = await machine.control.save()
        assert received(after) + after.console.unread == unread
        assert after.console.input_ended

    within(MODEL, restored)


def test_a_message_that_arrives_during_a_save_is_saved_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(machine: Machine) -> None:
        before(monkeypatch, "_read", lambda: trio.from_thread.run(arrive, machine, MESSAGE))
        saved = await machine.control.save()
        # The UART has taken the head of it meanwhile.
        assert 0 < len(machine.console._port.queued_input()) < len(MESSAGE)
        assert received(saved) + saved.console.unread in (b"", MESSAGE)

    within(MODEL, act)
