# SPDX-License-Identifier: MIT
"""Waiting until something can be read, whatever its descriptor's number."""

from __future__ import annotations

import select
from pathlib import Path
from typing import Protocol

HANG = 240.0
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


_LISTENS = "00010000"


def is_listened_on(path: Path) -> bool:
    """Whether a connection to this socket would be taken: it has a name a moment earlier."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    # Num RefCount Protocol Flags Type St Inode Path (net/unix/af_unix.c, unix_seq_show)
    fields = (line.split(maxsplit=7) for line in lines)
    return any(field[3] == _LISTENS and field[7:] == [str(path)] for field in fields)
