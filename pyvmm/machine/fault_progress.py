# SPDX-License-Identifier: MIT
"""Accesses that fault again although nothing is in their way, told apart from late ones."""

from __future__ import annotations

from pyvmm.hosts.exits import MemoryFault


class FaultProgress:
    """Counts what changes in guest memory; remembers which fault each vCPU tried again last.

    An access is tried again since another vCPU may have converted the page between the fault and
    now. When the same fault comes once more and nothing has changed meanwhile, that was not the
    reason. The owner has the lock of all conversions.
    """

    def __init__(self) -> None:
        self._changes = 0
        self._tried: dict[int, tuple[MemoryFault, int]] = {}

    def note_change(self) -> None:
        """A conversion was begun or done, or a memslot came or went."""
        self._changes += 1

    def is_stuck(self, vcpu: int, fault: MemoryFault) -> bool:
        """Tell whether `vcpu` tried `fault` before with no change since; note that it tries now."""
        now = (fault, self._changes)
        if self._tried.get(vcpu) == now:
            return True
        self._tried[vcpu] = now
        return False
