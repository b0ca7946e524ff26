# SPDX-License-Identifier: MIT
"""Taps as wires: frames between descriptors and the stack of the kernel, in a namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.machine.hardware import DescriptorNet
from pyvmm.machine.network.tap_opening import adopt_tap_wire
from pyvmm.net.frames import HEADER_SIZE, NO_OFFLOADS, Offload, WireEndedError
from pyvmm.net.links import Links
from pyvmm.net.marks import RUN, Mark
from pyvmm.net.namespaces import new_namespace, within
from pyvmm.net.taps import open_tap
from tests.net.namespace_work import FRAME, OWN, ipv6, links_of, next_frame, opened, with_links

pytestmark = pytest.mark.net
IPV4 = b"\x08\x00"


def test_a_frame_each_way(netns: int) -> None:
    raw = partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    with opened(netns, address="10.9.0.1/24") as wire, within(netns, raw) as outside:
        outside.bind((wire.name, 0x88B5))
        wire.queues[0].send([memoryview(FRAME)[:5], memoryview(FRAME)[5:]])
        assert outside.recv(100) == FRAME[HEADER_SIZE:]
        outside.send(FRAME[HEADER_SIZE:])
        assert next_frame(wire.queues[0]) == bytes(10) + b"\1\0" + FRAME[HEADER_SIZE:]


def test_guest_memory_that_nothing_came_into_is_let_go_of(netns: int) -> None:
    """An error that was its own cause would keep it, until the collector of garbage comes."""
    with opened(netns) as wire:
        room = memoryview(bytearray(2000))
        with pytest.raises(BlockingIOError) as empty:
            while True:
                wire.queues[0].receive([room])
        assert empty.value.__cause__ is None


def test_what_does_not_fit_is_lost(netns: int) -> None:
    raw = partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    with opened(netns) as wire, within(netns, raw) as outside:
        queue = wire.queues[0]
        outside.bind((wire.name, 0))
        outside.send(FRAME[HEADER_SIZE:])
        room = memoryview(bytearray(30))
        while room[24:26] != OWN:
            select.select([queue], [], [])
            assert queue.receive([room]) == len(room)
        outside.send(FRAME[HEADER_SIZE:][:20])
        assert len(next_frame(queue)) == HEADER_SIZE + 20


def test_frames_come_by_the_queues_that_are_used(netns: int) -> None:
    raw = partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    with opened(netns, queues=3) as wire, within(netns, raw) as outside:
        outside.bind((wire.name, 0))
        for count in (1, 3, 2, 1, 2):
            wire.use_queues(count)
            for peer in range(64):  # Of which the kernel makes a number, and of that a queue.
                addresses = bytes([10, 0, count, peer, 10, 0, 0, 1])
                packet = b"\x45\0\0\x1c" + bytes(4) + b"\x40\x11\0\0" + addresses + bytes(8)
                outside.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + IPV4 + packet)
            found = [0] * 3
            while sum(found) < 64:
                ready, _, _ = select.select(wire.queues[:count], [], [], 60)
                assert ready, "some have come by another queue"
                for queue in ready:
                    got = bytearray(100)
                    queue.receive([memoryview(got)])
                    is_ours = got[24:26] == IPV4 and got[40] == count
                    found[wire.queues.index(queue)] += is_ours
            assert all(found[:count])


def test_two_taps_of_a_bridge_reach_each_other_and_leave_it_as_it_was(netns: int) -> None:
    def make(links: Links) -> None:
        bridge = links.change(links.add_bridge("br0", Mark("t", "br0"), mtu=1400), is_up=True)
        port = links.add_veth("v0", Mark("t", "v0"), peer="v1", peer_namespace=netns)
        links.change(port, bridge=bridge, mtu=1400, mac="f2:00:00:00:00:01", is_up=True)

    with_links(netns, make)
    before = links_of(netns)
    assert before["br0"].mac == "f2:00:00:00:00:01"
    with opened(netns, bridge="br0") as one, opened(netns, bridge="br0", mtu=1300) as other:
        # A bridge forwards to a port once it has seen that it has a carrier.
        while True:
            one.queues[0].send([memoryview(FRAME)])
            if select.select([other.queues[0]], [], [], 0.01)[0]:
                break
        assert next_frame(other.queues[0])[HEADER_SIZE:] == FRAME[HEADER_SIZE:]
        found = links_of(netns)
        assert {found[wire.name].master for wire in (one, other)} == {found["br0"].index}
        assert {found[wire.name].mark for wire in (one, other)} == {Mark(RUN, str(os.getpid()))}
        assert (one.mtu, other.mtu) == (1400, 1400)
        assert found["br0"] == before["br0"]
    assert links_of(netns) == before


@ipv6
def test_nobody_speaks_to_the_guest_unasked(netns: int) -> None:
    for address, is_there in ((None, False), ("10.9.0.1/24", False), ("fd00::1/64", True)):
        with opened(netns, name="mine", address=address):
            told = within(netns, Path("/proc/thread-self/net/if_inet6").read_text)
            assert ("fe80" in told) == is_there


def test_checksums_are_left_undone_where_that_was_asked_for(netns: int) -> None:
    with opened(netns, address="10.9.0.1/24") as wire:
        assert Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6 in wire.offloads
        with within(netns, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for wanted, undone in (
                (NO_OFFLOADS, 0),
                (Offload.CHECKSUM | Offload.USO4, 1),
                (Offload.TSO4, 0),
                (wire.offloads, 1),
            ):
                wire.receive_with(wanted)
                sender.sendto(b"x", ("10.9.0.255", 9))
                assert next_frame(wire.queues[0], IPV4)[0] == undone


def test_a_tap_that_is_down_and_one_that_is_removed(netns: int) -> None:
    with opened(netns) as wire:
        queue = wire.queues[0]
        tap = links_of(netns)[wire.name]
        with_links(netns, lambda links: links.change(tap, is_up=False))
        with pytest.raises(OSError, match="Input/output") as down:
            queue.send([memoryview(FRAME)])
        assert down.value.errno == errno.EIO
        with_links(netns, lambda links: links.remove(tap))
        with pytest.raises(WireEndedError):
            queue.send([memoryview(FRAME)])
        with pytest.raises(WireEndedError):
            queue.receive([memoryview(bytearray(100))])


def test_several_queues_are_descriptors_of_one_tap(netns: int) -> None:
    with opened(netns, name="many", queues=3) as wire:
        assert len({os.stat(fd).st_rdev for fd in wire.descriptors}) == 1
        assert len(set(wire.descriptors)) == 3
        assert not any(map(os.get_inheritable, wire.descriptors))
        assert "many" in links_of(netns)
    assert wire.descriptors == (-1, -1, -1)
    assert "many" not in links_of(netns)
    wire.close()


def test_taps_that_somebody_else_has_opened() -> None:
    elsewhere = new_namespace()
    theirs = within(elsewhere, partial(open_tap, "theirs", 2)).fds
    with adopt_tap_wire(DescriptorNet(theirs), 0) as wire:
        assert wire.mtu is None
        assert len({*wire.descriptors, *theirs}) == 4
        wire.use_queues(1)
    with pytest.raises(OSError, match="Invalid argument"):  # It is attached.
        fcntl.ioctl(theirs[1], 0x4004_54D9, struct.pack("16sH22x", b"", 0x0200))  # TUNSETQUEUE
    assert "theirs" in links_of(elsewhere)
    others = within(elsewhere, partial(open_tap, "others")).fds
    with pytest.raises(UsageError, match="they are of theirs and others"):
        adopt_tap_wire(DescriptorNet((theirs[0], others[0])), 0)
    for fd in theirs + others:
        os.close(fd)
    assert "theirs" not in links_of(elsewhere)
    os.close(elsewhere)


@pytest.mark.parametrize(
    "flags",
    [
        0x1002,  # IFF_TAP, IFF_NO_PI
        0x5001,  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
    ],
    ids=["no header", "tun"],
)
def test_taps_of_others_with_other_frames(netns: int, flags: int) -> None:
    def theirs() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, 0x4004_54CA, struct.pack("16sH22x", b"other", flags))  # TUNSETIFF
        return fd

    fd = within(netns, theirs)
    with pytest.raises(UsageError, match=r"whose frames have no header; give .* IFF_NO_PI"):
        adopt_tap_wire(DescriptorNet((fd,)), 0)
    assert os.get_blocking(fd), "it is left as it is"
    os.close(fd)


def test_descriptors_that_are_no_taps() -> None:
    reading, writing = os.pipe()
    for fds, words in (
        ((reading,), "is no tap's"),
        ((writing, reading), "is no tap's"),
        ((99_999,), "Bad file descriptor"),
        ((), "no descriptors"),
    ):
        with pytest.raises(UsageError, match=words):
            adopt_tap_wire(DescriptorNet(fds), 0)
    os.close(reading)
    os.close(writing)
