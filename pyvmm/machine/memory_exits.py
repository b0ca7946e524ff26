# SPDX-License-Identifier: MIT
"""Exits that are about guest memory: a guest that asks for a conversion, or that just touches."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from pyvmm.errors import PyvmmError
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.machine.attributes import HeldPageError
from pyvmm.machine.implicit import FaultRefused, ImplicitConversion
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.machine.memory_conversion import MemoryConversion
from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.conversion import (
    ConversionPlan,
    ConversionRequest,
    Origin,
    Refusal,
    Side,
    decode_map_gpa_range,
    plan,
)
from pyvmm.memory.faults import Convert, Impossible, Retry, meaning_of
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState

STUCK = Impossible(
    "KVM refuses it again and again, although the page is where the access needs it and nothing "
    "has changed in between"
)


class MemoryExits:
    """Answers to KVM_HC_MAP_GPA_RANGE and KVM_EXIT_MEMORY_FAULT, on the vCPU's thread.

    `attributes_rule` as for `GuestMemory`.
    """

    def __init__(
        self, tracked: TrackedMemory, conversion: MemoryConversion, *, attributes_rule: bool
    ) -> None:
        self._tracked = tracked
        self._conversion = conversion
        self._attributes_rule = attributes_rule

    def answer_hypercall(self, args: Sequence[int]) -> int:
        """Do what KVM_HC_MAP_GPA_RANGE asks; what the guest finds in RAX: 0, or -errno.

        -EAGAIN, and nothing has changed: a lease of the pages did not end in time, or somebody else
        held a page that was to be converted in place for as long; or the vCPU was wanted for
        something else while it waited for that.
        """
        request = decode_map_gpa_range(args)
        if isinstance(request, Refusal):
            return request.hypercall_result

        def planned() -> ConversionPlan | Refusal:
            asked = GpaRange(request.gpa, request.gpa + request.size)
            if self._tracked.is_unplugged_within(asked):
                return Refusal.UNCOVERED
            return plan(request, self._tracked.regions)

        try:
            refusal = self._conversion.carry_out(request, planned, on_vcpu=True)
        except (LeaseHeldError, HeldPageError):
            return -errno.EAGAIN
        except PyvmmError as failure:
            self._conversion.failures.append(str(failure))
            return -errno.EFAULT
        return 0 if refusal is None else refusal.hypercall_result

    def resolve_fault(
        self, fault: MemoryFault, vcpu: int, allow: Callable[[ImplicitConversion], bool]
    ) -> FaultRefused | None:
        """Deal with an access that KVM cannot resolve; None when the vCPU can try again.

        `allow` decides on conversions that the guest did not announce; it is called without the
        lock, on the calling thread. The conversion waits for leases and for held pages as any
        other; the access is refused where one does not end. Raises `SystemCallError`.
        """
        asked = False
        while True:
            with self._tracked.exclusive():
                self._wait_for_unplugging(fault.gpa)
                meaning = self._meaning(fault)
                if isinstance(meaning, Retry):
                    if not self._tracked.progress.is_stuck(vcpu, fault):
                        return None
                    meaning = STUCK
                if isinstance(meaning, Impossible):
                    return self._fault_refused(fault, meaning.cause)
                if asked and self._resolve_plugging(meaning.request):
                    return None
                state = self._tracked.states.state_at(fault.gpa) or PageState.WITHHELD
            request = meaning.request
            if asked:
                return self._convert_touched(fault, request)
            if not allow(ImplicitConversion(request.gpa, request.size, state, request.to, vcpu)):
                cause = f"the policy refuses its conversion to {request.to.value}"
                with self._tracked.exclusive():
                    return self._fault_refused(fault, cause)
            asked = True

    def _wait_for_unplugging(self, gpa: int) -> None:
        """Wait while pages of a region that has no memslot now are given back in steps."""
        while (sides := self._tracked.unplugged_at(gpa)) is not None:
            if not self._tracked.is_worked_on(sides.region.range):
                return
            self._tracked.await_end()

    def _meaning(self, fault: MemoryFault) -> Retry | Convert | Impossible:
        sides = self._tracked.unplugged_at(fault.gpa)
        if sides is not None:
            if not fault.flags & MemoryFaultFlag.PRIVATE:
                return Retry()  # From before it was unplugged.
            whole = sides.region.range
            return Convert(ConversionRequest(whole.start, whole.size, Side.PRIVATE, Origin.FAULT))
        region = self._tracked.regions.at(fault.gpa)
        closed = region is not None and self._tracked.sides[region.slot].is_private_side_closed
        return meaning_of(
            fault,
            self._tracked.states,
            self._tracked.regions,
            self._attributes_rule,
            private_side_closed=closed,
        )

    def _resolve_plugging(self, request: ConversionRequest) -> bool:
        """Set the memslot of a region that is unplugged; True where that was it."""
        sides = self._tracked.unplugged_at(request.gpa)
        if sides is None:
            return False
        self._tracked.vm.set_memslot(sides.memslot())
        self._tracked.note_plugged(sides)
        self._tracked.note_change()
        self._conversion.count(request)
        return True

    def _convert_touched(
        self, fault: MemoryFault, request: ConversionRequest
    ) -> FaultRefused | None:
        def planned() -> ConversionPlan | Refusal:
            # Another vCPU's conversion may have come between: then this is none, and tried again.
            meaning = self._meaning(fault)
            is_same = isinstance(meaning, Convert) and meaning.request == request
            return plan(request, self._tracked.regions) if is_same else Refusal.EMPTY

        try:
            self._conversion.carry_out(request, planned, on_vcpu=True)
        except (LeaseHeldError, HeldPageError) as held:
            if held.interrupted:
                return None
            with self._tracked.exclusive():
                return self._fault_refused(fault, held.cause)
        return None

    def _fault_refused(self, fault: MemoryFault, cause: str) -> FaultRefused:
        private = bool(fault.flags & MemoryFaultFlag.PRIVATE)
        return FaultRefused(fault.gpa, fault.size, private, cause, self._tracked.states.snapshot())
