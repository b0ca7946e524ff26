# SPDX-License-Identifier: MIT
"""Search of files, and of all memory of this process, for what a guest has written."""

from __future__ import annotations

import array
import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from pyvmm.demo.stage.mailbox import pattern_at
from pyvmm.rules.abi import PAGE_SIZE

Told: TypeAlias = Callable[[int, int, int], None]

_CHUNK = 4 << 20
_WORD = 8


@dataclass(frozen=True)
class _Part:
    """Readable memory of this process."""

    start: int
    end: int
    line: str

    def without(self, start: int, end: int) -> Iterator[_Part]:
        """Yield the parts of it that are not in [start, end)."""
        if self.start < (last := min(self.end, start)):
            yield _Part(self.start, last, self.line)
        if (first := max(self.start, end)) < self.end:
            yield _Part(first, self.end, self.line)


def _parts() -> Iterator[_Part]:
    """All of it that can hold anything, and of that only what is there: reading takes no memory.

    What a guest has written need not be in our page tables, so that its files are asked instead.
    """
    files = _memfds()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, offset, device, inode = line.split()[:5]
        start, end = (int(text, 16) for text in span.split("-"))
        if not permissions.startswith("r"):
            continue
        if "memfd:" not in line:
            parts: Iterable[tuple[int, int]] = _present(start, end)
        elif (fd := files.get((device, int(inode)))) is not None:
            parts = _written(fd, start, end, int(offset, 16))
        else:
            parts = [(start, end)]
        for first, last in parts:
            yield _Part(first, last, line)


def _memfds() -> dict[tuple[str, int], int]:
    """The descriptors of files, by device and inode as /proc/self/maps has them."""
    found = {}
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            status = os.fstat(int(one.name))
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            found[device, status.st_ino] = int(one.name)
    return found


def _written(fd: int, start: int, end: int, offset: int) -> Iterator[tuple[int, int]]:
    """The parts of a mapping of a file from `offset` on that the file has data for."""
    last = offset + end - start
    try:
        # A descriptor of its own: the other's position is somebody else's.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield start, end
        return
    try:
        at = offset
        while at < last:
            try:
                data = os.lseek(own, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # No data from there on.
            if data >= last:
                return
            at = min(last, os.lseek(own, data, os.SEEK_HOLE))
            yield start + data - offset, start + at - offset
    finally:
        os.close(own)


def _present(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The pages of [start, end) that are in memory or swapped out (pagemap.rst), as ranges."""
    entries = array.array("Q")
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries.frombytes(os.pread(fd, (end - start) // PAGE_SIZE * 8, start // PAGE_SIZE * 8))
    finally:
        os.close(fd)
    pages = range(start, end, PAGE_SIZE)
    for there, group in groupby(zip(pages, entries, strict=False), lambda pair: pair[1] >> 62 != 0):
        if there:
            found = [page for page, _entry in group]
            yield found[0], found[-1] + PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Found:
    """A word that was found: its address here, and the line of /proc/self/maps."""

    address: int
    line: str

    def __str__(self) -> str:
        return f"{self.address:#x} in {self.line}"


@dataclass(frozen=True)
class Searcher:
    """Looks for the words of a pattern (guest/include/pattern.h) from `gpa` on.

    None of them is ever put together in this process, where the search would find it: a word is
    looked for by its upper half, and the lower half compared as a number.
    """

    gpa: int
    seed: int
    words: tuple[int, ...]
    """Their offsets in bytes."""

    def in_bytes(self, data: bytes | bytearray, end: int | None = None) -> list[int]:
        """The offsets in `data`, up to `end`, where one of the words is."""
        found = []
        for offset in self.words:
            word = pattern_at(self.gpa + offset, self.seed)
            upper = (word >> 32).to_bytes(4, "little")
            at = data.find(upper, 4, end)
            while at >= 0:
                if int.from_bytes(data[at - 4 : at], "little") == word & 0xFFFF_FFFF:
                    found.append(at - 4)
                at = data.find(upper, at + 1, end)
        return sorted(found)

    def in_file(self, fd: int) -> list[int]:
        """The offsets in a file where one of the words is. Raises `OSError`."""
        buffer = bytearray(_CHUNK)
        found: set[int] = set()
        at, read = 0, _CHUNK
        while read == _CHUNK:
            read = os.preadv(fd, [buffer], at)
            found.update(at + offset for offset in self.in_bytes(buffer, read))
            at += _CHUNK - _WORD  # Two chunks overlap, for a word that is in both.
        return sorted(found)

    def in_process(self, told: Told = lambda *_: None) -> list[Found]:
        """The places in all of this process's readable memory where one of the words is.

        `told` is called with each read of /proc/self/mem: address, size, bytes read.
        """
        buffer = bytearray(_CHUNK)
        own = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        found = []
        fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The buffer holds what was read before.
            parts = [piece for part in _parts() for piece in part.without(own, own + _CHUNK)]
            for part in parts:
                # Two chunks overlap, for a word that is in both.
                for at in range(part.start, part.end, _CHUNK - _WORD):
                    size = min(_CHUNK, part.end - at)
                    read = 0
                    with suppress(OSError):  # What cannot be read, nobody reads.
                        read = os.preadv(fd, [memoryview(buffer)[:size]], at)
                    told(at, size, read)
                    offsets = self.in_bytes(buffer, read)
                    found += [Found(at + offset, part.line) for offset in offsets]
        finally:
            os.close(fd)
        return found
