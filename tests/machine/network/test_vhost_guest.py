# SPDX-License-Identifier: MIT
"""A guest's card whose frames vhost-net moves: in traffic, saved, restored, reset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.errors import UsageError
from pyvmm.machine.config import HostChoice, MachineConfig, PrivateConfig
from pyvmm.machine.hardware import Hardware, NetCard, RingFeature, TapNet, Transport, VhostChoice
from pyvmm.machine.network import vhost_pairs
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.net.namespaces import new_namespace
from pyvmm.net.vhost import RECEIVE, TRANSMIT, VhostNet, open_vhost
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.net.station import (
    APPEND,
    READY,
    STATION,
    Station,
    answers_pings,
    does_it_all,
)

pytestmark = [pytest.mark.net, pytest.mark.slow]

BOTH = {RECEIVE, TRANSMIT}
SIZE = 200_000


@pytest.fixture
def station() -> Iterator[Station]:
    namespace = new_namespace()
    yield Station(namespace)
    os.close(namespace)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[VhostNet]:
    """Every vhost-net that machines open."""
    found: list[VhostNet] = []

    def opened() -> VhostNet:
        found.append(open_vhost())
        return found[-1]

    monkeypatch.setattr(vhost_pairs, "open_vhost", opened)
    return found


def config(
    station: Station,
    append: str = "msix=1",
    *,
    vhost: VhostChoice = VhostChoice.ON,
    host: HostChoice = HostChoice.KVM,
    rings: tuple[RingFeature, ...] = (),
    transport: Transport = Transport.PCI,
    private: PrivateConfig | None = None,
) -> MachineConfig:
    wire = TapNet(netns=station.path, address=f"{STATION}/24", vhost=vhost)
    return MachineConfig(
        bundled("net"),
        memory=8 * MIB,
        command_line=f"{APPEND} {append}".encode(),
        host=host,
        hardware=Hardware(transport=transport, rings=rings, cards=(NetCard(wire),)),
        private=private,
        timeout=HANG,
    )


@pytest.mark.kvm
@pytest.mark.vhost
@pytest.mark.parametrize(
    ("transport", "append"),
    [
        (Transport.PCI, "msix=1"),
        (Transport.PCI, "merge=0 events=0"),
        (Transport.MMIO, "offload=0"),
    ],
)
@in_trio
async def test_the_kernel_moves_all_of_it(
    station: Station, devices: list[VhostNet], transport: Transport, append: str
) -> None:
    append = f"{append} ping={STATION} serve=1"
    async with open_machine(config(station, append, transport=transport)) as machine:
        assert await machine.console.wait_for(READY)
        assert await machine.console.wait_for(b"answered: 3\n")
        [vhost] = devices
        assert vhost.running == BOTH
        await trio.to_thread.run_sync(does_it_all, station, SIZE)
        assert (await machine.control.wait()).ending.status == 0
    assert vhost.fileno() == -1


@pytest.mark.kvm
@pytest.mark.vhost
@in_trio
async def test_it_is_saved_unplugged_and_reset(station: Station, devices: list[VhostNet]) -> None:
    async with open_machine(config(station)) as machine:
        assert await machine.console.wait_for(READY)
        [vhost] = devices
        await trio.to_thread.run_sync(answers_pings, station)
        saved = await machine.control.save()
        await trio.to_thread.run_sync(answers_pings, station)
        assert vhost.running == BOTH
        await machine.control.restore(saved)
        await trio.to_thread.run_sync(answers_pings, station)
        assert vhost.running == BOTH
        # Without a link the queues are this process's, which drops what is sent.
        [card] = machine.network.cards
        assert card.wire.endswith(", by vhost-net")
        machine.network.set_link("net 0", up=False)
        while vhost.running:
            await trio.sleep(0.01)
        machine.network.set_link("net 0", up=True)
        await trio.to_thread.run_sync(answers_pings, station)
        assert vhost.running == BOTH
        await machine.control.reset()
        said = b""
        while READY not in said:
            said += await machine.console.receive()
        await trio.to_thread.run_sync(does_it_all, station, 1000)
        assert (await machine.control.wait()).ending.status == 0


@in_trio
async def test_private_memory_is_not_for_it(station: Station, devices: list[VhostNet]) -> None:
    private = PrivateConfig(bundled_guests.firmware())
    made = partial(config, station, "", host=HostChoice.MODEL, private=private)
    async with open_machine(made(vhost=VhostChoice.AUTO)) as machine:
        assert await machine.console.wait_for(READY)
        await trio.to_thread.run_sync(answers_pings, station)
    assert not devices
    with pytest.raises(UsageError, match="net 0 vhost-net: guest memory is private"):
        async with open_machine(made()):
            pass


@in_trio
async def test_where_it_cannot_be_it_is_refused_or_done_without(station: Station) -> None:
    model = config(station, host=HostChoice.MODEL)
    with pytest.raises(UsageError, match=r"it is for guests on KVM; give vhost=off"):
        async with open_machine(model):
            pass
    auto = config(station, host=HostChoice.MODEL, vhost=VhostChoice.AUTO)
    async with open_machine(auto) as machine:
        assert await machine.console.wait_for(READY)


@pytest.mark.kvm
@in_trio
async def test_packed_rings_are_not_for_it(station: Station) -> None:
    with pytest.raises(UsageError, match="its rings are packed"):
        async with open_machine(config(station, rings=(RingFeature.PACKED,))):
            pass
