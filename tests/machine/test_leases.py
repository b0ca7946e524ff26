# SPDX-License-Identifier: MIT
"""Leases of guest memory: refusals, what waits for them and what ends a wait."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import cffi
import pytest

from pyvmm.errors import ConversionRefusedError, PyvmmError
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.held_ranges import HeldKind, LeaseRefusal
from pyvmm.hosts.interface import GuestMapping, Memslot, MemslotFlag, Vm
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.launch import PrivateLaunch
from pyvmm.machine.leases import MOST_RANGES, LeaseHeldError, LeaseRefusedError
from pyvmm.machine.memory_sides import MemorySides, SharedMemory
from pyvmm.machine.standing_lease import StandingLease
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE

from .test_guest_memory import (
    KVM_HC_PRIVATE,
    KVM_HC_SHARED,
    MORE_RAM,
    RAM,
    WINDOW,
    Kernel,
    Side0,
    sides,
)

ROM = GpaRange(1 << 40, (1 << 40) + PAGE_SIZE)
END = 1 << 64
FOR_EVER = 600.0
"""Seconds of a wait that something else must end."""
AT_ONCE = 0.0
SOON = 60.0
"""Seconds for what waits for nobody, on a machine however busy."""


class World:
    """Guest memory on a kernel of our own; `wanted` as vCPUs' threads are."""

    def __init__(self, *, attributes_rule: bool = True) -> None:
        self.kernel = Kernel()
        self.wanted = False
        self.is_over = False
        self.memory = GuestMemory(
            cast(Vm, self.kernel),
            attributes_rule=attributes_rule,
            wanted=lambda: self.wanted,
            is_over=lambda: self.is_over,
            patience=AT_ONCE,
        )
        self.memory.regions.add(sides(self.kernel, MemoryRegion(0, RAM, True, "RAM"), 0))
        more = MemoryRegion(1, MORE_RAM, True, "RAM")
        self.memory.regions.add(sides(self.kernel, more, RAM.size))
        window = MemoryRegion(2, WINDOW, False, "window")
        self.memory.regions.add(sides(self.kernel, window, 0))
        rom = Memslot(3, ROM.start, ROM.size, 0x6000_0000, MemslotFlag.READONLY)
        mapping = cast(GuestMapping, Side0(self.kernel, "rom"))
        view = memoryview(bytearray(b"\x55" * ROM.size))
        region = MemoryRegion(3, ROM, False, "ROM")
        self.memory.regions.add(MemorySides(region, rom, mapping, view, 0))
        self.kernel.calls.clear()

    def is_leased(self) -> bool:
        return bool(self.kernel.held.overlapping(HeldKind.LEASE, 0, END - 1))

    def is_waited_for(self) -> bool:
        return bool(self.kernel.held.overlapping(HeldKind.WAITING, 0, END - 1))


def touch(gpa: int) -> MemoryFault:
    """A private access of the guest's."""
    return MemoryFault(gpa, PAGE_SIZE, MemoryFaultFlag.PRIVATE, errno.EFAULT)


@pytest.fixture
def world() -> World:
    return World()


# -- what a lease is --


def test_views_are_the_memory_itself_until_the_lease_is_closed(world: World) -> None:
    asked = [(8, 4), (MORE_RAM.start, 2), (0, 8)]
    with world.memory.lease(asked, writable=True, holder="disk") as lease:
        assert [len(view) for view in lease.views] == [4, 2, 8]
        lease.views[0][:] = b"abcd"
        lease.views[1][:] = b"xy"
        assert world.memory.read(8, 4) == b"abcd"
        world.memory.write(0, b"12345678")
        assert bytes(lease.views[2]) == b"12345678"
        views = lease.views
        assert world.memory.leases.holder_over(GpaRange(11, 12)) == "disk"
        assert world.memory.leases.holder_over(GpaRange(12, 13)) is None
    for view in views:
        with pytest.raises(ValueError, match="released"):
            view[0]
    assert not world.is_leased()
    lease.close()
    assert not lease.views
    assert world.memory.read(MORE_RAM.start, 2) == b"xy"


def test_what_is_not_writable_is_read_only(world: World) -> None:
    with world.memory.lease([(0, 8), (4, 8), (ROM.start, 4)]) as lease:
        assert bytes(lease.views[2]) == b"\x55" * 4
        for view in lease.views:
            with pytest.raises(TypeError):
                view[0] = 1


