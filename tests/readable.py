"""Waiting until something can be read, whatever its descriptor's number."""

from __future__ import annotations

import select
from typing import Protocol

HANG = 60.0
"""Seconds after which what should have come is not coming."""


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def is_readable(what: HasFileno | int, seconds: float = 0) -> bool:
    """Whether a read would not wait, looked at for `seconds`; select() ends at descriptor 1023."""
    poll = select.poll()
    poll.register(what, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def wait_readable(what: HasFileno | int) -> None:
    assert is_readable(what, HANG), f"nothing came in {HANG:g} s"
