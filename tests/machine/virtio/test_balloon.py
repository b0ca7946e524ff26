# SPDX-License-Identifier: MIT
"""A memory balloon in a machine, and a guest that fills it and empties it."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import trio
import trio.testing

from pyvmm.devices.virtio.balloon import BalloonFeature, BalloonModel, Role
from pyvmm.errors import UsageError
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, Transport
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.virtio.balloon import Balloon
from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.machine.private_machines import config as private_config

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
PAGE = 4096


def config(host: HostChoice, transport: Transport = Transport.PCI) -> MachineConfig:
    return MachineConfig(
        bundled("balloon"),
        memory=4 * MIB,
        host=host,
        hardware=Hardware(transport=transport, balloon=True),
        timeout=HANG,
    )


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("host", HOSTS)
@in_trio
async def test_a_guest_gives_up_pages_tells_of_itself_and_takes_them_back(
    host: HostChoice, transport: Transport
) -> None:
    async with open_machine(config(host, transport)) as machine:
        balloon = machine.memory.balloon
        assert balloon is not None
        assert await machine.console.wait_for(b"balloon of 0 pages, one reported\n")
        assert balloon.given_back == PAGE, "the report; numbers of no memory are skipped"
        balloon.resize(7 * PAGE + 1)
        assert await machine.console.wait_for(b"balloon of 7 pages\n")
        assert balloon.given_back == 8 * PAGE
        while balloon.size != 7 * PAGE:
            await trio.sleep(0.01)
        first = await balloon.statistics()
        second = await balloon.statistics()
        assert first.keys() == second.keys() == {"free-memory"}
        assert first["free-memory"] < second["free-memory"], "they are told anew"
        balloon.resize(3 * PAGE)
        assert await machine.console.wait_for(b"balloon of 3 pages\n")
        saved = await machine.control.save()
        async with open_machine(config(host, transport), saved=saved) as other:
            await goes_on(other)
        balloon.resize(0)
        result = await machine.control.wait()
        assert result.ending.status == 0
        assert balloon.size == 0


async def goes_on(machine: Machine) -> None:
    """A machine that was restored with three pages given up."""
    balloon = machine.memory.balloon
    assert balloon is not None
    assert (balloon.size, balloon.target) == (3 * PAGE, 3 * PAGE)
    balloon.resize(0)
    assert (await machine.control.wait()).ending.status == 0


def test_whoever_asks_while_another_one_waits_is_told_with_it() -> None:
    async def main() -> None:
        model = BalloonModel()
        model.accept(BalloonFeature.STATISTICS)
        queue = next(number for number in range(4) if model.role(number) is Role.STATISTICS)
        balloon = Balloon(model)
        balloon.on_ready = lambda _queue: None
        told: list[object] = []

        async def ask() -> None:
            told.append(await balloon.statistics())

        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                while balloon.is_ready(queue):
                    free = memoryview(struct.pack("<HQ", 4, 77))
                    await balloon.handle(queue, BoundChain((free,), ()))
        assert told == [{"free-memory": 77}] * 2

    trio.run(main)


@in_trio
async def test_wishes_that_cannot_be() -> None:
    async with open_machine(config(HostChoice.MODEL), paused=True) as machine:
        balloon = machine.memory.balloon
        assert balloon is not None
        for wish in (-1, PAGE << 32):
            with pytest.raises(UsageError, match="give up"):
                balloon.resize(wish)
        assert balloon.target == 0


@in_trio
async def test_what_is_private_or_read_only_or_no_memory_stays() -> None:
    async with open_machine(config(HostChoice.MODEL), paused=True) as machine:
        memory = machine.memory
        balloon = memory.balloon
        assert balloon is not None
        assert memory.write(0, b"x" * 4 * MIB)
        assert balloon.leases.discard(MIB, 2 * PAGE) == 2 * PAGE
        assert memory.read(MIB - 1, 2 * PAGE + 2) == b"x" + bytes(2 * PAGE) + b"x"
        # The last page, and one behind it.
        assert balloon.leases.discard(4 * MIB - PAGE, 2 * PAGE) == PAGE
        assert balloon.leases.discard((1 << 44) - PAGE, PAGE) == 0


@in_trio
async def test_pages_that_a_private_guest_has_not_shared_are_left_to_it() -> None:
    given = replace(private_config("hello"), host=HostChoice.MODEL)
    async with open_machine(given, paused=True) as machine:
        memory = machine.memory
        assert memory.balloon is None
        memory.conversion.convert(MIB, PAGE, Side.PRIVATE)
        assert memory.write(MIB - PAGE, b"y" * PAGE)
        leases = memory._inner.leases
        assert leases.discard(MIB - PAGE, 3 * PAGE) == 2 * PAGE
        assert memory.states.at(MIB) is PageState.PRIVATE
        assert memory.read(MIB - PAGE, 1) == bytes(1)