def test_a_lease_whose_view_is_in_use_goes_on(world: World) -> None:
    lease = world.memory.lease([(0, 8), (8, 8)], writable=True)
    # As a system call in another thread has it.
    used = cffi.FFI().from_buffer(lease.views[1])
    with pytest.raises(BufferError):
        lease.close()
    assert world.is_leased()
    del used
    lease.close()
    assert not world.is_leased()


# -- refusals --


def refusals() -> Iterator[Any]:
    reasons = LeaseRefusal
    yield pytest.param([], 0, reasons.EMPTY, id="no ranges")
    yield pytest.param([(0, 8), (8, 0)], 1, reasons.EMPTY, id="no bytes")
    yield pytest.param([(END - 1, 2)], 0, reasons.WRAPS, id="wraps")
    yield pytest.param([(0, 8), (4, 8)], 1, reasons.OVERLAPS, id="overlaps")
    yield pytest.param([(0, 8), (ROM.start, 1)], 1, reasons.READ_ONLY, id="read-only")
    yield pytest.param([(MORE_RAM.end, 1)], 0, reasons.NO_MEMORY, id="hole")
    yield pytest.param([(WINDOW.end - 1, 2)], 0, reasons.NO_MEMORY, id="beyond the end")
    yield pytest.param([(RAM.end - 1, 2)], 0, reasons.TWO_REGIONS, id="two regions")
    yield pytest.param([(0, 8), (PAGE_SIZE, 1)], 1, reasons.NOT_SHARED, id="private")
    yield pytest.param([(WINDOW.start, 1)], 0, reasons.NOT_SHARED, id="withheld")
    yield pytest.param([(0, 1)] * (MOST_RANGES + 1), 0, reasons.TOO_MANY, id="one too many")
    yield pytest.param([(0, 1)] * (1 << 20), 0, reasons.TOO_MANY, id="2^20 ranges")
    yield pytest.param([(0, 1), (-1, 1)], 1, reasons.NOT_A_RANGE, id="negative")
    yield pytest.param([(END, 1)], 0, reasons.NOT_A_RANGE, id="65 bits")
    yield pytest.param([(0, 1, 2, 3)], 0, reasons.NOT_A_RANGE, id="four numbers")
    yield pytest.param([(0,), (1, 2, 3)], 0, reasons.NOT_A_RANGE, id="one and three")
    yield pytest.param([(0, 1), (1.5, 1)], 1, reasons.NOT_A_RANGE, id="a fraction")
    yield pytest.param([("0", 1)], 0, reasons.NOT_A_RANGE, id="text")
    yield pytest.param([None], 0, reasons.NOT_A_RANGE, id="nothing")


@pytest.mark.parametrize(("asked", "index", "reason"), list(refusals()))
def test_a_refused_lease_says_which_range_and_why(
    world: World, asked: list[tuple[int, int]], index: int, reason: LeaseRefusal
) -> None:
    world.memory.conversion.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    world.memory.conversion.withhold(WINDOW.start, WINDOW.size)
    with pytest.raises(LeaseRefusedError) as refused:
        world.memory.lease(asked, writable=True)
    assert (refused.value.reason, refused.value.index) == (reason, index)
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 200
    if reason not in {LeaseRefusal.TOO_MANY, LeaseRefusal.NOT_A_RANGE} and asked:
        gpa, size = asked[index]
        assert f"{size} bytes" in text
        assert f"gpa {gpa:#x}" in text
        assert reason.cause in text
    assert not world.is_leased()


def test_as_many_ranges_as_there_may_be_are_leased(world: World) -> None:
    with world.memory.lease([(16 * at, 16) for at in range(MOST_RANGES)], writable=True) as lease:
        assert len(lease.views) == MOST_RANGES
    assert not world.is_leased()


def test_nothing_is_leased_after_the_end(world: World) -> None:
    lease = world.memory.lease([(0, 8)], writable=True)
    world.memory.close()
    lease.views[0][0] = 1
    with pytest.raises(LeaseRefusedError) as refused:
        world.memory.lease([(0, 8)])
    assert refused.value.reason is LeaseRefusal.CLOSED
    lease.close()


