# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES, of a VM or of a guest_memfd, until it is through."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable

from pyvmm.errors import ConversionRefusedError, SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import Vm
from pyvmm.hosts.page_held import PageHeldError
from pyvmm.hosts.page_holders import PageHolder, told
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.layout import GpaRange

PAUSE = 0.001
"""Seconds between two attempts, and between the first two where a page is held."""
_PAUSES = 1000
_LONGEST_PAUSE = 0.05
"""KVM asks all CPUs to let go of pages each time, which takes them some milliseconds."""


class HeldPageError(ConversionRefusedError):
    """A page that was to become private in place is held by somebody: nothing has changed.

    `range` was to be converted; `gpa` is the page's, in bytes, and `error_offset` its offset in the
    guest_memfd. `interrupted`: the wait for it ended early, since the vCPU that waited was wanted
    for something else.
    """

    def __init__(
        self,
        range_: GpaRange,
        gpa: int,
        error_offset: int,
        by: str = "somebody beside the guest has a reference on it",
        *,
        interrupted: bool = False,
    ) -> None:
        super().__init__(
            f"convert {range_.size} bytes at gpa {range_.start:#x} to private",
            f"the page at gpa {gpa:#x} is held: {by}",
            "end what holds it (direct I/O, a splice, a device's mapping), and try again",
        )
        self.range = range_
        self.gpa = gpa
        self.error_offset = error_offset
        self.interrupted = interrupted

    def naming(self, holders: Iterable[PageHolder]) -> HeldPageError:
        """Make the same of it with who holds the page."""
        return HeldPageError(self.range, self.gpa, self.error_offset, told(holders))


class AttributeSetter:
    """Sets attributes for one conversion. EAGAIN is tried again, for a second at least in all.

    `give_way` gives the lock of conversions away for so many seconds: nobody else waits for that. A
    page that is held is tried again for `patience` seconds, and no longer than `is_over` and
    `is_wanted` are false: the run's end, and something else that the calling thread is to do.
    """

    def __init__(
        self,
        vm: Vm,
        give_way: Callable[[float], None],
        *,
        is_over: Callable[[], bool],
        is_wanted: Callable[[], bool],
        patience: float,
    ) -> None:
        self._vm = vm
        self._give_way = give_way
        self._is_over = is_over
        self._is_wanted = is_wanted
        self._left = _PAUSES
        self._patience = patience
        self._held_until: float | None = None

    def set(self, range_: GpaRange, *, private: bool) -> None:
        """Mark `range_` private, or not (api.rst 4.141).

        Raises `SystemCallError`: then nothing has changed.
        """
        attributes = _attributes(private=private)
        while True:
            try:
                self._vm.set_memory_attributes(range_.start, range_.size, attributes)
            except SystemCallError as failure:
                if failure.errno != errno.EAGAIN or not self._left:
                    raise
                self._left -= 1
                self._give_way(PAUSE)
            else:
                return

    def set_in_file(self, sides: MemorySides, range_: GpaRange, *, private: bool) -> None:
        """Convert `range_` of a region in place (api.rst 4.145, as posted).

        Raises `HeldPageError` or `SystemCallError`: then nothing has changed.
        """
        attributes = _attributes(private=private)
        pause = PAUSE
        while True:
            try:
                sides.set_attributes(range_, attributes)
            except PageHeldError as held:
                wanted = self._is_wanted()
                if wanted or self._is_late() or self._is_over():
                    at = held.error_offset
                    gpa = sides.gpa_of(at)
                    raise HeldPageError(range_, gpa, at, interrupted=wanted) from held
                self._give_way(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _is_late(self) -> bool:
        """Tell whether held pages have been waited for long enough, from the first call on."""
        now = time.monotonic()
        if self._held_until is None:
            self._held_until = now + self._patience
        return now >= self._held_until


def _attributes(*, private: bool) -> MemoryAttribute:
    return MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
