# SPDX-License-Identifier: MIT
"""Work in the namespaces of tests: wires of cards, links, and frames that no kernel sends."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from pyvmm.machine.hardware import NetCard, TapNet
from pyvmm.machine.network.opening import open_wire
from pyvmm.net.frames import HEADER_SIZE, WireQueue
from pyvmm.net.links import Link, Links, opened_links
from pyvmm.net.namespaces import within
from pyvmm.net.taps import TapWire

ipv6 = pytest.mark.skipif(
    not os.path.exists("/proc/net/if_inet6"), reason="this host's kernel has no IPv6"
)
OWN = b"\x88\xb5"
"""A local experimental ethertype (IEEE 802)."""
FRAME = bytes(HEADER_SIZE) + b"\xff" * 6 + b"\x02\0\0\0\0\x01" + OWN + bytes(range(50))
"""A broadcast, behind its header."""
Result = TypeVar("Result")


def path(netns: int) -> str:
    """Path of a namespace that is given by its descriptor."""
    return f"/proc/self/fd/{netns}"


def opened(netns: int | str, *, mtu: int | None = None, **asked: Any) -> TapWire:
    """Open the wire of a card in a namespace; it is the caller's to close."""
    where = netns if isinstance(netns, str) else path(netns)
    card = NetCard(TapNet(netns=where, **asked), mtu=mtu)
    with ExitStack() as stack:
        wire = open_wire(card, 0, stack)
        assert isinstance(wire, TapWire)
        stack.pop_all()
        return wire


def with_links(netns: int, work: Callable[[Links], Result]) -> Result:
    """Do something to the links of a namespace."""

    def do() -> Result:
        with opened_links() as links:
            return work(links)

    return within(netns, do)


def links_of(netns: int) -> dict[str, Link]:
    """Links of a namespace, by name."""
    return with_links(netns, lambda links: {link.name: link for link in links.all()})


def next_frame(queue: WireQueue, wanted: bytes = OWN) -> bytes:
    """Wait for a frame of that ethertype, and return it behind its header."""
    room = bytearray(70_000)
    while True:
        select.select([queue], [], [])
        size = queue.receive([memoryview(room)[:11], memoryview(room)[11:]])
        if room[HEADER_SIZE + 12 : HEADER_SIZE + 14] == wanted:
            return bytes(room[:size])
