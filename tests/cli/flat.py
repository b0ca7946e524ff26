# SPDX-License-Identifier: MIT
"""Flat guests, byte by byte: raw code that is entered in real mode at 0:0x7c00."""

from __future__ import annotations

HALT = bytes.fromhex("f4")
RESET_BY_KEYBOARD = bytes.fromhex("b0fe e664 f4")
"""mov al, 0xfe; out 0x64, al; hlt"""
RESET_BY_CF9 = bytes.fromhex("baf90c b006 ee f4")
"""mov dx, 0xcf9; mov al, 6; out dx, al; hlt"""
UNCLAIMED_PORT = bytes.fromhex("ba3412 ec ec b000 e6f4 f4")
"""mov dx, 0x1234; in al, dx; in al, dx; mov al, 0; out 0xf4, al; hlt"""


def exiting(value: int) -> bytes:
    """mov al, `value`; out 0xf4, al; hlt"""
    return bytes((0xB0, value, 0xE6, 0xF4, 0xF4))


def counting(count: int) -> bytes:
    """Write 0, 1, ... 255, 0, ... to the debug console, `count` bytes; end with status 7."""
    return (
        bytes.fromhex("30c0 66b9")  # xor al, al; mov ecx, count
        + count.to_bytes(4, "little")
        + bytes.fromhex("e6e9 fec0 6649 75f8")  # again: out 0xe9, al; inc al; dec ecx; jnz again
        + exiting(7)
    )


def counted(count: int) -> bytes:
    """What `counting` writes."""
    return (bytes(range(256)) * (count // 256 + 1))[:count]


def taking(count: int) -> bytes:
    """Take `count` bytes from the first serial port and say nothing; end with status 7."""
    return (
        bytes.fromhex("66b9")  # mov ecx, count
        + count.to_bytes(4, "little")
        # again: mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait
        + bytes.fromhex("bafd03 ec a801 74fb")
        + bytes.fromhex("baf803 ec 6649 75f0")  # mov dx, 0x3f8; in al, dx; dec ecx; jnz again
        + exiting(7)
    )


ENDLESS = bytes.fromhex("30c0 e6e9 fec0 ebfa")
"""The same without an end: again: out 0xe9, al; inc al; jmp again"""
