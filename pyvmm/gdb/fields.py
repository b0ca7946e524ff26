# SPDX-License-Identifier: MIT
"""Fields of requests of GDB's remote protocol: numbers, threads, places. Pure.

Every function raises `MalformedError`, or `ValueError`, for what does not follow the protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from pyvmm.gdb.registers import REGISTERS, Register

_DIGITS = b"0123456789abcdefABCDEF"


class MalformedError(Exception):
    """A request that does not follow the protocol."""


class Kind(enum.IntEnum):
    """Kinds of breakpoint, by the digit in Z packets."""

    SOFTWARE = 0
    HARDWARE = 1


def number(digits: bytes) -> int:
    """A hexadecimal number, as packets have them: no sign, no prefix, at most 64 bits."""
    if not 1 <= len(digits) <= 16 or digits.translate(None, _DIGITS):
        raise MalformedError
    return int(digits, 16)


def memory_range(text: bytes) -> tuple[int, int]:
    """An address and a number of bytes."""
    address, comma, size = text.partition(b",")
    if not comma:
        raise MalformedError
    return number(address), number(size)


def thread_id(text: bytes) -> int | None:
    """A thread's number; None: any, or all of them."""
    if text.startswith(b"p"):
        text = text.partition(b".")[2]
    if text in (b"-1", b"0", b""):
        return None
    return number(text)


def action(text: bytes) -> tuple[bytes, int | None]:
    """An action of vCont and its thread; signals are dropped, a guest has none."""
    what, colon, thread = text.partition(b":")
    if what[:1] in (b"C", b"S"):
        number(what[1:])
        what = what[:1].lower()
    if what not in (b"c", b"s"):
        raise MalformedError
    return what, thread_id(thread) if colon else None


def after_signal(rest: bytes) -> bytes:
    """An address behind a signal, which a guest cannot be sent; empty where there is none."""
    signal, _, address = rest.partition(b";")
    number(signal)
    return address


def register_number(digits: bytes) -> Register:
    """The register of a number."""
    index = number(digits)
    if index >= len(REGISTERS):
        raise MalformedError
    return REGISTERS[index]


def each_register(digits: bytes) -> Iterator[tuple[Register, bytes]]:
    """Cut the contents of ``G``: each register with its digits."""
    at = 0
    for register in REGISTERS:
        yield register, digits[at : at + 2 * register.size]
        at += 2 * register.size


def breakpoint_place(rest: bytes) -> tuple[Kind | None, int]:
    """The kind, None for watchpoints, and the address."""
    kind, address, length = rest.split(b";")[0].split(b",")
    number(length)
    which = number(kind)
    return (Kind(which) if which in tuple(Kind) else None), number(address)
