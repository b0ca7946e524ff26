# SPDX-License-Identifier: MIT
"""A flat guest that prints a text on the serial port, byte by byte, and ends with a status."""

from __future__ import annotations

_PRINT = bytes.fromhex("e80000 5e 83c6")  # call next; next: pop si; add si, (to the text)
_LOOP = bytes.fromhex("baf803 ac 84c0 7403 ee ebf8")
"""mov dx, 0x3f8; again: lodsb; test al, al; jz done; out dx, al; jmp again; done:"""


def printing(text: str, status: int = 0) -> bytes:
    """The guest; without an end, where `status` is -1. The text has no zero byte."""
    end = bytes.fromhex("ebfe") if status < 0 else bytes((0xB0, status, 0xE6, 0xF4, 0xF4))
    to_text = len(_PRINT) + 1 + len(_LOOP) + len(end) - 3
    return _PRINT + bytes((to_text,)) + _LOOP + end + text.encode() + b"\0"
