# SPDX-License-Identifier: MIT
"""Posted port accesses of the model's vCPUs: rules, and the ring of what was written."""

from __future__ import annotations

import os
import threading

from pyvmm.errors import UsageError
from pyvmm.hosts.owner import Owner

CAPACITY = 1 << 16
"""Writes that the ring holds."""


class ModelPosts(Owner):
    """One VM's port rules and its ring: `posted_ring.PostedRing`, and `PortPosts` for its vCPUs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_values: dict[int, int] = {}
        self._writes: set[int] = set()
        self._ring: list[tuple[int, int]] = []
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def post_port(self, port: int, *, write: bool, read_value: int | None) -> None:
        """Choose what becomes of single-byte accesses to `port`. Raises `UsageError`."""
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"post port {port:#x}", "ports are 0..0xffff")
        if read_value is not None and not 0 <= read_value <= 0xFF:
            raise UsageError(f"post port {port:#x}", f"a read cannot give {read_value:#x}")
        with self._lock:
            if write:
                self._writes.add(port)
            else:
                self._writes.discard(port)
            if read_value is None:
                self._read_values.pop(port, None)
            else:
                self._read_values[port] = read_value

    def fileno(self) -> int:
        """An eventfd, readable when there is something to drain; -1 once closed."""
        return self._eventfd

    def drain(self) -> list[tuple[int, bytes]]:
        """Take everything: (port, bytes written to it), adjacent writes to a port joined."""
        with self._lock:
            ring, self._ring = self._ring, []
            if ring and self._eventfd >= 0:
                os.eventfd_read(self._eventfd)
        result: list[tuple[int, bytes]] = []
        start = 0
        for index in range(1, len(ring) + 1):
            if index == len(ring) or ring[index][0] != ring[start][0]:
                result.append((ring[start][0], bytes(value for _, value in ring[start:index])))
                start = index
        return result

    # -- for vCPUs --

    def read_value(self, port: int) -> int | None:
        """The byte that a read gives without an exit; None: an exit."""
        return self._read_values.get(port)

    def takes_writes(self, port: int) -> bool:
        """Tell whether a single-byte write is posted."""
        return port in self._writes

    def push(self, vcpu: int, port: int, value: int) -> bool:
        """Append a byte; False: the ring is full."""
        del vcpu  # One ring for all: they never run at the same time.
        with self._lock:
            if len(self._ring) >= CAPACITY:
                return False
            self._ring.append((port, value))
            if len(self._ring) == 1 and self._eventfd >= 0:
                os.eventfd_write(self._eventfd, 1)
            return True

    def close(self) -> None:
        """Close the eventfd; a second call does nothing."""
        with self._lock:
            fd, self._eventfd = self._eventfd, -1
        if fd >= 0:
            os.close(fd)
