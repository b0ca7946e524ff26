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
from pyvmm.hosts.exits import EHWPOISON, MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import MOST_SERVED_SPANS, ServedSpan, Vm
from pyvmm.machine.attributes import set_attributes
from pyvmm.machine.implicit import FaultRefused, ImplicitConversion
from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import (
    ConversionPlan,
    ConversionRequest,
    DiscardPrivate,
    DiscardShared,
    Origin,
    Refusal,
    SetAttributes,
    Side,
    TellJoined,
    TellLeaving,
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
        self._listeners: list[MemoryListener] = []
        self._unplugged: dict[int, MemorySides] = {}
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
        """A region that has its memslot, all shared."""
        with self._exclusive():
            self._sides[sides.region.slot] = sides
            self._regions = self._regions.with_region(sides.region)
            self._states.add(sides.region.range, PageState.SHARED)
            self._serve()

    def remove(self, slot: int) -> None:
        """Delete a region's memslot; the guest finds nothing there any more."""
        with self._exclusive():
            sides = self._sides.pop(slot)
            if self._unplugged.pop(slot, None) is None:
                self._vm.set_memslot(sides.no_memslot())
                self._regions = self._regions.without(sides.region)
            self._states.remove(sides.region.range)
            self._serve()

    def listen(self, listener: MemoryListener) -> None:
        """Tell `listener` of every conversion from now on, and of all that is shared now.

        vCPUs do not convert in the host's fast path any more: who has to be told, is told first.
        """
        with self._exclusive():
            self._listeners.append(listener)
            self._serve()
            for run in self._states.runs():
                if run.state is PageState.SHARED:
                    listener.joined(run.range)

    def _serve(self) -> None:
        spans: list[ServedSpan] = []
        if not self._listeners:
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
        """How many bytes are in `state` now."""
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
        """What is really there on each side of each region, asked of the kernel.

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
        """Whether the run has ended: a conversion asked for now is not done."""
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
            for listener in self._listeners:
                listener.leaving(whole)
            # Before the slot goes: an access to what is shared and has no slot would be MMIO.
            set_attributes(self._vm, whole, private=True)
            self._note_attributes(whole, private=True)
            self._vm.set_memslot(sides.no_memslot())
            self._unplugged[slot] = sides
            self._regions = self._regions.without(sides.region)
            self._states.set(whole, PageState.WITHHELD)
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
                    return None
                if isinstance(meaning, Impossible):
                    return self._fault_refused(fault, meaning.cause)
                if asked:
                    self._resolve(meaning.request)
                    return None
                state = self._states.state_at(fault.gpa) or PageState.WITHHELD
            request = meaning.request
            if not allow(ImplicitConversion(request.gpa, request.size, state, request.to, vcpu)):
                cause = f"the policy refuses its conversion to {request.to.value}"
                return self.refuse(fault, cause)
            asked = True

    def refuse(self, fault: MemoryFault, cause: str) -> FaultRefused:
        """The report on an access that is not to be tried again."""
        with self._exclusive():
            return self._fault_refused(fault, cause)

    def _meaning(self, fault: MemoryFault) -> Retry | Convert | Impossible:
        sides = self._unplugged_at(fault.gpa)
        if sides is not None:
            if not fault.flags & MemoryFaultFlag.PRIVATE:
                return Retry()  # From before it was unplugged.
            whole = sides.region.range
            return Convert(ConversionRequest(whole.start, whole.size, Side.PRIVATE, Origin.FAULT))
        return meaning_of(
            fault.gpa,
            fault.size,
            bool(fault.flags & MemoryFaultFlag.PRIVATE),
            self._states,
            self._regions,
            self._attributes_rule,
            poisoned=fault.errno == EHWPOISON,
        )

    def _resolve(self, request: ConversionRequest) -> None:
        sides = self._unplugged_at(request.gpa)
        if sides is not None:
            self._vm.set_memslot(sides.memslot())
            self._note_plugged(sides)
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
            sides = self._unplugged_at(done.gpa) if done.plugged else None
            if sides is not None:
                self._note_plugged(sides)
                continue
            state = PageState.PRIVATE if done.private else PageState.SHARED
            self._states.set(GpaRange(done.gpa, done.gpa + done.size), state)

    def _execute(self, planned: ConversionPlan) -> None:
        for step in planned.steps:
            match step:
                case TellLeaving(range_):
                    if self._is_over():
                        return
                    for listener in self._listeners:
                        listener.leaving(range_)
                case SetAttributes(range_, private):
                    set_attributes(self._vm, range_, private=private)
                    self._note_attributes(range_, private=private)
                case DiscardShared(region, range_):
                    self._sides[region.slot].discard_shared(range_)
                case DiscardPrivate(region, range_):
                    self._sides[region.slot].discard_private(range_)
                case TellJoined(range_):
                    for listener in self._listeners:
                        listener.joined(range_)
                    if self._is_over():
                        return
        self._count(planned.request)

    def _count(self, request: ConversionRequest) -> None:
        kind = f"{request.origin.name.lower()} to {request.to.value}"
        self.counts[kind] += 1
        self.converted_bytes[kind] += request.size

    def _note_attributes(self, range_: GpaRange, *, private: bool) -> None:
        for region, part in self._regions.parts(range_) or ():
            if not private:
                state = PageState.SHARED
            else:
                state = PageState.PRIVATE if region.two_sided else PageState.WITHHELD
            self._states.set(part, state)


def _refused(request: ConversionRequest, refusal: Refusal) -> ConversionRefusedError:
    return ConversionRefusedError(
        f"convert {request.size} bytes at gpa {request.gpa:#x} to {request.to.value}",
        refusal.cause,
    )
