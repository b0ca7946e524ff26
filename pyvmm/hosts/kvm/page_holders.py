# SPDX-License-Identifier: MIT
"""Search of /proc for who holds a page of a guest_memfd.

What one may not look at (another user's processes) is left out, and so is what ends meanwhile.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import termios
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.page_holders import (
    IO_URING,
    PINNING_DEVICES,
    PIPE,
    HoldKind,
    Mapped,
    PageHolder,
    mappings,
    pinned_bytes,
    registered_buffers,
)
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.in_place import HeldPage

_PIDFD_GETFD = 438
_PROC = Path("/proc")
_GUEST_MEMFD = "anon_inode:[kvm-gmem]"


def holders_of_page(
    file: FdOwner, offset: int, known: Sequence[HeldPage] = ()
) -> tuple[PageHolder, ...]:
    """Name who has, or may have, a reference on the page at `offset`, bytes, of the file.

    Certain ones first. Nobody where the file is closed; without /proc it says that it cannot tell,
    by a holder of the kind `HoldKind.UNSEEN`, whose pid is 0. `known` are references that this
    process has taken by `GuestMemfd.hold_page`, on any page.
    """
    if file.fd < 0:
        return ()
    status = os.fstat(file.fd)
    found: list[PageHolder] = []
    wanted = _Wanted(
        (os.major(status.st_dev), os.minor(status.st_dev)),
        status.st_ino,
        offset // PAGE_SIZE * PAGE_SIZE,
        frozenset(end for one in known for end in one.ends),
    )
    for one in known:
        if one.ends and one.offset == wanted.offset:
            pid = os.getpid()
            own = PageHolder(HoldKind.REFERENCE, _this_process(pid), True, pid, "hold_page")
            found.append(own)
    folders = [*_processes()]
    if not folders:
        found.append(PageHolder(HoldKind.UNSEEN, "any process", is_certain=False))
    for folder in folders:
        with suppress(OSError):  # It has ended, or is not ours to look at.
            found += _Process(folder).holders(wanted)
    order = [*HoldKind]
    return tuple(sorted(found, key=lambda one: (not one.is_certain, order.index(one.kind))))


def _processes() -> Iterator[Path]:
    """Folders of processes, this one's among them; none where /proc is not mounted."""
    with suppress(FileNotFoundError):
        for entry in _PROC.iterdir():
            if entry.name.isdecimal():
                yield entry


def _this_process(pid: int) -> str:
    return f"this process ({pid})"


class _Wanted(NamedTuple):
    """The page: of the file of `inode` on `device`, at `offset` in bytes.

    `own_pipes` are descriptors of this process that are known to hold this page or another.
    """

    device: tuple[int, int]
    inode: int
    offset: int
    own_pipes: frozenset[int]


class _Process:
    """A process, by its folder in /proc."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pid = int(folder.name)
        self._is_this = self.pid == os.getpid()

    def _text(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8", errors="replace")

    def holder(self, kind: HoldKind, *, is_certain: bool = False, detail: str = "") -> PageHolder:
        """Say that it holds the page, or may."""
        who = f"process {self.pid} ({self._text('comm').strip()})"
        if self._is_this:
            who = _this_process(self.pid)
        return PageHolder(kind, who, is_certain, self.pid, detail)

    def holders(self, wanted: _Wanted) -> Iterator[PageHolder]:
        """Yield the ways in which it holds the page, or may. Raises `OSError`."""
        mapped = [
            one
            for one in mappings(self._text("maps"), wanted.device, wanted.inode)
            if one.address_of(wanted.offset) is not None
        ]
        descriptors = [*self._descriptors()]
        has_file = any(link == _GUEST_MEMFD and self._is_file(n, wanted) for n, link in descriptors)
        if not mapped and not has_file:
            return
        found = [*self._by_descriptors(descriptors, mapped, wanted)]
        pinned = pinned_bytes(self._text("status"))
        if pinned and not any(one.is_certain for one in found):
            found.append(self.holder(HoldKind.PINNED, detail=f"VmPin {pinned >> 10} KiB"))
        if mapped and not found:
            found.append(self.holder(HoldKind.MAPPED))
        yield from found

    def _is_file(self, number: int, wanted: _Wanted) -> bool:
        inode = f"\nino:\t{wanted.inode}\n"
        return inode in self._text(f"fdinfo/{number}")

    def _by_descriptors(
        self, descriptors: Sequence[tuple[int, str]], mapped: list[Mapped], wanted: _Wanted
    ) -> Iterator[PageHolder]:
        pipes: set[str] = set()
        for number, target in descriptors:
            pipe = PIPE.fullmatch(target)
            if pipe and pipe[1] not in pipes and not (self._is_this and number in wanted.own_pipes):
                pipes.add(pipe[1])
                if self._bytes_in_pipe(number):
                    yield self.holder(HoldKind.PIPE, detail=f"fd {number}")
            elif target == IO_URING:
                fdinfo = self._text(f"fdinfo/{number}")
                if any(_covers(one, mapped, wanted.offset) for one in registered_buffers(fdinfo)):
                    yield self.holder(HoldKind.IO_URING, is_certain=True, detail=f"fd {number}")
            elif mapped and target.startswith(PINNING_DEVICES):
                yield self.holder(HoldKind.DEVICE, detail=target)

    def _descriptors(self) -> Iterator[tuple[int, str]]:
        for entry in (self._folder / "fd").iterdir():
            with suppress(OSError):  # Closed meanwhile.
                yield int(entry.name), str(entry.readlink())

    def _bytes_in_pipe(self, number: int) -> int:
        """Ask the pipe by a descriptor of its own end: opening it would make one end more."""
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            return 0
        try:
            taken: int = ctypes.CDLL(None, use_errno=True).syscall(
                *(ctypes.c_long(one) for one in (_PIDFD_GETFD, process, number, 0))
            )
        finally:
            os.close(process)
        if taken < 0:
            return 0
        count = array.array("i", [0])
        try:
            fcntl.ioctl(taken, termios.FIONREAD, count)
        except OSError:
            return 0
        finally:
            os.close(taken)
        return count[0]


def _covers(buffer: tuple[int, int], mapped: list[Mapped], offset: int) -> bool:
    """Tell whether a buffer, (address, bytes), has a byte of the page at `offset`."""
    address, size = buffer
    pages = (at for one in mapped if (at := one.address_of(offset)) is not None)
    return any(address < page + PAGE_SIZE and page < address + size for page in pages)