def test_the_states_of_every_way_to_change_them_are_known_to_leases(world: World) -> None:
    """After each change all pages can be leased that are shared, and no others."""
    memory = world.memory

    def check() -> None:
        for region in (RAM, MORE_RAM, WINDOW):
            for gpa in range(region.start, region.end, PAGE_SIZE):
                is_shared = memory.states.at(gpa) is PageState.SHARED
                assert world.kernel.held.is_shared(gpa, PAGE_SIZE) == is_shared, hex(gpa)

    def failing(name: str) -> Callable[[str], int]:
        return lambda call: errno.ENOMEM if call.startswith(name) else 0

    steps: list[Callable[[], object]] = [
        lambda: memory.conversion.convert(RAM.end - PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE),
        lambda: memory.exits.answer_hypercall((0, 3, KVM_HC_PRIVATE)),
        lambda: memory.exits.answer_hypercall((PAGE_SIZE, 1, KVM_HC_SHARED)),
        lambda: memory.conversion.withhold(WINDOW.start, 2 * PAGE_SIZE),
        lambda: memory.exits.resolve_fault(touch(WINDOW.start), 0, lambda _: True),
        lambda: memory.regions.unplug(1),
        lambda: memory.exits.resolve_fault(touch(MORE_RAM.start), 0, lambda _: True),
        lambda: memory.regions.remove(1),
        lambda: memory.regions.add(
            sides(world.kernel, MemoryRegion(1, MORE_RAM, True, "RAM"), RAM.size)
        ),
    ]
    for step in steps:
        for name in ("attributes", "memslot", "discard", "nothing"):
            world.kernel.failing = failing(name)
            with suppress(PyvmmError, KeyError):
                step()
            world.kernel.failing = lambda _call: 0
            check()


# -- conversions that meet a lease --

TAKING: Sequence[tuple[str, Callable[[GuestMemory], object]]] = (
    ("convert", lambda memory: memory.conversion.convert(0, 2 * PAGE_SIZE, Side.PRIVATE)),
    ("unplug", lambda memory: memory.regions.unplug(0)),
    ("remove", lambda memory: memory.regions.remove(0)),
)


@pytest.mark.parametrize("take", [take for _, take in TAKING], ids=[name for name, _ in TAKING])
def test_what_takes_leased_pages_is_refused_and_nothing_changes(
    world: World, take: Callable[[GuestMemory], object]
) -> None:
    before = world.memory.states.runs()
    with world.memory.lease([(PAGE_SIZE + 5, 1)], holder="net0"):
        with pytest.raises(LeaseHeldError, match="net0 works on a part of it") as refused:
            take(world.memory)
        assert isinstance(refused.value, ConversionRefusedError)
        assert not refused.value.interrupted
        assert world.kernel.calls == []
        assert world.memory.states.runs() == before
    assert not world.is_waited_for()
    take(world.memory)
    assert world.memory.states.runs() != before


def test_withholding_waits_too(world: World) -> None:
    with (
        world.memory.lease([(WINDOW.start, 1)], holder="net0"),
        pytest.raises(LeaseHeldError, match="net0"),
    ):
        world.memory.conversion.withhold(WINDOW.start, PAGE_SIZE)


def test_a_guest_that_converts_leased_pages_is_told_to_try_again(world: World) -> None:
    with world.memory.lease([(PAGE_SIZE, 8)], writable=True):
        answer = world.memory.exits.answer_hypercall
        assert answer((0, 2, KVM_HC_PRIVATE)) == -errno.EAGAIN
        assert world.kernel.calls == []
        assert answer((0, 1, KVM_HC_PRIVATE)) == 0, "elsewhere it goes on"
        assert answer((0, 2, KVM_HC_SHARED)) == 0, "what is leased is shared, and stays so"
    assert answer((0, 2, KVM_HC_PRIVATE)) == 0
    assert world.memory.conversion.failures == []


def test_a_touch_that_takes_leased_pages_is_refused_with_a_report() -> None:
    world = World(attributes_rule=False)
    fault = touch(0)
    with world.memory.lease([(0, 8)], holder="net0"):
        refused = world.memory.exits.resolve_fault(fault, 0, lambda _: True)
        assert refused is not None
        assert "net0" in refused.cause
        world.wanted = True
        assert world.memory.exits.resolve_fault(fault, 0, lambda _: True) is None, "tried again"
        assert world.memory.states.at(0) is PageState.SHARED
    assert world.memory.exits.resolve_fault(fault, 0, lambda _: True) is None
    assert world.memory.states.at(0) is PageState.PRIVATE


