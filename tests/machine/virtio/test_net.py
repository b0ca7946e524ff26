# SPDX-License-Identifier: MIT
"""A network card between a driver and a wire."""

from __future__ import annotations

import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pyvmm.errors import UsageError
from pyvmm.machine.hardware import DescriptorNet, NetCard
from pyvmm.machine.virtio.net import OWN_MAC, net_device
from tests.machine.in_trio import in_trio

from .card_driver import FRAME, MAC, PEER, RX, TX, Card
from .socket_wire import HEADER, SocketWire

each_ring = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
NONE = DescriptorNet(())


async def received(wire: SocketWire) -> bytes:
    """The next frame that the card has sent, header first."""
    peer = wire.peers[0]
    await trio.lowlevel.wait_readable(peer)
    return peer.recv(1 << 17)


@each_ring
@in_trio
async def test_frames_go_both_ways(packed: bool) -> None:
    with SocketWire() as wire:
        card = Card(wire, packed=packed)
        async with card.serving():
            card.start()
            for number in range(40):
                frame = FRAME + bytes([number])
                room = card.room(12, 1514) if number % 2 else card.room(7, 1000, 1000)
                token = card.add(RX, room)
                wire.peers[0].send(HEADER + frame)
                [(back, written)] = await card.used(RX)
                assert (back, written) == (token, 12 + len(frame))
                assert card.content(room)[:written] == HEADER + frame
                token = card.send(frame)
                assert await card.used(TX) == [(token, 0)]
                assert await received(wire) == HEADER + frame


@in_trio
async def test_frames_wait_in_the_wire_until_there_are_buffers() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        async with card.serving():
            frames = [FRAME + bytes([number]) for number in range(20)]
            for frame in frames:
                wire.peers[0].send(HEADER + frame)
            await wait_all_tasks_blocked()
            card.start()
            for frame in frames:
                room = card.room(1600)
                card.add(RX, room)
                [(_, written)] = await card.used(RX)
                assert card.content(room)[12:written] == frame


@in_trio
async def test_what_has_no_room_in_the_wire_waits_for_it() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        frame = bytes(60_000)
        sent = 0
        async with card.serving():
            card.start()
            elements = card.data(HEADER, frame)
            while card.handler.is_ready(TX):
                card.add(TX, elements)
                sent += 1
                await wait_all_tasks_blocked()
                card.drivers[TX].collect()
            assert sent > 2
            for _ in range(sent):
                assert len(await received(wire)) == 12 + len(frame)
            await card.used(TX)
            assert card.handler.is_ready(TX)


@in_trio
async def test_a_wire_that_ends_takes_the_link_down() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        async with card.serving():
            card.start()
            assert card.core.read_config(6, 2) == 1
            card.add(RX, card.room(1600))
            wire.peers[0].close()
            while None not in card.interrupts:
                await wait_all_tasks_blocked()
            assert card.core.read_config(6, 2) == 0
            token = card.send(FRAME)
            assert await card.used(TX) == [(token, 0)], "it is taken, and lost"
            card.handler.set_link(up=True)
            assert card.core.read_config(6, 2) == 0, "and stays down"


@in_trio
async def test_no_frame_goes_while_the_link_is_down() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        async with card.serving():
            card.start()
            card.handler.set_link(up=False)
            assert card.interrupts == [None]
            room = card.room(1600)
            card.add(RX, room)
            wire.peers[0].send(HEADER + FRAME)
            token = card.send(FRAME)
            assert await card.used(TX) == [(token, 0)]
            await wait_all_tasks_blocked()
            assert card.drivers[RX].collect() == []
            with pytest.raises(BlockingIOError):
                wire.peers[0].recv(1, 0x40)  # MSG_DONTWAIT
            card.handler.set_link(up=True)
            wire.peers[0].send(HEADER + FRAME[::-1])
            await card.used(RX)
            assert card.content(room)[12 : 12 + len(FRAME)] == FRAME[::-1], "the other one is lost"
            assert card.handler.pairs[0].dropped_incoming == 1
            assert card.core.read_config(6, 2) == 1


def test_the_configuration_has_address_and_mtu() -> None:
    with SocketWire(mtu=1400) as wire:
        model = net_device(NetCard(NONE, mac=MAC), wire, 0).model
        assert model.config() == MAC + struct.pack("<HHH", 1, 1, 1400)
        assert net_device(NetCard(NONE), wire, 3).model.config()[:6] == OWN_MAC + b"\3"
        model = net_device(NetCard(NONE, mtu=1300), wire, 0).model
        assert model.config()[10:] == struct.pack("<H", 1300)


@pytest.mark.parametrize(
    "mac",
    [bytes(6), b"\xff" * 6, b"\1" + PEER[1:], PEER[1:], PEER * 2],
    ids=["zeroes", "broadcast", "multicast", "short", "long"],
)
def test_addresses_that_no_card_has(mac: bytes) -> None:
    with SocketWire() as wire, pytest.raises(UsageError, match="no address of one card"):
        net_device(NetCard(NONE, mac=mac), wire, 0)


@pytest.mark.parametrize("mtu", [0, 67, 1501, 65536])
def test_packet_sizes_that_cannot_be(mtu: int) -> None:
    with SocketWire(mtu=1500) as wire, pytest.raises(UsageError, match="MTU"):
        net_device(NetCard(NONE, mtu=mtu), wire, 0)
