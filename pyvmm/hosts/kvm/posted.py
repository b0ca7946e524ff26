# SPDX-License-Identifier: MIT
"""Posted port accesses: single-byte ones that run.c answers without leaving for Python."""

from __future__ import annotations

import os

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.kvm.binding import CData, ffi, lib, new
from pyvmm.hosts.owner import Owner

_DRAIN_ROOM = 4096


class PostedRing(Owner):
    """One VM's posted port writes, in the order in which each vCPU made them."""

    def __init__(self, capacity: int | None = None) -> None:
        """`capacity` in writes, a power of two up to 65536, which is the default.

        Raises `SystemCallError`.
        """
        posted = lib.pyvmm_posted_new(
            int(lib.PYVMM_POSTED_CAPACITY) if capacity is None else capacity
        )
        if posted == ffi.NULL:
            number = int(ffi.errno)
            raise SystemCallError("make a ring of posted writes", number, os.strerror(number))
        self.raw: CData = ffi.gc(posted, lib.pyvmm_posted_free)
        self._room = new("struct pyvmm_posted_write[]", _DRAIN_ROOM)

    def fileno(self) -> int:
        """An eventfd, readable when there is something to drain; -1 once closed."""
        return int(lib.pyvmm_posted_eventfd(self.raw))

    def post_port(self, port: int, *, write: bool, read_value: int | None) -> None:
        """Choose what run.c does with single-byte accesses to `port`, on every vCPU of the VM.

        `write`: a write is appended to the ring. `read_value`: a read gives this byte; None ends
        `Vcpu.run` as usual. Takes effect on running vCPUs as well. Raises `UsageError`.
        """
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"post port {port:#x}", "ports are 0..0xffff")
        rule = int(lib.PYVMM_POST_WRITE) if write else 0
        if read_value is not None:
            if not 0 <= read_value <= 0xFF:
                raise UsageError(f"post port {port:#x}", f"a read cannot give {read_value:#x}")
            rule |= int(lib.PYVMM_POST_READ) | read_value
        lib.pyvmm_posted_set_rule(self.raw, port, rule)

    def drain(self) -> list[tuple[int, bytes]]:
        """Take everything: (port, bytes written to it), adjacent writes to a port joined.

        Also after `close`, so that nothing is lost. One thread at a time.
        """
        result: list[tuple[int, bytes]] = []
        port = -1
        data = bytearray()
        rows = self._room
        while True:
            count = lib.pyvmm_posted_drain(self.raw, rows, _DRAIN_ROOM)
            for i in range(count):
                row = rows[i]
                if row.port != port:
                    if data:
                        result.append((port, bytes(data)))
                        data.clear()
                    port = row.port
                data.append(row.value)
            if count < _DRAIN_ROOM:
                break
        if data:
            result.append((port, bytes(data)))
        return result

    def close(self) -> None:
        """Close the eventfd; a second call does nothing."""
        lib.pyvmm_posted_close(self.raw)
