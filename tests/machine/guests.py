# SPDX-License-Identifier: MIT
"""Guests for the tests of the machine: tiny flat images, and the bundled ones."""

from __future__ import annotations

from pyvmm import bundled_guests

EXIT_42 = bytes.fromhex("b02a e6f4 f4")
"""mov al, 42; out 0xf4, al; hlt"""
SPIN = bytes.fromhex("ebfe")
"""jmp ."""
HALT = bytes.fromhex("f4")
PRINT_AND_SPIN = bytes.fromhex("b04f e6e9 b04b e6e9 ebfe")
"""'O', 'K' to the debug console, then jmp ."""
COUNT = bytes.fromhex("31db 43 ebfd")
"""xor bx, bx; loop: inc bx; jmp loop"""


def bundled(name: str) -> bytes:
    guest = bundled_guests.find(name)
    assert guest is not None, f"{name} is not built: make guests"
    return guest.path.read_bytes()
