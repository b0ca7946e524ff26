# SPDX-License-Identifier: MIT
"""The place where pages are converted: on the host's wish, and for the exits that ask for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pyvmm.errors import ConversionRefusedError
from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.conversion import (
    ConversionPlan,
    ConversionRequest,
    Origin,
    Refusal,
    Side,
    plan,
    plan_withhold,
)


class MemoryConversion:
    """Conversions of a guest's pages, and the count of them. Any thread."""

    def __init__(self, tracked: TrackedMemory, is_over: Callable[[], bool]) -> None:
        self._tracked = tracked
        self._is_over = is_over
        self.counts: Counter[str] = Counter()
        """Conversions done here, as "guest to shared" and so on; the fast path's are not in it."""
        self.converted_bytes: Counter[str] = Counter()
        """The bytes that they asked for, under the same names."""
        self.failures: list[str] = []
        """Conversions that failed in the middle, a line each; the page states stay true."""

    @property
    def is_over(self) -> bool:
        """True once the run has ended: a conversion asked for now is not done."""
        return self._is_over()

    def convert(self, gpa: int, size: int, to: Side) -> None:
        """The host's own way in: [gpa, gpa + size), in bytes, whole pages.

        Raises `ConversionRefusedError` when it cannot be, and then nothing has changed;
        `SystemCallError` when the kernel fails in the middle: the page states tell how far it got.
        """
        request = ConversionRequest(gpa, size, to, Origin.HOST)
        with self._tracked.exclusive():
            planned = plan(request, self._tracked.regions)
            if isinstance(planned, Refusal):
                raise refused(request, planned)
            self.execute(planned)

    def withhold(self, gpa: int, size: int) -> None:
        """Let the guest's next touch of [gpa, gpa + size) be a memory fault; drops the contents.

        For memory without a private side. Raises as `convert`.
        """
        with self._tracked.exclusive():
            planned = plan_withhold(gpa, size, self._tracked.regions)
            if isinstance(planned, Refusal):
                raise refused(ConversionRequest(gpa, size, Side.PRIVATE, Origin.HOST), planned)
            self.execute(planned)

    # -- under the lock --

    def execute(self, planned: ConversionPlan) -> None:
        """Carry out a plan, and count it where that was not cut short by the end of the run."""
        self._tracked.progress.note_change()
        if self._tracked.executor.execute(planned):
            self.count(planned.request)

    def count(self, request: ConversionRequest) -> None:
        """Count `request`, which is done."""
        kind = f"{request.origin.name.lower()} to {request.to.value}"
        self.counts[kind] += 1
        self.converted_bytes[kind] += request.size


def refused(request: ConversionRequest, refusal: Refusal) -> ConversionRefusedError:
    """Make the error that says why `request` is refused."""
    return ConversionRefusedError(
        f"convert {request.size} bytes at gpa {request.gpa:#x} to {request.to.value}",
        refusal.cause,
    )
