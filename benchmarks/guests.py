# SPDX-License-Identifier: MIT
"""The guests of the benchmarks: a few bytes of real-mode code each, entered at 0:0x7c00."""

from __future__ import annotations

ENTRY = 0x7C00
"""GPA of the first instruction."""

MEMORY = 256 << 20
"""Bytes of RAM: what ``pyvmm run`` gives by default; the C baselines give the same."""

EXIT_42 = bytes.fromhex("b02a e6f4 f4")
"""mov al, 42; out 0xf4, al; hlt"""

SPIN = bytes.fromhex("ebfe")
"""l: jmp l"""


def write_forever(port: int) -> bytes:
    """xor ax, ax; mov dx, port; l: out dx, al; jmp l"""
    return b"\x31\xc0\xba" + port.to_bytes(2, "little") + b"\xee\xeb\xfd"
