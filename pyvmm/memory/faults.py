# SPDX-License-Identifier: MIT
"""Meaning of a guest access that KVM cannot resolve: try again, convert, or give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.hosts.exits import EHWPOISON, MemoryFault, MemoryFaultFlag
from pyvmm.memory.conversion import ConversionRequest, Origin, Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState, PageStates
from pyvmm.memory.regions import RegionTable
from pyvmm.rules.abi import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Retry:
    """The page has become what the access needs, or may have: run the vCPU again."""


@dataclass(frozen=True, slots=True)
class Convert:
    """A conversion that the guest did not announce would let the access through."""

    request: ConversionRequest


@dataclass(frozen=True, slots=True)
class Impossible:
    """Nothing lets the access through; `cause` says why."""

    cause: str


FaultMeaning: TypeAlias = Retry | Convert | Impossible

_RETRY = Retry()
_NO_MEMORY = Impossible("there is no memory")
_POISONED = Impossible("the host has lost the page to a hardware error")
_CLOSED = Impossible("the guest_memfd of its private side has been closed")
_NO_PRIVATE_SIDE = Impossible("the memory there has no private side")


def meaning_of(
    fault: MemoryFault,
    states: PageStates,
    regions: RegionTable,
    attributes_rule: bool,
    *,
    private_side_closed: bool = False,
) -> FaultMeaning:
    """Decide what to do about a KVM_EXIT_MEMORY_FAULT.

    `attributes_rule`: KVM itself takes an access's side from the attributes, as it does for
    KVM_X86_SW_PROTECTED_VM (``kvm_mmu_page_fault``); otherwise the guest chooses it.
    `private_side_closed`: the guest_memfd of the region is no longer open, so that its memslot has
    lost it (``kvm_gmem_release``). `states` and `regions` are those of now, not of the access:
    other vCPUs may have converted the page since, so an access that now is possible is tried again.

    An access to pages in several states is taken one state after the other: the first that is in
    the way decides, and the access faults again for the next.
    """
    if fault.errno == EHWPOISON:
        return _POISONED
    unknown = int(fault.flags) & ~int(MemoryFaultFlag.PRIVATE)
    if unknown:
        return Impossible(
            f"KVM gives the fault's flags {int(fault.flags):#x}, of which {unknown:#x} has no "
            "meaning to pyvmm"
        )
    gpa, size = fault.gpa, fault.size
    private_access = MemoryFaultFlag.PRIVATE in fault.flags
    if private_access and private_side_closed:
        return _CLOSED
    start = gpa & -PAGE_SIZE
    end = max((gpa + size + PAGE_SIZE - 1) & -PAGE_SIZE, start + PAGE_SIZE)
    if end - start == PAGE_SIZE:
        at_start = states.state_at(start)
        found = [] if at_start is None else [(start, end, at_start)]
    else:
        found = _found(GpaRange(start, end), states)
    if not found:
        # A shared access to nothing is MMIO, which is no fault: the memory went away just now. Who
        # finds the attribute still private there comes back with a private access.
        return _RETRY if attributes_rule and not private_access else _NO_MEMORY
    needed = _by_attributes if attributes_rule else _by_access
    for low, high, state in found:
        region = regions.at(low)
        if region is None:
            return _NO_MEMORY
        side = needed(private_access, state, region.can_be_private)
        if isinstance(side, Side):
            # Within one region, so that nothing is left to refuse.
            part = min(high, region.range.end) - low
            return Convert(ConversionRequest(low, part, side, Origin.FAULT))
        if side is not None:
            return side
    return _RETRY


def _found(pages: GpaRange, states: PageStates) -> list[tuple[int, int, PageState]]:
    """The runs in `pages` as (start, end, state); none unless all of it is memory."""
    if not states.covers(pages):
        return []
    return [(run.range.start, run.range.end, run.state) for run in states.runs(pages)]


def _by_attributes(private_access: bool, state: PageState, can_be_private: bool) -> Side | None:
    """The side that a page has to go to; None when it is not in the way."""
    if state is PageState.WITHHELD and private_access:
        return Side.PRIVATE if can_be_private else Side.SHARED
    return None


def _by_access(
    private_access: bool, state: PageState, can_be_private: bool
) -> Side | Impossible | None:
    """The same where the guest chooses the side; or why no side will do."""
    if private_access:
        if not can_be_private:
            return _NO_PRIVATE_SIDE
        return None if state is PageState.PRIVATE else Side.PRIVATE
    return None if state is PageState.SHARED else Side.SHARED