@contextmanager
def waiting(world: World, take: Callable[[], object]) -> Iterator[list[object]]:
    """Inside: a thread is in `take`, waiting. Afterwards it has ended: the list has its answer."""
    answers: list[object] = []

    def run() -> None:
        try:
            answers.append(take())
        except ConversionRefusedError as refused:
            answers.append(refused)

    world.memory.leases.patience = FOR_EVER
    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not world.is_waited_for():
            assert thread.is_alive()
        yield answers
    finally:
        thread.join(FOR_EVER)
    assert not thread.is_alive()
    assert not world.is_waited_for()


def test_a_conversion_goes_on_when_the_lease_ends_and_keeps_new_ones_out(world: World) -> None:
    first = world.memory.lease([(0, 8)])
    second = world.memory.lease([(4, 8)])
    convert = world.memory.conversion.convert
    with waiting(world, lambda: convert(0, PAGE_SIZE, Side.PRIVATE)) as answers:
        with pytest.raises(LeaseRefusedError) as refused:
            world.memory.lease([(PAGE_SIZE - 1, 1)])
        assert refused.value.reason is LeaseRefusal.CONVERTING
        first.close()
        assert answers == []
        with world.memory.lease([(PAGE_SIZE, 1)]):
            assert world.memory.states.at(0) is PageState.SHARED
        second.close()
    assert answers == [None]
    assert world.memory.states.at(0) is PageState.PRIVATE


def test_a_vcpu_that_is_wanted_waits_no_longer(world: World) -> None:
    hypercall = (0, 1, KVM_HC_PRIVATE)
    with world.memory.lease([(0, 8)]):
        with waiting(world, lambda: world.memory.exits.answer_hypercall(hypercall)) as answers:
            world.memory.leases.interrupt()
            assert answers == []
            world.wanted = True
            world.memory.leases.interrupt()
        assert answers == [-errno.EAGAIN]
        assert world.kernel.calls == []
        world.wanted = False


def test_the_host_waits_on_though_vcpus_are_wanted(world: World) -> None:
    lease = world.memory.lease([(0, 8)])
    with waiting(world, lambda: world.memory.regions.remove(0)) as answers:
        world.wanted = True
        world.memory.leases.interrupt()
        assert answers == []
        lease.close()
    assert answers == [None]
    assert world.memory.states.at(0) is None


def test_who_waits_for_the_lock_of_conversions_holds_up_nobody_who_interrupts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio interrupts while it has control's lock: it may not wait for a conversion."""
    leases, held = world.memory.leases, world.kernel.held
    overlapping = held.overlapping
    stalled: list[bool] = []

    def while_somebody_interrupts(kind: HeldKind, gpa: int, size: int) -> int:
        one = threading.Thread(target=leases.interrupt, daemon=True)
        one.start()
        one.join(SOON)
        stalled.append(one.is_alive())
        return overlapping(kind, gpa, size)

    monkeypatch.setattr(held, "overlapping", while_somebody_interrupts)
    assert not leases.wait(RAM, on_vcpu=True)
    assert stalled == [False]


@pytest.mark.parametrize("asked", [[(0, 8)], [(0, 8), (MORE_RAM.start, 8)]], ids=["one", "two"])
def test_a_lease_that_meets_the_end_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[int, int]]
) -> None:
    """The machine ends between the lock of conversions and the views."""
    leases = world.memory.leases
    granted = leases._lease

    def then_the_end(rows: bytes, count: int, writable: bool, /) -> int:
        number = granted(rows, count, writable)
        world.memory.close()
        return number

    monkeypatch.setattr(leases, "_lease", then_the_end)
    with pytest.raises(LeaseRefusedError, match="the machine has ended") as refused:
        leases.lease(asked)
    assert refused.value.reason is LeaseRefusal.CLOSED
    assert not world.is_leased()


# -- a launch that completes --


