# SPDX-License-Identifier: MIT
"""Packets of GDB's remote protocol: bytes of a connection to packets, and back. Pure.

Source: GDB's manual, "Overview", "Packet Acknowledgment", "Interrupts"
(https://sourceware.org/gdb/current/onlinedocs/gdb.html/Overview.html).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

LONGEST: Final = 0x4000
"""Bytes that the contents of a packet may have, escaped: ``PacketSize``."""

_START, _END, _ESCAPE = b"$#}"
_ESCAPED: Final = frozenset(b"$#}*")
_XOR: Final = 0x20


class BrokenPacketError(Exception):
    """The other side sends no packet, or one too long."""


class Signal(enum.Enum):
    """Something that a connection carries beside packets."""

    INTERRUPT = "interrupt"
    """Ctrl-C: stop the guest."""
    ACKNOWLEDGED = "acknowledged"
    RESEND = "resend"
    """The last packet came damaged."""
    DAMAGED = "damaged"
    """A packet whose checksum is wrong has come: ask for it again."""


class PacketReader:
    """The part of a connection that has come and is no whole packet yet."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Signal]:
        """Take what has come; yield contents of packets, unescaped, and signals, in order.

        Raises `BrokenPacketError`.
        """
        self._received += data
        received = self._received
        at = 0
        try:
            while at < len(received):
                if received[at] != _START:
                    yield _signal(received[at])
                    at += 1
                    continue
                end = received.find(_END, at, at + LONGEST + 2)
                if end < 0:
                    if len(received) - at > LONGEST + 1:
                        raise BrokenPacketError(f"a packet is longer than {LONGEST} bytes")
                    return
                if end + 3 > len(received):
                    return
                contents = bytes(received[at + 1 : end])
                checksum = bytes(received[end + 1 : end + 3])
                at = end + 3
                yield _unescaped(contents) if _is_sum(checksum, contents) else Signal.DAMAGED
        finally:
            del received[:at]


def _signal(byte: int) -> Signal:
    match byte:
        case 0x03:
            return Signal.INTERRUPT
        case 0x2B:
            return Signal.ACKNOWLEDGED
        case 0x2D:
            return Signal.RESEND
    raise BrokenPacketError(f"byte {byte:#04x} is between two packets")


def _is_sum(digits: bytes, contents: bytes) -> bool:
    return digits.lower() == b"%02x" % (sum(contents) & 0xFF)


def _unescaped(contents: bytes) -> bytes:
    if _ESCAPE not in contents:
        return contents
    plain = bytearray()
    escaped = False
    for byte in contents:
        if escaped:
            plain.append(byte ^ _XOR)
            escaped = False
        elif byte == _ESCAPE:
            escaped = True
        else:
            plain.append(byte)
    if escaped:
        raise BrokenPacketError("a packet ends in the middle of an escaped byte")
    return bytes(plain)


def packet(contents: bytes) -> bytes:
    """`contents` as it goes over the wire."""
    escaped = bytearray()
    for byte in contents:
        if byte in _ESCAPED:
            escaped += bytes((_ESCAPE, byte ^ _XOR))
        else:
            escaped.append(byte)
    return b"$%b#%02x" % (bytes(escaped), sum(escaped) & 0xFF)


def escaped_prefix(data: bytes, room: int) -> bytes:
    """As much from the start of `data` as has at most `room` bytes once it is escaped."""
    for count, byte in enumerate(data):
        room -= 2 if byte in _ESCAPED else 1
        if room < 0:
            return data[:count]
    return data
