# SPDX-License-Identifier: MIT
"""Page states, attributes and listeners agree, whichever system call fails in the middle.

They do so whenever others may have the lock, too: between two steps of whatever size. The kernel
here is a dictionary of attributes and a set of memslots: small enough to be right.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import ConversionRefusedError, SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, Vm
from pyvmm.hosts.model.conversions import ModelConversions
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.implicit import FaultRefused
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory import steps
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE
from tests.parity.reaching_device import ReachingDevice, pages_of

REGIONS = (
    MemoryRegion(0, GpaRange(0, 4 * PAGE_SIZE), True, "RAM"),
    MemoryRegion(1, GpaRange(4 * PAGE_SIZE, 8 * PAGE_SIZE), True, "more RAM"),
    MemoryRegion(2, GpaRange(10 * PAGE_SIZE, 12 * PAGE_SIZE), False, "window"),
)
PAGES = 12


class Conversions(ModelConversions):
    """The lock, which is given away to `in_gap`: whoever else has it sees what that sees."""

    def __init__(self, in_gap: Callable[[], None]) -> None:
        super().__init__()
        self.in_gap = in_gap
        self.gaps = 0
        self.pauses = 0

    def give_way(self, seconds: float = 0.0) -> bool:
        self.gaps += 1
        self.pauses += seconds > 0
        self.in_gap()
        return super().give_way()

    def await_end(self) -> None:
        pytest.fail("nobody else is here")


class Kernel:
    """KVM's side of it: PRIVATE by page, memslots by number. The call `fails_at` fails once."""

    def __init__(self, in_gap: Callable[[], None]) -> None:
        self.private: set[int] = set()
        self.slots: set[int] = set()
        self.fails_at = -1
        self.error = errno.ENOMEM
        self.conversions = Conversions(in_gap)

    def _call(self, name: str) -> None:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise SystemCallError(name, self.error, "as the test wants it")

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        self._call("set attributes")
        pages = range(gpa // PAGE_SIZE, (gpa + size) // PAGE_SIZE)
        if attributes:
            self.private.update(pages)
        else:
            self.private.difference_update(pages)

    def set_memslot(self, memslot: Memslot) -> None:
        self._call("set memslot")
        if memslot.size:
            self.slots.add(memslot.slot)
        else:
            self.slots.remove(memslot.slot)

    def discard(self, _offset: int, _size: int) -> None:
        self._call("give pages back")

    punch_hole = discard
    is_open = True


class World:
    """Guest memory on such a kernel, with a device that listens."""

    def __init__(self) -> None:
        self.kernel = Kernel(self.check_gap)
        self.device = ReachingDevice()
        self.memory = GuestMemory(cast(Vm, self.kernel))
        self.memory.regions.listen(self.device, [GpaRange(0, PAGES * PAGE_SIZE)])

    def add(self, slot: int) -> None:
        region = REGIONS[slot]
        file = cast(GuestMemfd, self.kernel) if region.can_be_private else None
        memslot = Memslot(
            slot, region.range.start, region.range.size, 0x7000_0000, guest_memfd=file
        )
        mapping = cast(GuestMapping, self.kernel)
        view = memoryview(bytearray(region.range.size))
        self.kernel.slots.add(slot)
        try:
            self.memory.regions.add(MemorySides(region, memslot, mapping, view, 0))
        except SystemCallError:
            self.kernel.slots.remove(slot)
            raise

    def act(self, name: str, slot: int, first: int, count: int) -> None:
        has = any(sides.region.slot == slot for sides in self.memory.regions.sides())
        gpa, size = first * PAGE_SIZE, count * PAGE_SIZE
        match name:
            case "add" if not has:
                self.add(slot)
            case "remove" if has:
                self.memory.regions.remove(slot)
            case "unplug" if has and REGIONS[slot].can_be_private:
                self.memory.regions.unplug(slot)
            case "private":
                self.memory.conversion.convert(gpa, size, Side.PRIVATE)
            case "shared":
                self.memory.conversion.convert(gpa, size, Side.SHARED)
            case "withhold":
                self.memory.conversion.withhold(gpa, size)
            case "ask":
                self.memory.exits.answer_hypercall((gpa, count, 0))
            case "touch":
                fault = MemoryFault(gpa, PAGE_SIZE, MemoryFaultFlag.PRIVATE, errno.EFAULT)
                self.memory.exits.resolve_fault(fault, 0, lambda _: True)

    def check(self) -> None:
        """What is true whenever nobody is in the middle of something."""
        shared, memory = self._check_states(in_gap=False)
        for page in set(range(PAGES)) - memory:
            assert self.memory._tracked.states.state_at(page * PAGE_SIZE) is None
            assert page not in self.kernel.private, f"page {page} is no memory and still private"
        assert self.device.reaches == shared

    def check_gap(self) -> None:
        """What is true whenever somebody else has the lock."""
        shared, _ = self._check_states(in_gap=True)
        # Of a region that is being removed some may have left; nothing that is not shared joins.
        assert self.device.reaches <= shared

    def _check_states(self, *, in_gap: bool) -> tuple[set[int], set[int]]:
        shared: set[int] = set()
        memory: set[int] = set()
        tracked = self.memory._tracked
        for sides in tracked.sides.values():
            region = sides.region
            is_there = region.slot in self.kernel.slots
            is_removed = in_gap and not is_there and region.slot not in tracked.unplugged
            for page in pages_of(region.range):
                memory.add(page)
                state = tracked.states.state_at(page * PAGE_SIZE)
                is_shared = tracked.held.is_shared(page * PAGE_SIZE, PAGE_SIZE)
                assert is_shared == (state is PageState.SHARED), "what leases are given by"
                if page not in self.kernel.private:
                    expected = PageState.SHARED
                    shared.add(page)
                elif region.can_be_private and (is_there or is_removed):
                    expected = PageState.PRIVATE
                else:
                    expected = PageState.WITHHELD
                assert state is expected, f"page {page}"
        return shared, memory


ACTIONS = st.tuples(
    st.sampled_from(["add", "remove", "unplug", "private", "shared", "withhold", "ask", "touch"]),
    st.integers(0, 2),
    st.integers(0, PAGES - 1),
    st.integers(1, PAGES),
    st.integers(-1, 12),
)


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=12), st.integers(1, 6))
def test_states_attributes_and_listeners_agree_after_every_failure(
    actions: list[tuple[str, int, int, int, int]], pages_a_step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP", pages_a_step * PAGE_SIZE)
        do_all(actions)


def do_all(actions: list[tuple[str, int, int, int, int]]) -> None:
    world = World()
    for slot in range(len(REGIONS)):
        world.add(slot)
    world.check()
    for name, slot, first, count, fails_at in actions:
        world.kernel.fails_at = fails_at
        with contextlib.suppress(SystemCallError, ConversionRefusedError):
            world.act(name, slot, first, count)
        world.kernel.fails_at = -1
        world.check()


CALLS = {
    "private": 2 * 8,  # attributes and pages, step by step
    "shared": 2 * 8,
    "remove": 1 + 2,  # the slot, then the attributes of what is private
    "unplug": 4 + 1,  # the attributes, then the slot; pages are given back when it is done
}
"""System calls with a way back, in steps of one page: of two regions, two of the one private."""


@pytest.mark.parametrize("name", CALLS)
def test_each_step_has_its_way_back(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(steps, "STEP", PAGE_SIZE)
    for fails_at in range(1, CALLS[name] + 1):
        world = World()
        world.add(0)
        world.add(1)
        world.memory.conversion.convert(0, 2 * PAGE_SIZE, Side.PRIVATE)
        before = world.memory.states.runs()
        world.kernel.fails_at = fails_at
        with pytest.raises(SystemCallError):
            world.act(name, 0, 0, 8)
        world.check()
        if name in ("remove", "unplug"):
            assert world.memory.states.runs() == before, "as it was"


@pytest.mark.parametrize("name", CALLS)
def test_what_is_refused_for_now_is_tried_again_without_the_lock(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(steps, "STEP", PAGE_SIZE)
    world = World()
    world.add(0)
    world.add(1)
    world.memory.conversion.convert(0, 2 * PAGE_SIZE, Side.PRIVATE)
    world.kernel.error = errno.EAGAIN
    world.kernel.fails_at = 3  # attributes: of the second step, or of a private page
    world.act(name, 0, 0, 8)
    assert world.kernel.conversions.pauses == 1
    world.kernel.fails_at = -1
    world.check()


def test_what_is_refused_for_a_second_has_failed() -> None:
    world = World()
    world.add(0)

    def refused_again(_gpa: int, _size: int, _attributes: MemoryAttribute) -> None:
        raise SystemCallError("set attributes", errno.EAGAIN, "Resource temporarily unavailable")

    world.kernel.set_memory_attributes = refused_again  # type: ignore[assignment,method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP", PAGE_SIZE)
        with pytest.raises(SystemCallError):
            world.memory.conversion.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
    assert world.kernel.conversions.pauses == 1000
    world.check()


def test_a_region_in_the_place_of_a_private_one_is_shared() -> None:
    world = World()
    world.add(0)
    world.memory.conversion.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
    world.memory.regions.remove(0)
    world.check()
    world.add(0)
    world.check()
    assert world.memory.write(0, b"seen by the guest")


def test_what_was_left_private_by_a_slot_that_did_not_come_back_is_cleared_for_the_next() -> None:
    world = World()
    world.add(0)
    world.memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)

    def no_more_slots(_memslot: Memslot) -> None:
        world.kernel.slots.clear()
        world.kernel.set_memory_attributes = fails  # type: ignore[assignment,method-assign]
        if _memslot.size:
            raise SystemCallError("set memslot", errno.ENOMEM, "Cannot allocate memory")

    def fails(_gpa: int, _size: int, _attributes: MemoryAttribute) -> None:
        raise SystemCallError("set attributes", errno.ENOMEM, "Cannot allocate memory")

    world.kernel.set_memslot = no_more_slots  # type: ignore[assignment,method-assign]
    with pytest.raises(SystemCallError):
        world.memory.regions.remove(0)
    assert world.memory.regions.sides() == ()
    assert world.memory.states.at(0) is None
    del world.kernel.set_memslot, world.kernel.set_memory_attributes
    world.add(0)
    world.check()


def touch(world: World, gpa: int, *, more: int = 0, vcpu: int = 0) -> FaultRefused | None:
    flags = MemoryFaultFlag.PRIVATE | MemoryFaultFlag(more)
    fault = MemoryFault(gpa, PAGE_SIZE, flags, errno.EFAULT)
    return world.memory.exits.resolve_fault(fault, vcpu, lambda _: True)


def test_a_page_may_be_withheld_and_touched_any_number_of_times() -> None:
    world = World()
    world.add(2)
    gpa = REGIONS[2].range.start
    for _ in range(1100):
        world.memory.conversion.withhold(gpa, PAGE_SIZE)
        assert touch(world, gpa) is None
        # One that was under way at that time.
        assert touch(world, gpa, vcpu=1) is None


def test_a_fault_that_comes_back_although_nothing_has_changed_is_told_at_once() -> None:
    world = World()
    world.add(0)
    assert touch(world, 0) is None, "another vCPU may have converted it just now"
    assert touch(world, PAGE_SIZE) is None
    assert touch(world, 0) is None, "not the same one again and again"
    assert touch(world, 0, vcpu=1) is None
    refused = touch(world, 0)
    assert refused is not None
    assert "nothing has changed" in refused.cause
    world.memory.conversion.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    assert touch(world, 0) is None, "something has changed"


def test_a_closed_file_and_unknown_flags_are_told_at_once() -> None:
    world = World()
    world.add(0)
    world.memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    unknown = touch(world, 0, more=1 << 5)
    assert unknown is not None
    assert "0x28, of which 0x20" in unknown.cause
    world.kernel.is_open = False
    closed = touch(world, 0)
    assert closed is not None
    assert "guest_memfd of its private side has been closed" in closed.cause