class Placed:
    """Shared memory of a launch."""

    def __init__(self, world: World, slot: int) -> None:
        self.sides = world.memory._tracked.sides[slot]
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def launch_of(world: World) -> tuple[PrivateLaunch, list[Placed]]:
    launch = object.__new__(PrivateLaunch)
    placed = [Placed(world, slot) for slot in (1, 2)]
    launch._memory = world.memory
    launch._report = None
    launch._firmware, launch._staging = cast(list[SharedMemory], placed)
    return launch, placed


def test_the_end_of_the_run_ends_a_launch_s_wait_for_a_lease(world: World) -> None:
    launch, placed = launch_of(world)
    with world.memory.lease([(WINDOW.start, 8)], holder="net0"):
        with waiting(world, launch.complete) as answers:
            world.wanted = world.is_over = True
            world.memory.leases.interrupt()
        [held] = answers
        assert isinstance(held, LeaseHeldError)
        assert held.interrupted
    assert not any(one.is_closed for one in placed)
    assert launch._firmware is not None, "what has not gone is still the launch's"


def test_a_pause_does_not_keep_a_launch_from_completing(world: World) -> None:
    launch, placed = launch_of(world)
    lease = world.memory.lease([(WINDOW.start, 8)], holder="net0")
    with waiting(world, launch.complete) as answers:
        world.wanted = True
        world.memory.leases.interrupt()
        lease.close()
    assert answers == [None]
    assert all(one.is_closed for one in placed)
    assert world.memory.states.at(WINDOW.start) is None


@pytest.mark.parametrize("reason", list(LeaseRefusal))
def test_a_refusal_says_what_to_do_where_there_is_something(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: LeaseRefusal
) -> None:
    monkeypatch.setattr(world.memory.leases, "_lease", lambda *_: -reason.code)
    with pytest.raises(LeaseRefusedError) as refused:
        world.memory.lease([(0, 8)])
    expected = reason
    if reason is LeaseRefusal.NO_MEMORY:
        expected = LeaseRefusal.TWO_REGIONS  # not a hole, so this is what it must have been
    assert refused.value.reason is expected
    assert refused.value.remedy == expected.remedy
    assert str(refused.value).endswith(expected.remedy or expected.cause)
    reasons = LeaseRefusal
    asks_for_something = {
        reasons.CONVERTING,
        reasons.TOO_MANY,
        reasons.MEMORY_SHORT,
        reasons.TWO_REGIONS,
    }
    assert bool(reason.remedy) == (reason in asks_for_something)


# -- standing leases --


def test_a_standing_lease_is_of_all_that_can_be_written_and_ends_when_asked(world: World) -> None:
    asked = []
    lease = StandingLease(world.memory.leases, lambda: asked.append(1), "card")
    with lease:
        ranges = [(gpa, size) for gpa, size, _ in lease.regions]
        assert ranges == sorted((one.start, one.size) for one in (RAM, MORE_RAM, WINDOW))
        slots = {one.memslot().gpa: one.memslot().hva for one in world.memory.regions.sides()}
        assert all(slots[gpa] == hva for gpa, _, hva in lease.regions)
        for one in (RAM, MORE_RAM, WINDOW):
            assert world.memory.leases.holder_over(GpaRange(one.end - 1, one.end)) == "card"
        assert world.memory.leases.holder_over(ROM) is None
        # Others work on the same memory all the time, and nobody is asked for that.
        with world.memory.lease([(0, 8)], writable=True):
            assert not asked
        with world.memory.leases.vacating(GpaRange(0, PAGE_SIZE)) as vacating:
            assert asked == [1]
            assert not vacating.is_vacant
            lease.close()
            assert vacating.is_vacant
            with pytest.raises(LeaseRefusedError) as refused:
                StandingLease(world.memory.leases, lambda: asked.append(2), "card")
            assert refused.value.reason is LeaseRefusal.CONVERTING
    # Who has none is not asked.
    with world.memory.leases.vacating(GpaRange(0, PAGE_SIZE)):
        assert asked == [1]
    assert not world.is_leased()


def test_private_memory_has_no_standing_lease(world: World) -> None:
    world.memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    with pytest.raises(LeaseRefusedError) as refused:
        StandingLease(world.memory.leases, lambda: None, "card")
    assert refused.value.reason is LeaseRefusal.NOT_SHARED
    assert not world.memory.leases.askers
