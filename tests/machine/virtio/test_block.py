# SPDX-License-Identifier: MIT
"""A virtio block device in a machine, and a guest that drives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.rings import Chain, Ring
from pyvmm.errors import UsageError
from pyvmm.machine.block_store import BlockStore, MemoryStore
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.machine.running import Running, running
from pyvmm.machine.saved_machine import SavedMachine
from pyvmm.machine.virtio.block import place_block
from pyvmm.machine.virtio.queue_worker import QueueWorker
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
SECTORS = 64
HANG = 120.0
START = [b"virtio block: 64 sectors, id virtio block", b"refused what cannot be"]


def machine_with(store: BlockStore, host: HostChoice, command_line: bytes = b"") -> MachineConfig:
    return MachineConfig(
        bundled("block"),
        memory=2 * MIB,
        host=host,
        command_line=command_line,
        devices=DeviceChoice(added=(partial(place_block, store),)),
        timeout=HANG,
    )


def sectors(round_: int) -> bytes:
    """What the guest writes in a round."""
    return bytes((round_ * 37 + at // 512 * 11 + at) & 0xFF for at in range(8 * 512))


def rounds(count: int) -> list[bytes]:
    return [b"round %d" % (number + 1) for number in range(count)]


class SlowStore(MemoryStore):
    """A store whose first read lasts until it is let go on; `begun` is set when it has begun."""

    def __init__(self) -> None:
        super().__init__(bytearray(SECTORS * 512))
        self.begun, self.go_on = trio.Event(), trio.Event()
        self.cancelled = False

    async def read(self, offset: int, into: Sequence[memoryview]) -> None:
        if not self.begun.is_set():
            into[0][0] = 0
            self.begun.set()
            try:
                await self.go_on.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.05)  # A disk takes its time to let go.
                into[-1][-1] = 0xEE
                self.cancelled = True
                raise
        await super().read(offset, into)


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_writes_sectors_and_reads_them_back(host: HostChoice) -> None:
    store = MemoryStore(bytearray(SECTORS * 512))
    completed = run(machine_with(store, host, b"rounds=2"))
    assert completed.output.splitlines() == [*START, *rounds(2)]
    ending = completed.result.ending
    assert (ending.kind, ending.status) == (EndingKind.EXITED, 0)
    written = sectors(0) + sectors(1)
    assert store.data == written.ljust(SECTORS * 512, b"\0")


@pytest.mark.parametrize("host", HOSTS)
def test_a_driver_s_reset_returns_when_what_was_under_way_has_let_go(host: HostChoice) -> None:
    store = SlowStore()
    completed = run(machine_with(store, host, b"rounds=1 resets=1"))
    assert completed.output.splitlines() == [*START, b"was reset in the middle", *rounds(1)]
    assert completed.result.ending.status == 0
    assert store.cancelled


def test_without_interrupt_controllers_it_is_refused() -> None:
    config = machine_with(MemoryStore(bytearray(512)), HostChoice.MODEL)
    off = MachineConfig(
        config.image, memory=config.memory, host=config.host, devices=config.devices,
        irqchip=IrqchipPolicy.OFF,
    )  # fmt: skip
    with pytest.raises(UsageError, match="no interrupt controllers"):
        run(off)


def within(config: MachineConfig, act: Callable[[Running], Awaitable[None]]) -> list[bytes]:
    """The lines of a guest, which ends well, in a machine to which something is done meanwhile."""

    async def main() -> list[bytes]:
        async with running(config) as made:
            await act(made)
            result = await made.machine.control.wait()
            assert (result.ending.kind, result.ending.status) == (EndingKind.EXITED, 0), result
            return made.port.receive_nowait().splitlines()

    return trio.run(main)


@pytest.mark.parametrize("host", HOSTS)
def test_a_reset_of_the_machine_waits_for_what_is_under_way(host: HostChoice) -> None:
    store = SlowStore()

    async def act(made: Running) -> None:
        await store.begun.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.machine.control.reset)
            await wait_all_tasks_blocked()
            store.go_on.set()

    lines = within(machine_with(store, host, b"rounds=1"), act)
    assert lines == [*START, *START, *rounds(1)]
    assert not store.cancelled


@pytest.mark.parametrize("host", HOSTS)
def test_a_reset_that_waits_in_vain_is_refused_and_the_guest_goes_on(host: HostChoice) -> None:
    store = SlowStore()

    async def act(made: Running) -> None:
        made.assembly.memory.leases.patience = 0.01
        await store.begun.wait()
        with pytest.raises(LeaseHeldError, match="virtio block works on a part of it"):
            await made.machine.control.reset()
        store.go_on.set()

    assert within(machine_with(store, host, b"rounds=1"), act) == [*START, *rounds(1)]


@pytest.mark.parametrize("host", HOSTS)
def test_a_machine_is_restored_behind_what_is_under_way(host: HostChoice) -> None:
    store = SlowStore()

    async def main() -> list[bytes]:
        async with running(machine_with(store, host, b"rounds=1"), paused=True) as made:
            control = made.machine.control
            saved = await control.save()
            control.resume()
            await store.begun.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(control.restore, saved)
                await wait_all_tasks_blocked()
                store.go_on.set()
            result = await control.wait()
            assert result.ending.status == 0, result
            return made.port.receive_nowait().splitlines()

    assert trio.run(main) == [*START, *START, *rounds(1)]
    assert not store.cancelled


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("lost", ["what is available", "an interrupt"])
def test_what_is_under_way_when_a_machine_is_saved_is_done_after_it_is_restored(
    host: HostChoice, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first device takes no chain, or interrupts nobody, once the guest has begun: all that
    the second machine has of it is in the saved state."""
    store = CountingStore()
    deaf = trio.Event()
    is_first = True
    take, tell = QueueWorker._next, VirtioCore.interrupt

    def has_begun() -> bool:
        return is_first and store.written > 0

    def following(worker: QueueWorker, ring: Ring) -> Chain | None:
        chain = take(worker, ring)
        # A fast guest has made it available before the worker's batch is at its end.
        if chain is not None and lost == "what is available" and has_begun():
            deaf.set()
            return None
        return chain

    def interrupt(core: VirtioCore, queue: int | None) -> None:
        if lost == "an interrupt" and has_begun():
            deaf.set()
        else:
            tell(core, queue)

    monkeypatch.setattr(QueueWorker, "_next", following)
    monkeypatch.setattr(VirtioCore, "interrupt", interrupt)
    config = machine_with(store, host, b"rounds=1")

    async def first() -> tuple[SavedMachine, list[bytes]]:
        async with running(config) as made:
            await deaf.wait()
            saved = await made.machine.control.save()
            return saved, made.port.receive_nowait().splitlines()

    async def second(saved: SavedMachine) -> list[bytes]:
        async with running(config, saved=saved) as made:
            result = await made.machine.control.wait()
            assert result.ending.status == 0, result
            return made.port.receive_nowait().splitlines()

    saved, lines = trio.run(first)
    assert lines == START
    is_first = False
    assert trio.run(second, saved) == rounds(1)


class CountingStore(MemoryStore):
    """A store that counts writes."""

    def __init__(self) -> None:
        super().__init__(bytearray(SECTORS * 512))
        self.written = 0

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        await super().write(offset, data)
        self.written += 1
