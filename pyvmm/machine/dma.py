# SPDX-License-Identifier: MIT
"""Guest memory as the machine's devices reach it: what is shared, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState


class GuestDma:
    """`pyvmm.devices.fw_cfg.GuestBytes` over a machine's memory. Any thread; raises nothing.

    What is private, withheld, or no memory at all is left out. A page that is converted in the
    middle may be, too.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes; None unless all of them are shared memory."""
        parts = []
        for part in self._shared(gpa, size):
            data = self._memory.read(part.start, part.size)
            if data is None:
                return None
            parts.append(data)
        found = b"".join(parts)
        return found if len(found) == size else None

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write what is shared memory; whether all of it is."""
        written = 0
        for part in self._shared(gpa, len(data)):
            start = part.start - gpa
            if self._memory.write(part.start, data[start : start + part.size]):
                written += part.size
        return written == len(data)

    def clear(self, gpa: int, size: int) -> bool:
        """Make zero what is shared memory; whether all of it is."""
        cleared = 0
        for part in self._shared(gpa, size):
            if self._memory.clear(part.start, part.size):
                cleared += part.size
        return cleared == size

    def _shared(self, gpa: int, size: int) -> Iterator[GpaRange]:
        """Yield the shared parts of [gpa, gpa + size), by regions, ascending."""
        for sides in self._memory.regions.sides():
            whole = sides.region.range
            start, end = max(gpa, whole.start), min(gpa + size, whole.end)
            if start < end:
                for run in self._memory.states.runs(GpaRange(start, end)):
                    if run.state is PageState.SHARED:
                        yield run.range
