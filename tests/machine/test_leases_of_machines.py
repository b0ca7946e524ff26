# SPDX-License-Identifier: MIT
"""Leases of whole machines: a guest that converts, resets, is paused and ended meanwhile."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from pyvmm.errors import ConversionRefusedError
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.machine.config import HostChoice, MachineConfig, RebootPolicy
from pyvmm.machine.console.attach import discard
from pyvmm.machine.events import MachineEvent, WasReset
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.leases import Lease, LeaseHeldError, LeaseRefusedError
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

from .conftest import Choice
from .guests import SPIN
from .inside import memory_of
from .private_machines import Ended, Talk, config, talk

HANG = 240.0
FOR_EVER = 600.0
TO_PRIVATE, TO_SHARED = 1 << 4, 0
HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
RESETS_ITSELF = bytes.fromhex("bc0010 e464 3c00 b0fe e664 ebfe")
"""mov sp, 0x1000; in al, 0x64; cmp al, 0; mov al, 0xfe; out 0x64, al; jmp ."""


def talked(choice: Choice, conversation: Callable[[Talk], Awaitable[None]]) -> Ended:
    return talk(config("mailbox", host=choice.host, backing=choice.backing), conversation)


def is_waited_for(memory: GuestMemory, gpa: int) -> bool:
    """A conversion of the page waits: a further lease is refused."""
    try:
        memory.lease([(gpa, 1)]).close()
    except LeaseRefusedError as refused:
        return refused.reason is LeaseRefusal.CONVERTING
    return False


def nothing_is_held(memory: GuestMemory) -> None:
    """No lease is out, and none is waited for."""
    assert memory.leases.holder_over(GpaRange(0, 1 << 52)) is None
    for run in memory.states.runs():
        if run.state is PageState.SHARED:
            memory.lease([(run.range.start, run.range.size)], writable=True).close()


async def shared_pages(guest: Talk, pages: int) -> int:
    gpa = await guest.take(pages * PAGE_SIZE)
    assert await guest.ask("SHARE", gpa, pages * PAGE_SIZE) == 0
    return gpa


@pytest.mark.slow
def test_a_guest_is_told_to_try_again_and_converts_elsewhere(private_choice: Choice) -> None:
    async def act(guest: Talk) -> None:
        memory = guest.memory
        gpa = await shared_pages(guest, 4)
        memory.leases.patience = 0.0
        device = Deaf()
        memory.regions.listen(device, [GpaRange(gpa + 3 * PAGE_SIZE, gpa + 4 * PAGE_SIZE)])
        done_here = memory.conversion.counts.total()
        with memory.lease([(gpa + 8, 8)], writable=True, holder="net0") as lease:
            lease.views[0][:] = b"a frame!"
            assert await guest.ask("CONVERT", gpa, 2, TO_PRIVATE) == -errno.EAGAIN
            assert await guest.ask("READ", gpa + 8) == ~int.from_bytes(b"a frame!", "little")
            assert memory.states.at(gpa + PAGE_SIZE) is PageState.SHARED
            assert await guest.ask("CONVERT", gpa + PAGE_SIZE, 2, TO_PRIVATE) == 0
            assert memory.states.at(gpa + PAGE_SIZE) is PageState.PRIVATE
            by_python = memory.conversion.counts.total() - done_here
            assert by_python == (0 if private_choice.host is HostChoice.KVM else 1), "C's speed"
            with pytest.raises(LeaseRefusedError, match="private"):
                memory.lease([(gpa, 8), (gpa + PAGE_SIZE, 8)])
        assert await guest.ask("CONVERT", gpa, 1, TO_PRIVATE) == 0
        assert not device.left
        assert await guest.ask("CONVERT", gpa + 3 * PAGE_SIZE, 1, TO_PRIVATE) == 0
        assert device.left == [GpaRange(gpa + 3 * PAGE_SIZE, gpa + 4 * PAGE_SIZE)]
        nothing_is_held(memory)
        assert await guest.ask("END", 0) == 0

    assert talked(private_choice, act).result.ending.exit_code == 0


class Deaf:
    """A device that listens to conversions, and notes them down."""

    def __init__(self) -> None:
        self.left: list[GpaRange] = []

    def leaving(self, range_: GpaRange) -> None:
        self.left.append(range_)

    def joined(self, range_: GpaRange) -> None:
        pass


def test_pausing_and_ending_end_a_wait(private_choice: Choice) -> None:
    async def act(guest: Talk) -> None:
        memory = guest.memory
        gpa = await shared_pages(guest, 1)
        memory.leases.patience = FOR_EVER
        answers: list[int] = []

        async def convert() -> None:
            answers.append(await guest.ask("CONVERT", gpa, 1, TO_PRIVATE))

        with memory.lease([(gpa, 8)]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(convert)
                while not is_waited_for(memory, gpa):
                    await trio.sleep(0.001)
                await guest.machine.control.pause()
                assert not is_waited_for(memory, gpa)
                guest.machine.control.resume()
            assert answers == [-errno.EAGAIN]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(convert)
                while not is_waited_for(memory, gpa):
                    await trio.sleep(0.001)
                guest.machine.control.interrupt("enough")
                await guest.machine.control.wait()
                nursery.cancel_scope.cancel()

    assert talked(private_choice, act).result.ending.detail == "enough"


def within(machine_config: MachineConfig, act: Callable[[Machine], Awaitable[None]]) -> None:
    async def whole() -> None:
        with trio.fail_after(HANG):
            async with open_machine(machine_config, discard) as machine:
                await act(machine)

    trio.run(whole)


@pytest.mark.parametrize("host", HOSTS)
def test_a_reset_waits_for_leases_and_is_refused_with_nothing_changed(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        machine.memory.write(MIB, b"before")
        memory_of(machine).leases.patience = 0.0
        lease = machine.memory.lease([(MIB, 6)], writable=True, holder="disk0")
        with pytest.raises(LeaseHeldError, match="disk0"):
            await machine.control.reset()
        assert bytes(lease.views[0]) == b"before"
        memory_of(machine).leases.patience = FOR_EVER
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.control.reset)
            while not is_waited_for(memory_of(machine), MIB):
                await trio.sleep(0.001)
            assert bytes(lease.views[0]) == b"before"
            lease.close()
        assert machine.memory.read(MIB, 6) == bytes(6)
        nothing_is_held(memory_of(machine))

    within(MachineConfig(SPIN, memory=16 * MIB, host=host), act)


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_that_resets_under_a_lease_that_does_not_end_is_no_hang(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        memory_of(machine).leases.patience = 0.0
        with machine.memory.lease([(MIB, 6)], writable=True, holder="disk0") as lease:
            machine.control.resume()
            with pytest.raises(LeaseHeldError, match="disk0"):
                await machine.control.wait()
            lease.views[0][:] = b"mine!!"

    async def whole() -> None:
        with trio.fail_after(HANG):
            made = MachineConfig(
                RESETS_ITSELF, memory=16 * MIB, host=host, reboot=RebootPolicy.AGAIN
            )
            async with open_machine(made, discard, paused=True) as machine:
                await act(machine)

    trio.run(whole)


@pytest.mark.parametrize("host", HOSTS)
def test_saving_and_restoring_wait_for_leases(host: HostChoice) -> None:
    async def act(machine: Machine) -> None:
        machine.memory.write(MIB, b"before")
        saved = await machine.control.save()
        memory_of(machine).leases.patience = 0.0
        with machine.memory.lease([(MIB, 6)], writable=True, holder="disk0") as lease:
            with pytest.raises(LeaseHeldError, match="disk0"):
                await machine.control.save()
            lease.views[0][:] = b"device"
            with pytest.raises(LeaseHeldError, match="disk0"):
                await machine.control.restore(saved)
            assert bytes(lease.views[0]) == b"device"
        await machine.control.restore(saved)
        assert machine.memory.read(MIB, 6) == b"before"
        nothing_is_held(memory_of(machine))

    within(MachineConfig(SPIN, memory=16 * MIB, host=host), act)


# -- all of it at once --

PAGES = 32
LEASERS = 3
SHARE = PAGE_SIZE // LEASERS
"""Bytes of each page that are one leaser's: so what it writes is nobody else's to change."""


class Threads:
    """Threads that lease and convert [gpa, gpa + PAGES) until `stop`; what they did is counted."""

    def __init__(self, memory: GuestMemory, gpa: int, seed: int, *, converts: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._memory = memory
        self._gpa = gpa
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        tasks: list[tuple[Callable[[int, random.Random], None], int]] = []
        tasks += [(self._lease, number) for number in range(LEASERS)]
        tasks += [(self._convert, LEASERS)] if converts else []
        self._threads = [
            threading.Thread(target=self._run, args=(task, number, random.Random(seed + number)))
            for task, number in tasks
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(HANG)
            assert not thread.is_alive()
        if self._failures:
            raise self._failures[0]

    def _run(
        self, task: Callable[[int, random.Random], None], number: int, chance: random.Random
    ) -> None:
        try:
            while not self._stopping.is_set():
                task(number, chance)
                time.sleep(chance.random() / 1000)
        except BaseException as failure:  # noqa: BLE001 - raised by stop
            self._failures.append(failure)

    def _lease(self, number: int, chance: random.Random) -> None:
        pages = chance.sample(range(PAGES), chance.randint(1, 4))
        ranges = [(self._gpa + page * PAGE_SIZE + number * SHARE, SHARE) for page in pages]
        try:
            lease = self._memory.lease(ranges, writable=True, holder=f"leaser {number}")
        except LeaseRefusedError as refused:
            assert refused.reason in {LeaseRefusal.NOT_SHARED, LeaseRefusal.CONVERTING}, refused
            self.counts[refused.reason.name] += 1
            return
        with lease:
            self._work(lease, number, chance)
        self.counts["leased"] += 1

    def _work(self, lease: Lease, number: int, chance: random.Random) -> None:
        mark = bytes([number + 1]) * SHARE
        for view in lease.views:
            view[:] = mark
        time.sleep(chance.random() / 1000)
        for view in lease.views:
            assert bytes(view) == mark, "it was converted under a lease"

    def _convert(self, _number: int, chance: random.Random) -> None:
        page = chance.randrange(PAGES)
        size = min(chance.randint(1, 4), PAGES - page) * PAGE_SIZE
        side = chance.choice((Side.PRIVATE, Side.SHARED))
        try:
            self._memory.conversion.convert(self._gpa + page * PAGE_SIZE, size, side)
        except ConversionRefusedError:
            self.counts["refused"] += 1
        else:
            self.counts["converted"] += 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_leases_conversions_pauses_and_the_end_at_once(private_choice: Choice, seed: int) -> None:
    counted: Counter[str] = Counter()

    async def act(guest: Talk) -> None:
        chance = random.Random(seed)
        gpa = await shared_pages(guest, PAGES)
        guest.memory.leases.patience = 0.002
        threads = Threads(guest.memory, gpa, seed, converts=True)
        try:
            while counted["told to try again"] < 3 or counted["guest converted"] < 30:
                page = chance.randrange(PAGES)
                to = chance.choice((TO_PRIVATE, TO_SHARED))
                at = gpa + page * PAGE_SIZE
                answer = await guest.ask("CONVERT", at, 1, to)
                assert answer in {0, -errno.EAGAIN}
                counted["guest converted" if answer == 0 else "told to try again"] += 1
                with suppress(LeaseRefusedError), guest.memory.lease([(at, 8)]):
                    assert await guest.ask("CONVERT", at, 1, TO_PRIVATE) == -errno.EAGAIN
                    counted["told to try again"] += 1
                if chance.random() < 0.2:
                    await guest.machine.control.pause()
                    guest.machine.control.resume()
            if seed % 2:  # The end comes in the middle.
                guest.machine.control.interrupt("enough")
                await guest.machine.control.wait()
        finally:
            await trio.to_thread.run_sync(threads.stop)
        counted.update(threads.counts)
        nothing_is_held(guest.memory)
        if not seed % 2:
            assert await guest.ask("END", 0) == 0

    talked(private_choice, act)  # Whatever is opened once a process.
    before = descriptors(), threading.active_count()
    counted.clear()
    talked(private_choice, act)
    print(counted)
    assert counted["leased"] > 10
    assert counted["converted"] > 10
    # trio keeps threads of its own, for a while.
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1] + 2


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_leases_and_resets_at_once(host: HostChoice) -> None:
    counted: Counter[str] = Counter()

    async def act(machine: Machine) -> None:
        resets: list[MachineEvent] = []
        chance = random.Random(3)
        memory_of(machine).leases.patience = 0.002
        threads = Threads(memory_of(machine), MIB, 3, converts=False)
        try:
            with machine.events.listen(
                lambda event: resets.append(event) if isinstance(event, WasReset) else None
            ):
                while len(resets) < 10 or counted["refused"] < 2:
                    try:
                        await machine.control.reset()
                    except LeaseHeldError:
                        counted["refused"] += 1
                    await trio.sleep(chance.random() / 500)
        finally:
            await trio.to_thread.run_sync(threads.stop)
        counted.update(threads.counts)
        nothing_is_held(memory_of(machine))

    within(MachineConfig(SPIN, memory=16 * MIB, host=host), act)
    print(counted)
    assert counted["leased"] > 10
