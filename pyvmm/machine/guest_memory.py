# SPDX-License-Identifier: MIT
"""A guest's memory with its two sides, and the one place where pages are converted.

Three ways lead here: the guest asks (KVM_HC_MAP_GPA_RANGE), the guest just touches
(KVM_EXIT_MEMORY_FAULT), the host decides (`GuestMemory.convert`). All are planned by
`pyvmm.memory.conversion` and executed under one lock, which vCPUs that convert by themselves in the
host's fast path (`FastConversions`) take as well. So the page states are always the kernel's.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pyvmm.errors import ConversionRefusedError, PyvmmError
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import MOST_SERVED_SPANS, ServedSpan, Vm
from pyvmm.machine.conversion_executor import ConversionExecutor
from pyvmm.machine.fault_progress import STUCK, FaultProgress
from pyvmm.machine.implicit import FaultRefused, ImplicitConversion
from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import (
    ConversionPlan,
    ConversionRequest,
    Origin,
    Refusal,
    Side,
    decode_map_gpa_range,
    plan,
    plan_withhold,
)
from pyvmm.memory.faults import Convert, Impossible, Retry, meaning_of
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_map import page_map
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.memory.regions import RegionTable
from pyvmm.memory.residency import Residency


class GuestMemory:
    """Page states, conversions, statistics. Any thread; made and closed by the machine.

    `attributes_rule`: the VM's type takes an access's side from the attributes (SW_PROTECTED).
    `honours_touches`: what the guest touches of withheld memory becomes shared, without anybody's
    being asked; the host's fast path may do it. `is_over` is asked between the parts of a long
    conversion: a run that has ended stops there.
    """

    def __init__(
        self,
        vm: Vm,
        *,
        attributes_rule: bool = True,
        honours_touches: bool = False,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._vm = vm
        self._honours_touches = honours_touches
        self._attributes_rule = attributes_rule
        self._is_over = is_over
        self._sides: dict[int, MemorySides] = {}
        self._regions = RegionTable()
        self._states = PageStates()
        self._unplugged: dict[int, MemorySides] = {}
        self._executor = ConversionExecutor(
            vm, self._states, self._sides, lambda: self._regions, is_over
        )
        self._progress = FaultProgress()
        self.counts: Counter[str] = Counter()
        """Conversions done here, as "guest to shared" and so on; the fast path's are not in it."""
        self.converted_bytes: Counter[str] = Counter()
        """The bytes that they asked for, under the same names."""
        self.failures: list[str] = []
        """Conversions that failed in the middle, a line each; the page states stay true."""

    def close(self) -> None:
        """Before the sides go: nothing is converted any more."""
        self._vm.conversions.serve([])

    # -- what there is --

    def add(self, sides: MemorySides) -> None:
        """A region that has its memslot, all shared.

        KVM keeps attributes by GPA, whatever slots come and go (``kvm->mem_attr_array``): what was
        set there before is cleared. Raises `SystemCallError`.
        """
        with self._exclusive():
            whole = sides.region.range
            if self._executor.has_set_attributes:
                self._executor.clear_attributes(whole)
            self._sides[sides.region.slot] = sides
            self._regions = self._regions.with_region(sides.region)
            self._states.add(whole, PageState.SHARED)
            self._progress.note_change()
            self._serve()
            self._executor.tell_what_is_shared(whole)

    def remove(self, slot: int) -> None:
        """Delete a region's memslot; the guest finds nothing there any more, as nowhere else.

        Raises `SystemCallError`, and then the region is still there as it was.
        """
        with self._exclusive():
            sides = self._sides[slot]
            whole = sides.region.range
            with self._executor.leaving(whole):
                if slot not in self._unplugged:
                    self._vm.set_memslot(sides.no_memslot())
                try:
                    if any(run.state is not PageState.SHARED for run in self._states.runs(whole)):
                        self._executor.clear_attributes(whole)
                except BaseException:
                    if slot not in self._unplugged:
                        self._set_memslot_or_forget(sides)
                    raise
            self._forget(sides)

    def _set_memslot_or_forget(self, sides: MemorySides) -> None:
        try:
            self._vm.set_memslot(sides.memslot())
        except BaseException:
            self._forget(sides)
            raise

    def _forget(self, sides: MemorySides) -> None:
        slot = sides.region.slot
        del self._sides[slot]
        if self._unplugged.pop(slot, None) is None:
            self._regions = self._regions.without(sides.region)
        self._states.remove(sides.region.range)
        self._progress.note_change()
        self._serve()

    def listen(self, listener: MemoryListener) -> None:
        """Tell `listener` of every conversion from now on, and of all that is shared now.

        vCPUs do not convert in the host's fast path any more: who has to be told, is told first.
        """
        with self._exclusive():
            self._executor.listeners.append(listener)
            self._serve()
            for run in self._states.runs():
                if run.state is PageState.SHARED:
                    listener.joined(run.range)

    def _serve(self) -> None:
        spans: list[ServedSpan] = []
        if not self._executor.listeners:
            for slot, sides in self._sides.items():
                span = sides.served_span(
                    touches=self._honours_touches, missing=slot in self._unplugged
                )
                if span is not None:
                    spans.append(span)
        # What a host's fast path cannot take goes the long way.
        self._vm.conversions.serve(spans[:MOST_SERVED_SPANS])

    # -- questions --

    def page_states(self, within: GpaRange | None = None) -> tuple[PageRun, ...]:
        """Every page's state now, as ascending runs; cut to `within`, of whatever alignment."""
        with self._exclusive():
            return tuple(self._states.runs(within))

    def state_at(self, gpa: int) -> PageState | None:
        """The state of the page that holds `gpa`; None where there is no memory."""
        with self._exclusive():
            return self._states.state_at(gpa)

    def bytes_in(self, state: PageState) -> int:
        """Count the bytes that are in `state` now."""
        with self._exclusive():
            return self._states.bytes_in(state)

    def page_map(self, mark: int | None = None) -> Iterator[str]:
        """The page states as lines to print; `mark` is a GPA to point at."""
        return page_map(self.page_states(), mark)

    def sides(self) -> tuple[MemorySides, ...]:
        """Every region that has memory, ascending; one that is unplugged, too."""
        with self._exclusive():
            return tuple(sorted(self._sides.values(), key=lambda one: one.region.range.start))

    def residency(self) -> tuple[Residency, ...]:
        """Return each region's bytes in either state, and those that the kernel holds of each side.

        Raises `HostLacksError` where the kernel cannot tell.
        """
        with self._exclusive():
            return tuple(
                sides.residency(
                    self._states.bytes_in(PageState.SHARED, sides.region.range),
                    self._states.bytes_in(PageState.PRIVATE, sides.region.range),
                )
                for sides in self._sides.values()
            )

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes from `gpa` on as the host sees them; None unless all of them are shared."""
        with self._exclusive():
            sides = self._shared_at(gpa, size)
            return None if sides is None else sides.read(gpa, size)

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write where all is shared. False, and nothing is written, where it is not."""
        with self._exclusive():
            sides = self._shared_at(gpa, len(data))
            if sides is None:
                return False
            sides.write(gpa, data)
            return True

    def clear(self, gpa: int, size: int) -> bool:
        """Make zero where all is shared. False, and nothing is changed, where it is not."""
        with self._exclusive():
            sides = self._shared_at(gpa, size)
            if sides is None:
                return False
            sides.clear(GpaRange(gpa, gpa + size))
            return True

    def _shared_at(self, gpa: int, size: int) -> MemorySides | None:
        region = self._regions.at(gpa)
        if region is None or size <= 0 or not region.range.contains(gpa, size):
            return None
        asked = GpaRange(gpa, gpa + size)
        if any(run.state is not PageState.SHARED for run in self._states.runs(asked)):
            return None
        return self._sides[region.slot]

    # -- conversions --

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
        with self._exclusive():
            planned = plan(request, self._regions)
            if isinstance(planned, Refusal):
                raise _refused(request, planned)
            self._execute(planned)

    def withhold(self, gpa: int, size: int) -> None:
        """Let the guest's next touch of [gpa, gpa + size) be a memory fault; drops the contents.

        For memory without a private side. Raises as `convert`.
        """
        with self._exclusive():
            planned = plan_withhold(gpa, size, self._regions)
            if isinstance(planned, Refusal):
                raise _refused(ConversionRequest(gpa, size, Side.PRIVATE, Origin.HOST), planned)
            self._execute(planned)

    def unplug(self, slot: int) -> None:
        """Take a two-sided region's memslot away, contents and all, until the guest touches it.

        Until then it is no memory that could be converted.
        """
        with self._exclusive():
            sides = self._sides[slot]
            if slot in self._unplugged:
                return
            whole = sides.region.range
            with self._executor.leaving(whole):
                # Before the slot goes: an access to what is shared and has no slot would be MMIO.
                before = self._executor.withhold_all(whole)
                try:
                    self._vm.set_memslot(sides.no_memslot())
                except BaseException:
                    self._executor.put_back(before)
                    raise
            self._unplugged[slot] = sides
            self._regions = self._regions.without(sides.region)
            self._progress.note_change()
            self._serve()
            sides.discard_shared(whole)
            sides.discard_private(whole)

    def answer_hypercall(self, args: Sequence[int]) -> int:
        """Do what KVM_HC_MAP_GPA_RANGE asks; what the guest finds in RAX: 0, or -errno."""
        request = decode_map_gpa_range(args)
        if isinstance(request, Refusal):
            return request.hypercall_result
        with self._exclusive():
            planned = plan(request, self._regions)
            if self._unplugged_within(request):
                planned = Refusal.UNCOVERED
            if isinstance(planned, Refusal):
                return planned.hypercall_result
            try:
                self._execute(planned)
            except PyvmmError as failure:
                self.failures.append(str(failure))
                return -errno.EFAULT
        return 0

    def resolve_fault(
        self, fault: MemoryFault, vcpu: int, allow: Callable[[ImplicitConversion], bool]
    ) -> FaultRefused | None:
        """Deal with an access that KVM cannot resolve; None when the vCPU can try again.

        `allow` decides on conversions that the guest did not announce; it is called without the
        lock, on the calling thread. Raises `SystemCallError`.
        """
        asked = False
        while True:
            with self._exclusive():
                meaning = self._meaning(fault)
                if isinstance(meaning, Retry):
                    if not self._progress.is_stuck(vcpu, fault):
                        return None
                    meaning = STUCK
                if isinstance(meaning, Impossible):
                    return self._fault_refused(fault, meaning.cause)
                if asked:
                    self._resolve(meaning.request)
                    return None
                state = self._states.state_at(fault.gpa) or PageState.WITHHELD
            request = meaning.request
            if not allow(ImplicitConversion(request.gpa, request.size, state, request.to, vcpu)):
                cause = f"the policy refuses its conversion to {request.to.value}"
                with self._exclusive():
                    return self._fault_refused(fault, cause)
            asked = True

    def _meaning(self, fault: MemoryFault) -> Retry | Convert | Impossible:
        sides = self._unplugged_at(fault.gpa)
        if sides is not None:
            if not fault.flags & MemoryFaultFlag.PRIVATE:
                return Retry()  # From before it was unplugged.
            whole = sides.region.range
            return Convert(ConversionRequest(whole.start, whole.size, Side.PRIVATE, Origin.FAULT))
        region = self._regions.at(fault.gpa)
        closed = region is not None and self._sides[region.slot].is_private_side_closed
        return meaning_of(
            fault, self._states, self._regions, self._attributes_rule, private_side_closed=closed
        )

    def _resolve(self, request: ConversionRequest) -> None:
        sides = self._unplugged_at(request.gpa)
        if sides is not None:
            self._vm.set_memslot(sides.memslot())
            self._note_plugged(sides)
            self._progress.note_change()
            self._serve()
            self._count(request)
            return
        planned = plan(request, self._regions)
        if isinstance(planned, Refusal):
            raise _refused(request, planned)
        self._execute(planned)

    def _note_plugged(self, sides: MemorySides) -> None:
        del self._unplugged[sides.region.slot]
        self._regions = self._regions.with_region(sides.region)
        self._states.set(sides.region.range, PageState.PRIVATE)

    def _unplugged_at(self, gpa: int) -> MemorySides | None:
        unplugged = self._unplugged.values()
        return next((sides for sides in unplugged if sides.region.range.contains(gpa, 1)), None)

    def _unplugged_within(self, request: ConversionRequest) -> bool:
        asked = GpaRange(request.gpa, request.gpa + request.size)
        return any(sides.region.range.overlaps(asked) for sides in self._unplugged.values())

    def _fault_refused(self, fault: MemoryFault, cause: str) -> FaultRefused:
        private = bool(fault.flags & MemoryFaultFlag.PRIVATE)
        return FaultRefused(fault.gpa, fault.size, private, cause, self._states.snapshot())

    # -- under the lock --

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The lock on all conversions of the VM; what the fast path did is known inside."""
        with self._vm.conversions.exclusive():
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        """Note down what vCPUs have converted by themselves."""
        for done in self._vm.conversions.drain():
            self._progress.note_change()
            sides = self._unplugged_at(done.gpa) if done.plugged else None
            if sides is not None:
                self._note_plugged(sides)
                continue
            self._executor.has_set_attributes |= done.private
            state = PageState.PRIVATE if done.private else PageState.SHARED
            self._states.set(GpaRange(done.gpa, done.gpa + done.size), state)

    def _execute(self, planned: ConversionPlan) -> None:
        self._progress.note_change()
        if self._executor.execute(planned):
            self._count(planned.request)

    def _count(self, request: ConversionRequest) -> None:
        kind = f"{request.origin.name.lower()} to {request.to.value}"
        self.counts[kind] += 1
        self.converted_bytes[kind] += request.size


def _refused(request: ConversionRequest, refusal: Refusal) -> ConversionRefusedError:
    return ConversionRefusedError(
        f"convert {request.size} bytes at gpa {request.gpa:#x} to {request.to.value}",
        refusal.cause,
    )
