# SPDX-License-Identifier: MIT
"""Protocol of the ring of port writes that vCPUs post instead of leaving for the monitor."""

from __future__ import annotations

from typing import Protocol

from pyvmm.hosts.owner import Owned


class PostedRing(Owned, Protocol):
    """Port writes that vCPUs' fast paths took without leaving for Python, in order per vCPU."""

    def post_port(self, port: int, *, write: bool, read_value: int | None) -> None:
        """Let the VM's vCPUs' fast paths answer single-byte accesses to `port`. Any thread.

        `write`: a write is appended to the ring instead of ending `run`. `read_value`:
        a read gives this byte; None ends `run` as usual. Both off: the port is ordinary again.
        """
        ...

    def fileno(self) -> int:
        """An eventfd that is readable when there is something to drain."""
        ...

    def drain(self) -> list[tuple[int, bytes]]:
        """Take everything: (port, bytes written to it), adjacent writes to a port joined."""
        ...
