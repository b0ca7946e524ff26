# SPDX-License-Identifier: MIT
"""Taps: frames between a descriptor and the kernel's own stack, in a namespace of the test's."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from functools import partial

import pytest

from pyvmm.machine.hardware import NetCard, TapNet
from pyvmm.machine.network.opening import open_wire
from pyvmm.net.frames import HEADER_SIZE
from pyvmm.net.namespaces import within
from pyvmm.net.taps import TapWire

OWN = b"\x88\xb5"
"""A local experimental ethertype (IEEE 802)."""
pytestmark = pytest.mark.net


def opened(stack: ExitStack, netns: int, card: TapNet) -> TapWire:
    wire = open_wire(NetCard(card), 0, stack)
    assert isinstance(wire, TapWire)
    return wire


def path(netns: int) -> str:
    return f"/proc/self/fd/{netns}"


def test_a_frame_each_way(netns: int) -> None:
    with ExitStack() as stack:
        net = TapNet(netns=path(netns), address="10.9.0.1/24")
        wire = opened(stack, netns, net)
        outside = stack.enter_context(
            within(netns, partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0x0300))
        )
        outside.bind((wire.name, 3))
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + OWN + bytes(range(50))
        wire.queues[0].send([memoryview(bytes(HEADER_SIZE)), memoryview(frame)])
        # The kernel's own frames, which it sends when a device is new, are of other types.
        assert (
            next(got for got in iter(partial(outside.recv, 100), b"") if got[12:14] == OWN) == frame
        )
        outside.send(frame)
        while True:
            select.select([wire.queues[0]], [], [])
            got = bytearray(100)
            count = wire.queues[0].receive([memoryview(got)[:11], memoryview(got)[11:]])
            if got[24:26] == OWN:
                break
        assert got[:HEADER_SIZE] == bytes(10) + b"\1\0"
        assert got[HEADER_SIZE:count] == frame


def test_a_run_leaves_nothing(netns: int) -> None:
    with ExitStack() as stack:
        wire = opened(stack, netns, TapNet(netns=path(netns)))
        assert within(netns, socket.if_nameindex)[1:] == [(2, wire.name)]
        assert all(os.get_inheritable(fd) is False for fd in wire.descriptors)
    assert within(netns, socket.if_nameindex) == [(1, "lo")]
