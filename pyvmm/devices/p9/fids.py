# SPDX-License-Identifier: MIT
"""Fids: the numbers by which a client of 9P names files."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.devices.p9.file_server import Entry, Handle, OpenFile


class FidState(NamedTuple):
    """A fid as it is saved: the names from the root, and the flags it was opened with."""

    fid: int
    path: tuple[bytes, ...]
    flags: int | None


class Fid:
    """Something that the guest has a number for."""

    def __init__(self, handle: Handle | None) -> None:
        self._handle = handle
        self.file: OpenFile | None = None
        self.flags = 0
        self._entries: Iterator[Entry] = iter(())
        self._position = -1
        self._next: Entry | None = None

    @property
    def handle(self) -> Handle:
        """Handle that it stands for. Raises `OSError` where restoring did not find it again."""
        if self._handle is None:
            raise OSError(errno.ESTALE, "not found again")
        return self._handle

    @property
    def opened(self) -> OpenFile:
        """The open file. Raises `OSError` where it is not open."""
        if self.file is None:
            raise OSError(errno.EBADF, "not open")
        return self.file

    def begin(self, handle: Handle, file: OpenFile, flags: int) -> None:
        """Be the open `file`."""
        if handle is not self._handle:
            self.handle.close()
            self._handle = handle
        self.file, self.flags = file, flags

    def entry(self, position: int) -> Entry | None:
        """The directory's entry at `position`, from 0 on; None behind the last one.

        Raises `OSError`, and begins anew the next time.
        """
        try:
            return self._entry(position)
        except OSError:
            self._position = -1
            raise

    def _entry(self, position: int) -> Entry | None:
        if position < self._position or self._position < 0:
            self._entries = self.opened.entries()
            self._position, self._next = 0, next(self._entries, None)
        while self._position < position and self._next is not None:
            self._position, self._next = self._position + 1, next(self._entries, None)
        return self._next

    def close(self) -> None:
        """Let go of it."""
        if self.file is not None:
            self.file.close()
        if self._handle is not None:
            self._handle.close()

    def state(self, number: int) -> FidState | None:
        """Its state, under its `number`; None of what cannot be found again."""
        path = None if self._handle is None else self._handle.path()
        if path is None:
            return None
        return FidState(number, path, None if self.file is None else self.flags)


def is_name(name: bytes) -> bool:
    """Tell whether `name` can be one of a directory's entry: not a path, nor itself or above."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
