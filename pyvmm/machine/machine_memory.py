# SPDX-License-Identifier: MIT
"""Memory of a machine's guest, as the machine's owner has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvmm.machine.guest_memory import GuestMemory

if TYPE_CHECKING:
    from pyvmm.machine.memory_conversion import MemoryConversion
    from pyvmm.machine.virtio.balloon import Balloon


class MachineMemory:
    """Shared memory of a guest, read, written and leased; its page states; conversions.

    Any thread. Of a machine that is closed the host sees nothing.
    """

    def __init__(self, inner: GuestMemory, backends: Sequence[object] = ()) -> None:
        self._inner = inner
        self._backends = backends
        self.lease = inner.lease
        """Lease ranges for work on the memory itself: `Leases.lease`. A call less on the way."""
        self.states = inner.states
        """States of the pages, and what they take."""

    @property
    def conversion(self) -> MemoryConversion:
        """Conversions on the host's wish, and the count of all."""
        return self._inner.conversion

    @property
    def balloon(self) -> Balloon | None:
        """The memory balloon; None on a machine without one."""
        from pyvmm.machine.virtio.balloon import Balloon  # Most machines have none.

        handlers = (getattr(backend, "handler", None) for backend in self._backends)
        return next((one for one in handlers if isinstance(one, Balloon)), None)

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes from `gpa` on as the host sees them; None unless all of them are shared."""
        return self._inner.read(gpa, size)

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write where all is shared. False, and nothing is written, where it is not."""
        return self._inner.write(gpa, data)

    def clear(self, gpa: int, size: int) -> bool:
        """Make zero where all is shared. False, and nothing is changed, where it is not."""
        return self._inner.clear(gpa, size)
