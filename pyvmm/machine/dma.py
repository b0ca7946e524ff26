# SPDX-License-Identifier: MIT
"""Guest memory as the machine's own devices reach it: by leases, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.leases import Lease, LeaseRefusedError


class GuestDma:
    """`pyvmm.devices.fw_cfg.GuestBytes` over a machine's memory. Any thread; raises nothing.

    Memory that is private, withheld, or none at all is refused before anything is touched.
    `device` is named to whoever waits for it.
    """

    def __init__(self, memory: GuestMemory, device: str) -> None:
        self._memory = memory
        self._device = device

    def read(self, gpa: int, size: int) -> bytes | None:
        """A copy of `size` bytes; None unless all of them are shared memory."""
        try:
            with self._memory.lease([(gpa, size)], holder=self._device) as lease:
                return bytes(lease.views[0])
        except LeaseRefusedError:
            return None

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write all of `data`; False, and nothing is written, unless all of that is shared."""
        try:
            with self._lease(gpa, len(data)) as lease:
                lease.views[0][:] = data
        except LeaseRefusedError:
            return False
        return True

    @contextmanager
    def held(self, gpa: int, size: int) -> Iterator[HeldRange | None]:
        """Hold [gpa, gpa + size) inside of the block; None unless all of it is shared memory."""
        try:
            lease = self._lease(gpa, size)
        except LeaseRefusedError:
            yield None
            return
        with lease:
            yield HeldRange(self._memory, lease, gpa)

    def _lease(self, gpa: int, size: int) -> Lease:
        return self._memory.lease([(gpa, size)], writable=True, holder=self._device)


class HeldRange:
    """`pyvmm.devices.fw_cfg.HeldBytes`: a leased range from `gpa` on."""

    def __init__(self, memory: GuestMemory, lease: Lease, gpa: int) -> None:
        self._memory = memory
        self._lease = lease
        self._gpa = gpa

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy `data` to `offset`, all within the range."""
        self._lease.views[0][offset : offset + len(data)] = data

    def clear(self, offset: int, size: int) -> None:
        """Make zero, all within the range; what nobody has touched stays untouched."""
        self._memory.clear(self._gpa + offset, size)
