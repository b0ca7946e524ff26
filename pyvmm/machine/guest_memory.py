# SPDX-License-Identifier: MIT
"""A guest's memory with its two sides: reading and writing what is shared, and its other parts.

Three ways lead to a conversion: the guest asks (KVM_HC_MAP_GPA_RANGE), the guest just touches
(KVM_EXIT_MEMORY_FAULT), the host decides (`MemoryConversion.convert`). All are planned by
`pyvmm.memory.conversion` and executed under one lock (`TrackedMemory`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.interface import Vm
from pyvmm.machine.leases import LEASE_PATIENCE, Leases
from pyvmm.machine.memory_regions import MemoryRegions
from pyvmm.machine.memory_states import MemoryStates
from pyvmm.machine.tracked_memory import SharedPart, TrackedMemory
from pyvmm.memory.layout import GpaRange

if TYPE_CHECKING:
    from pyvmm.machine.memory_conversion import MemoryConversion
    from pyvmm.machine.memory_exits import MemoryExits

_SHORT = 64 << 10
"""Bytes that are copied before anybody who waits could wake up."""


class GuestMemory:
    """Shared memory of a guest, read and written. Any thread; made and closed by the machine.

    `attributes_rule`: the VM's type takes an access's side from the attributes (SW_PROTECTED).
    `honours_touches`: what the guest touches of withheld memory becomes shared, without anybody's
    being asked; the host's fast path may do it. `is_over` is asked between the parts of a long
    conversion: a run that has ended stops there. A lease is waited for, `patience` seconds at the
    most, and on a vCPU's thread until it is `wanted` for something else (`Leases.interrupt`).
    `in_place`: the VM keeps no attributes, its guest_memfds do; a page that somebody else holds is
    waited for as a lease is.
    """

    def __init__(
        self,
        vm: Vm,
        *,
        attributes_rule: bool = True,
        honours_touches: bool = False,
        is_over: Callable[[], bool] = lambda: False,
        wanted: Callable[[], bool] = lambda: False,
        patience: float = LEASE_PATIENCE,
        in_place: bool = False,
    ) -> None:
        tracked = TrackedMemory(
            vm,
            honours_touches=honours_touches,
            is_over=is_over,
            in_place=in_place,
            patience=patience,
        )
        self._tracked = tracked
        self.is_over = is_over
        self.in_place = in_place
        """Pages are converted in place: no page can be withheld."""
        self.leases = Leases(tracked, wanted, patience)
        """Leases that are out, and waiting for them; the machine's own affair."""
        self.lease = self.leases.lease
        """Lease ranges for work on the memory itself: `Leases.lease`. A call less on the way."""
        self.states = MemoryStates(tracked)
        """States of the pages, and what they take."""
        self.regions = MemoryRegions(tracked, self.leases)
        """Regions that come and go; the machine's own affair, as are `exits`."""
        self._attributes_rule = attributes_rule
        self._making = threading.Lock()
        self._converting: tuple[MemoryConversion, MemoryExits] | None = None

    @property
    def conversion(self) -> MemoryConversion:
        """Conversions on the host's wish, and the count of all."""
        return (self._converting or self._make_converting())[0]

    @property
    def exits(self) -> MemoryExits:
        """Answers to the guest's requests and faults."""
        return (self._converting or self._make_converting())[1]

    def _make_converting(self) -> tuple[MemoryConversion, MemoryExits]:
        """Make what most guests never need: the rules of conversions take 10 ms to load."""
        from pyvmm.machine.memory_conversion import MemoryConversion
        from pyvmm.machine.memory_exits import MemoryExits

        with self._making:
            if self._converting is None:
                conversion = MemoryConversion(self._tracked, self.leases, self.is_over)
                exits = MemoryExits(
                    self._tracked, conversion, attributes_rule=self._attributes_rule
                )
                self._converting = conversion, exits
            return self._converting

    def close(self) -> None:
        """Before the sides go: nothing is converted any more."""
        self._tracked.close()

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes from `gpa` on as the host sees them; None unless all of them are shared.

        As `write` and `clear` it goes in steps, between which others have the lock; all of it stays
        shared until it is done.
        """
        with self._tracked.exclusive():
            parts = self._tracked.shared_parts(gpa, size)
            if parts is None:
                return None
            if size <= _SHORT:
                return b"".join(sides.read(part.start, part.size) for sides, part in parts)
            with self._staying_shared(gpa, size) as staying:
                if staying is None:
                    return None
                collected = io.BytesIO()  # Hands over what it has without a copy.
                for sides, step in self._in_steps(staying):
                    collected.write(sides.view(step))
        return collected.getvalue()

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write where all is shared. False, and nothing is written, where it is not."""
        with self._tracked.exclusive():
            parts = self._tracked.shared_parts(gpa, len(data))
            if parts is None:
                return False
            view = memoryview(data)
            if len(data) <= _SHORT:
                for sides, part in parts:
                    sides.write(part.start, view[part.start - gpa : part.end - gpa])
                return True
            with self._staying_shared(gpa, len(data)) as staying:
                if staying is None:
                    return False
                for sides, step in self._in_steps(staying):
                    sides.write(step.start, view[step.start - gpa : step.end - gpa])
            return True

    def clear(self, gpa: int, size: int) -> bool:
        """Make zero where all is shared. False, and nothing is changed, where it is not."""
        with self._tracked.exclusive():
            if self._tracked.shared_parts(gpa, size) is None:
                return False
            with self._staying_shared(gpa, size) as staying:
                if staying is None:
                    return False
                for sides, part in staying:
                    for _ in sides.cleared(part):
                        self._tracked.give_way()
            return True

    def _in_steps(self, parts: Sequence[SharedPart]) -> Iterator[SharedPart]:
        """Cut each part into steps, and give the lock away between any two."""
        for number, (sides, part) in enumerate(parts):
            if number:
                self._tracked.give_way()
            for step in self._tracked.executor.in_steps(part):
                yield sides, step

    @contextmanager
    def _staying_shared(self, gpa: int, size: int) -> Iterator[Sequence[SharedPart] | None]:
        """Hold what is shared for work in steps; None where it has been converted just before."""
        with self._tracked.in_steps(GpaRange(gpa, gpa + size), HeldKind.WORKING):
            yield self._tracked.shared_parts(gpa, size)
