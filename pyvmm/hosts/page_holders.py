# SPDX-License-Identifier: MIT
"""Holders of a guest_memfd's page, as far as they can be told, and the texts of /proc that tell.

The kernel counts references on a page and does not keep whose they are. So there is what this
process knows, what a process tells about itself in /proc, and what may be and is called so.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class HoldKind(enum.Enum):
    """Way in which a page is held; the value is for people."""

    LEASE = "has leased it"
    REFERENCE = "has taken a reference on it"
    IO_URING = "has registered it with io_uring"
    PIPE = "may have spliced it into a pipe, which is not empty"
    PINNED = "has pinned memory, which it may be among"
    DEVICE = "may have given it to a device that pins memory"
    MAPPED = "maps it, and may be doing direct I/O"
    UNSEEN = "may hold it, which cannot be told: /proc is not mounted"


@dataclass(frozen=True, slots=True)
class PageHolder:
    """One who holds a page, or may: `who`, as in "process 17 (fio)", and a `detail` of it.

    `is_certain`: it does. Otherwise nothing speaks against it. `pid` is 0 for what is no process.
    """

    kind: HoldKind
    who: str
    is_certain: bool
    pid: int = 0
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.who} {self.kind.value}{detail}"


class NamesHolders(Protocol):
    """A guest_memfd that can say who holds a page of it."""

    def holders(self, offset: int) -> tuple[PageHolder, ...]:
        """Name who holds the page at a file offset in bytes; certain ones first, then who may.

        A look at every process, for messages to people: tens of milliseconds.
        """
        ...


def told(holders: Iterable[PageHolder]) -> str:
    """Say it in a part of a sentence: those that are certain; without any, those that may be."""
    known = tuple(holders)
    certain = [str(one) for one in known if one.is_certain]
    if certain:
        return " and ".join(certain)
    if not known:
        return "no process that can be looked at maps it or has the file open"
    return ", or ".join(str(one) for one in known)


class Mapped(NamedTuple):
    """Addresses [start, end) of a process, at which a file is mapped from `offset` on; bytes."""

    start: int
    end: int
    offset: int

    def address_of(self, offset: int) -> int | None:
        """The address of a file offset; None where that is not in here."""
        address = self.start + offset - self.offset
        return address if self.start <= address < self.end else None


_MAPPED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+)")
_PINNED = re.compile(r"^VmPin:\s*([0-9]+) kB$", re.MULTILINE)
_REGISTERED = re.compile(r"^\s*[0-9]+: 0x([0-9a-f]+)/([0-9]+)$", re.MULTILINE)
PIPE = re.compile(r"pipe:\[([0-9]+)\]")
IO_URING = "anon_inode:[io_uring]"
PINNING_DEVICES = ("/dev/vfio/", "/dev/iommu", "/dev/infiniband/", "/dev/vhost-vdpa")
"""Beginnings of names of devices whose drivers pin what a process gives them."""


def mappings(maps: str, device: tuple[int, int], inode: int) -> Iterator[Mapped]:
    """Yield where the file of `inode` on `device` is mapped, by the text of /proc/PID/maps."""
    for line in maps.splitlines():
        if f" {inode} " not in f"{line} ":
            continue
        found = _MAPPED.match(line)
        if found is not None:
            start, end, offset, major, minor = (int(field, 16) for field in found.groups()[:5])
            if (major, minor) == device and int(found[6]) == inode:
                yield Mapped(start, end, offset)


def pinned_bytes(status: str) -> int:
    """Bytes that a process has pinned, by the text of /proc/PID/status; 0 where it does not say."""
    found = _PINNED.search(status)
    return int(found[1]) << 10 if found else 0


def registered_buffers(fdinfo: str) -> Iterator[tuple[int, int]]:
    """Yield the buffers that an io_uring has registered: (address, bytes).

    By the text of its /proc/PID/fdinfo (``io_uring_show_fdinfo``): a heading ``UserBufs`` and a
    line for each.
    """
    _, heading, rest = fdinfo.partition("UserBufs:")
    if heading:
        listed, _, _ = rest.partition("PollList:")
        for found in _REGISTERED.finditer(listed):
            yield int(found[1], 16), int(found[2])
