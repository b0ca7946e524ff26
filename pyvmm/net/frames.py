# SPDX-License-Identifier: MIT
"""Wires: where a network card's frames go to and come from, whatever is at the other end. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Protocol

HEADER_SIZE: Final = 12
"""Bytes of the header before each frame (virtio 1.2, 5.1.6: ``virtio_net_hdr`` with
``num_buffers``, which a wire sends as 1 and does not look at)."""
MOST_FRAME: Final = 65_550
"""Bytes of the longest frame without its header: 64 KiB of IP packet behind an Ethernet header."""


class Offload(enum.IntFlag):
    """Work on frames that is left to the other side; the bits are those of TUNSETOFFLOAD."""

    CHECKSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    UFO = 0x10
    USO4 = 0x20
    USO6 = 0x40


NO_OFFLOADS: Final = Offload(0)


class WireEndedError(Exception):
    """The other end of a wire has gone, and does not come back."""


class WireQueue(Protocol):
    """One of a wire's queues. Nothing here blocks; every frame is preceded by its header."""

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something, and writable when `send`
        has room."""
        ...

    def receive(self, views: Sequence[memoryview]) -> int:
        """Put the next frame, header first, into `views`. Return its bytes, header included.

        What does not fit is lost, and the number returned then is what was written. Raises
        `BlockingIOError` where there is none now, `WireEndedError`, and `OSError`.
        """
        ...

    def send(self, views: Sequence[memoryview]) -> None:
        """Send the frame in `views`, header first: all of it, or nothing.

        Raises `BlockingIOError` where there is no room now, `WireEndedError`, and `OSError` for a
        frame that the other side refuses.
        """
        ...


class Wire(Protocol):
    """The way of a card's frames. Its owner closes it, not the card."""

    @property
    def queues(self) -> Sequence[WireQueue]:
        """Its queues, one for each pair of the card's."""
        ...

    @property
    def offloads(self) -> Offload:
        """Offloads that it can do on frames sent, and can be asked for on those that come."""
        ...

    @property
    def mtu(self) -> int | None:
        """Bytes of the longest packet that it takes; None: it does not say."""
        ...

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors of taps, by queue, that may be read and written by somebody else instead (an
        engine in C, vhost-net); empty where frames have to go through `receive` and `send`."""
        ...

    def receive_with(self, wanted: Offload) -> None:
        """Have frames that come need no more than these offloads. Raises `OSError`."""
        ...

    def use_queues(self, count: int) -> None:
        """Have frames come by the first `count` queues alone: all, unless this was called.

        The others are not to be sent by. Raises `OSError`.
        """
        ...
