# SPDX-License-Identifier: MIT
"""The place where pages are converted: on the host's wish, and for the exits that ask for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pyvmm.errors import ConversionRefusedError, InternalError
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.page_holders import HoldKind, PageHolder
from pyvmm.machine.attributes import HeldPageError
from pyvmm.machine.leases import Leases
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
from pyvmm.memory.layout import GpaRange


class _Leased:
    """The answer for pages that somebody has a lease of."""


class MemoryConversion:
    """Conversions of a guest's pages, and the count of them. Any thread."""

    def __init__(self, tracked: TrackedMemory, leases: Leases, is_over: Callable[[], bool]) -> None:
        self._tracked = tracked
        self._leases = leases
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

        To private it waits for leases of the pages. Raises `ConversionRefusedError` when it cannot
        be (`LeaseHeldError` where a lease does not end, `HeldPageError` where somebody else holds a
        page that is to be converted in place), and then nothing has changed;
        `SystemCallError` when the kernel fails in the middle: the page states tell how far it got.
        """
        request = ConversionRequest(gpa, size, to, Origin.HOST)
        try:
            refusal = self.carry_out(request, lambda: plan(request, self._tracked.regions))
        except HeldPageError as held:
            raise held.naming(self.holders(held.gpa)) from held
        if refusal is not None:
            raise refused(request, refusal)

    def holders(self, gpa: int) -> tuple[PageHolder, ...]:
        """Name who keeps the page at `gpa` from becoming private in place, or may.

        A lease, references that this process has taken, and what other processes tell of themselves
        in /proc: certain ones first. A look at every process; it takes tens of milliseconds.
        """
        with self._tracked.exclusive():
            lessee = self._leases.holder_over(GpaRange(gpa, gpa + 1))
            region = self._tracked.regions.at(gpa)
            sides = None if region is None else self._tracked.sides.get(region.slot)
        found = () if sides is None else sides.holders(gpa)
        if lessee is None:
            return found
        return (PageHolder(HoldKind.LEASE, lessee, is_certain=True), *found)

    def withhold(self, gpa: int, size: int) -> None:
        """Let the guest's next touch of [gpa, gpa + size) be a memory fault; drops the contents.

        For memory without a private side. Raises as `convert`.
        """
        request = ConversionRequest(gpa, size, Side.PRIVATE, Origin.HOST)
        in_place = self._tracked.in_place
        refusal = self.carry_out(
            request, lambda: plan_withhold(gpa, size, self._tracked.regions, in_place=in_place)
        )
        if refusal is not None:
            raise refused(request, refusal)

    def carry_out(
        self,
        request: ConversionRequest,
        planned: Callable[[], ConversionPlan | Refusal],
        *,
        on_vcpu: bool = False,
    ) -> Refusal | None:
        """Do what is planned (under the lock) for `request`; return why not, where it is refused.

        Others have the lock between its steps, but cannot convert, lease or remove what is still to
        come. What goes to private waits until no lease is on it; pages that are shared stay so in
        the other direction. `on_vcpu` as for `Vacating.wait`, and for pages that are held. Raises
        `LeaseHeldError` or `HeldPageError`, and nothing has changed, and `SystemCallError`.
        """
        with self._tracked.exclusive():
            answer = self._unless_leased(request, planned, on_vcpu=on_vcpu)
        if not isinstance(answer, _Leased):
            return answer
        range_ = GpaRange(request.gpa, request.gpa + request.size)
        with self._leases.vacating(range_) as vacating:
            vacating.wait(_attempt(request), on_vcpu=on_vcpu)
            with self._tracked.exclusive():
                answer = self._unless_leased(request, planned, on_vcpu=on_vcpu)
        if isinstance(answer, _Leased):
            raise InternalError(_attempt(request), "a lease was given of what is waited for")
        return answer

    # -- under the lock --

    def _unless_leased(
        self,
        request: ConversionRequest,
        planned: Callable[[], ConversionPlan | Refusal],
        *,
        on_vcpu: bool,
    ) -> Refusal | _Leased | None:
        """Do it once nobody else works on the pages; from then on none of them can be leased."""
        taken = request.to is Side.PRIVATE
        kind = HeldKind.CONVERTING if taken else HeldKind.WORKING
        while True:
            plan_now = planned()
            if isinstance(plan_now, Refusal):
                return plan_now
            range_ = GpaRange(request.gpa, request.gpa + request.size)
            if number := self._tracked.begin(range_, kind):
                break
            self._tracked.await_end()
        try:
            if taken and self._leases.holder_over(range_) is not None:
                return _Leased()
            self._execute(plan_now, on_vcpu=on_vcpu)
            return None
        finally:
            self._tracked.end(kind, number)

    def _execute(self, planned: ConversionPlan, *, on_vcpu: bool) -> None:
        """Carry out a plan, and count it where that was not cut short by the end of the run."""
        self._tracked.progress.note_change()
        is_wanted = self._leases.wanted if on_vcpu else _never
        if self._tracked.executor.execute(planned, is_wanted):
            self.count(planned.request)

    def count(self, request: ConversionRequest) -> None:
        """Count `request`, which is done."""
        kind = f"{request.origin.name.lower()} to {request.to.value}"
        self.counts[kind] += 1
        self.converted_bytes[kind] += request.size


def _never() -> bool:
    return False


def refused(request: ConversionRequest, refusal: Refusal) -> ConversionRefusedError:
    """Make the error that says why `request` is refused."""
    return ConversionRefusedError(_attempt(request), refusal.cause)


def _attempt(request: ConversionRequest) -> str:
    return f"convert {request.size} bytes at gpa {request.gpa:#x} to {request.to.value}"
