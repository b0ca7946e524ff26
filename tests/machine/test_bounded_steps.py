# SPDX-License-Identifier: MIT
"""Nobody waits for the lock of conversions for more than a step of somebody else's work.

Counted, not timed: the bytes that are worked on while the lock is held once, and who has it between
two steps. The lock is a real one; the kernel takes down what it is asked for.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from pyvmm.errors import ConversionRefusedError, SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, Vm
from pyvmm.hosts.model.conversions import ModelConversions
from pyvmm.machine import memory_states
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.leases import LeaseRefusedError
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GIB, GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.memory.steps import STEP
from pyvmm.rules.abi import PAGE_SIZE

STEPS = 8
RAM = MemoryRegion(0, GpaRange(0, STEPS * STEP), True, "RAM")
WINDOW = MemoryRegion(1, GpaRange(GIB, GIB + STEPS * STEP), False, "window")
KVM_HC_PRIVATE = 1 << 4


class Conversions(ModelConversions):
    """The lock, and the work that is done while it is held, each time: bytes by what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.holdings: list[Counter[str]] = [Counter()]

    def did(self, what: str, size: int) -> None:
        self.holdings[-1][what] += size

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with super().exclusive():
            self.holdings.append(Counter())
            yield

    def give_way(self, seconds: float = 0.0) -> bool:
        self.holdings.append(Counter())
        given = super().give_way(seconds)
        self.holdings.append(Counter())
        return given

    def largest(self, what: str) -> int:
        return max(one[what] for one in self.holdings)

    def total(self, what: str) -> int:
        return sum(one[what] for one in self.holdings)


class Kernel:
    """`before` is called by each system call, which holds the lock, with its name and a GPA."""

    def __init__(self) -> None:
        self.conversions = Conversions()
        self.before: Callable[[str, int], None] = lambda _name, _gpa: None

    def _did(self, name: str, at: int, size: int) -> None:
        self.before(name, at)
        self.conversions.did(name, size)

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        del attributes
        self._did("attributes", gpa, size)

    def set_memslot(self, memslot: Memslot) -> None:
        del memslot

    def discard(self, offset: int, size: int) -> None:
        self._did("shared side", offset, size)

    def punch_hole(self, offset: int, size: int) -> None:
        self._did("private side", offset, size)

    def data(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        yield start, start + size

    def resident(self, offset: int, size: int) -> int:
        self._did("resident", offset, size)
        return size

    is_open = True


class Sides(MemorySides):
    """Sides that tell what is copied."""

    def __init__(self, kernel: Kernel, region: MemoryRegion) -> None:
        size = region.range.size
        file = cast(GuestMemfd, kernel) if region.can_be_private else None
        memslot = Memslot(region.slot, region.range.start, size, 1 << 40, guest_memfd=file)
        mapping = cast(GuestMapping, kernel)
        super().__init__(region, memslot, mapping, memoryview(bytearray(size)), 0)
        self._kernel = kernel

    def read(self, gpa: int, size: int) -> bytes:
        self._kernel._did("copied", gpa, size)
        return super().read(gpa, size)

    def view(self, range_: GpaRange) -> memoryview:
        if range_ != self.region.range:  # Those are for leases.
            self._kernel._did("copied", range_.start, range_.size)
        return super().view(range_)

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        self._kernel._did("copied", gpa, len(data))
        super().write(gpa, data)


class Device:
    """A listener to everything."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def leaving(self, range_: GpaRange) -> None:
        self._kernel.conversions.did("leaving", range_.size)

    def joined(self, range_: GpaRange) -> None:
        self._kernel.conversions.did("joined", range_.size)


class World:
    """Guest memory of 16 MiB with two sides and as much with one."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.conversions = self.kernel.conversions
        self.memory = GuestMemory(cast(Vm, self.kernel))
        self.ram = Sides(self.kernel, RAM)
        self.memory.regions.add(self.ram)
        self.memory.regions.add(Sides(self.kernel, WINDOW))

    def listen(self) -> None:
        device = Device(self.kernel)
        self.memory.regions.listen(device, [RAM.range, WINDOW.range])
        self.conversions.holdings[:] = [Counter()]

    def let_in(self, body: Callable[[], None]) -> threading.Thread:
        """Start a thread for `body`; it waits for the lock, or for an end, on return."""
        waited = self.conversions.waiting
        one = threading.Thread(target=body, daemon=True)
        one.start()
        while self.conversions.waiting == waited:
            time.sleep(0.0002)
        return one


@pytest.fixture
def world() -> World:
    return World()


def convert(world: World, to: Side) -> None:
    world.memory.conversion.convert(RAM.range.start, RAM.range.size, to)


def to_private(world: World) -> None:
    convert(world, Side.PRIVATE)


def to_shared(world: World) -> None:
    convert(world, Side.PRIVATE)
    world.conversions.holdings[:] = [Counter()]
    convert(world, Side.SHARED)


def by_hypercall(world: World) -> None:
    answer = world.memory.exits.answer_hypercall((0, RAM.range.size // PAGE_SIZE, KVM_HC_PRIVATE))
    assert answer == 0


def withhold(world: World) -> None:
    world.memory.conversion.withhold(WINDOW.range.start, WINDOW.range.size)


def unplug(world: World) -> None:
    world.memory.regions.unplug(0)


def remove(world: World) -> None:
    convert(world, Side.PRIVATE)
    world.conversions.holdings[:] = [Counter()]
    world.memory.regions.remove(0)


def remove_shared(world: World) -> None:
    world.memory.regions.remove(0)


def add(world: World) -> None:
    convert(world, Side.PRIVATE)
    world.memory.regions.remove(0)
    world.conversions.holdings[:] = [Counter()]
    world.memory.regions.add(world.ram)


def read(world: World) -> None:
    MemorySides.view(world.ram, RAM.range)[5] = 7
    data = world.memory.read(5, RAM.range.size - 5)
    assert data is not None
    assert len(data) == RAM.range.size - 5
    assert data[0] == 7
    assert not any(data[1:PAGE_SIZE])


def write(world: World) -> None:
    data = bytes(range(251)) * (RAM.range.size // 251)
    assert world.memory.write(5, data)
    assert bytes(MemorySides.view(world.ram, GpaRange(5, 5 + len(data)))) == data


def clear(world: World) -> None:
    MemorySides.view(world.ram, RAM.range)[:] = bytes([7]) * RAM.range.size
    assert world.memory.clear(0, RAM.range.size - 1)
    assert bytes(MemorySides.view(world.ram, RAM.range)) == bytes(RAM.range.size - 1) + b"\x07"


BOTH_SIDES = {"attributes", "shared side", "private side"}
WORK: dict[Callable[[World], None], set[str]] = {
    to_private: {"attributes", "shared side", "leaving"},
    to_shared: {"attributes", "private side", "joined"},
    by_hypercall: {"attributes", "shared side", "leaving"},
    withhold: {"attributes", "shared side", "leaving"},
    unplug: {*BOTH_SIDES, "leaving"},
    remove: {"attributes", "leaving"},
    remove_shared: {"leaving"},
    add: {"attributes", "joined"},
    read: {"copied"},
    write: {"copied"},
    clear: {"copied"},
}
EVERY_WORK = pytest.mark.parametrize("work", WORK, ids=lambda one: one.__name__)


@EVERY_WORK
def test_no_holding_is_longer_than_a_step(world: World, work: Callable[[World], None]) -> None:
    world.listen()
    work(world)
    for what in WORK[work]:
        assert world.conversions.total(what) > RAM.range.size - PAGE_SIZE, what
        assert world.conversions.largest(what) <= STEP, what
    done = {what for one in world.conversions.holdings for what in one}
    assert done == WORK[work], "all of it was looked at"


@EVERY_WORK
def test_an_onlooker_gets_in_between_every_two_steps(
    world: World, work: Callable[[World], None]
) -> None:
    """It asks when a step is under way, and has its answer before the next one."""
    seen: list[int] = []
    steps = 0
    step_of = next(iter(WORK[work] & {"attributes", "copied"}), None)

    def look() -> None:
        world.memory.states.at(0)
        seen.append(steps)

    def before(name: str, _gpa: int) -> None:
        nonlocal steps
        if name == step_of:
            steps += 1
            onlookers.append(world.let_in(look))

    onlookers: list[threading.Thread] = []
    world.kernel.before = before
    work(world)
    world.kernel.before = lambda _name, _gpa: None
    for one in onlookers:
        one.join()
    assert seen == list(range(1, steps + 1)), "each one before the next step"
    assert steps >= STEPS or step_of is None


def test_residency_is_asked_for_piece_by_piece(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_states, "_PIECE", STEP)
    found = world.memory.states.residency()
    assert [one.shared_resident for one in found] == [RAM.range.size, WINDOW.range.size]
    assert world.conversions.total("resident") == 2 * RAM.range.size + WINDOW.range.size
    assert world.conversions.largest("resident") == 2 * STEP, "both sides"


def in_the_middle(world: World, body: Callable[[], None]) -> list[threading.Thread]:
    """`body` on a thread of its own, begun while the third step of a conversion is under way."""
    threads: list[threading.Thread] = []

    def before(name: str, gpa: int) -> None:
        if name == "attributes" and gpa == 2 * STEP and not threads:
            threads.append(world.let_in(body))

    world.kernel.before = before
    return threads


def is_private(world: World, gpa: int) -> bool:
    return world.memory.states.at(gpa) is PageState.PRIVATE


def test_what_is_still_to_leave_is_not_leased(world: World) -> None:
    refused: list[LeaseRefusal] = []

    def lease() -> None:
        assert not is_private(world, 6 * STEP)
        for gpa in 0, 6 * STEP:
            with pytest.raises(LeaseRefusedError) as found:
                world.memory.lease([(gpa, 8)])
            refused.append(found.value.reason)
        world.memory.lease([(WINDOW.range.start, 8)]).close()

    threads = in_the_middle(world, lease)
    to_private(world)
    threads[0].join()
    assert refused == [LeaseRefusal.NOT_SHARED, LeaseRefusal.CONVERTING]


def test_another_conversion_of_the_rest_comes_after_it(world: World) -> None:
    found: list[bool] = []

    def convert_last_page() -> None:
        world.memory.conversion.convert(RAM.range.end - PAGE_SIZE, PAGE_SIZE, Side.SHARED)
        found.append(is_private(world, RAM.range.end - 2 * PAGE_SIZE))

    threads = in_the_middle(world, convert_last_page)
    to_private(world)
    threads[0].join()
    assert found == [True], "after all of the first"
    assert not is_private(world, RAM.range.end - PAGE_SIZE)


def test_a_conversion_elsewhere_does_not_wait_for_the_end(world: World) -> None:
    found: list[bool] = []

    def elsewhere() -> None:
        world.memory.conversion.withhold(WINDOW.range.start, PAGE_SIZE)
        found.append(is_private(world, RAM.range.end - PAGE_SIZE))

    threads = in_the_middle(world, elsewhere)
    to_private(world)
    threads[0].join()
    assert found == [False], "in the middle of it"


def test_two_long_conversions_take_turns(world: World) -> None:
    order: list[str] = []

    def before(name: str, gpa: int) -> None:
        if name == "attributes":
            order.append("RAM" if gpa < WINDOW.range.start else "window")
            if len(order) == 1:
                threads.append(world.let_in(lambda: withhold(world)))

    threads: list[threading.Thread] = []
    world.kernel.before = before
    to_private(world)
    threads[0].join()
    assert order[: 2 * STEPS - 2] == ["RAM", "window"] * (STEPS - 1)


@pytest.mark.parametrize("what", [remove_shared, unplug], ids=lambda one: one.__name__)
def test_a_region_goes_after_what_is_under_way_in_it(
    world: World, what: Callable[[World], None]
) -> None:
    found: list[object] = []

    def go() -> None:
        what(world)
        found.append(world.memory.states.at(RAM.range.start))

    threads = in_the_middle(world, go)
    to_private(world)
    threads[0].join()
    assert found == [None if what is remove_shared else PageState.WITHHELD]
    assert world.conversions.total("shared side") >= RAM.range.size, "all of it was done before"


def test_the_end_of_the_machine_waits_for_a_step_s_conversion(world: World) -> None:
    """The sides go after `close`: no step may come then."""
    done: list[int] = []

    def end() -> None:
        world.memory.close()
        done.append(world.conversions.total("shared side"))

    threads = in_the_middle(world, end)
    to_private(world)
    threads[0].join()
    assert done == [RAM.range.size]


@pytest.mark.parametrize("work", [read, write, clear], ids=lambda one: one.__name__)
def test_what_is_copied_in_steps_is_converted_after_it(
    world: World, work: Callable[[World], None]
) -> None:
    threads: list[threading.Thread] = []
    calls: list[str] = []

    def before(name: str, _gpa: int) -> None:
        calls.append(name)
        if name == "copied" and not threads:
            threads.append(world.let_in(lambda: to_private(world)))

    world.kernel.before = before
    work(world)
    threads[0].join()
    copied = calls.count("copied")
    assert copied >= STEPS
    assert calls[:copied] == ["copied"] * copied, "the conversion comes after all of it"
    assert world.memory.read(0, RAM.range.size) is None
    assert not world.memory.write(0, bytes(RAM.range.size))
    assert not world.memory.clear(0, RAM.range.size)


def test_a_plugged_region_s_pages_are_not_given_back(world: World) -> None:
    """A guest touches what is being unplugged: its slot is set when all has been given back."""
    given_back: list[int] = []

    def touch() -> None:
        fault = MemoryFault(0, PAGE_SIZE, MemoryFaultFlag.PRIVATE, errno.EFAULT)
        assert world.memory.exits.resolve_fault(fault, 0, lambda _: True) is None
        assert is_private(world, 0)
        given_back.append(world.conversions.total("private side"))

    def before(name: str, gpa: int) -> None:
        if name == "private side" and gpa == 2 * STEP:
            threads.append(world.let_in(touch))

    threads: list[threading.Thread] = []
    world.kernel.before = before
    unplug(world)
    threads[0].join()
    assert given_back == [RAM.range.size]


def test_a_step_that_is_refused_for_now_holds_up_nobody(world: World) -> None:
    """EAGAIN goes on until somebody else has had the lock: it must be given away for that."""
    came = threading.Event()

    def come() -> None:
        world.memory.states.at(0)
        came.set()

    def before(name: str, gpa: int) -> None:
        if name == "attributes" and gpa == 2 * STEP and not came.is_set():
            if not threads:
                threads.append(world.let_in(come))
            raise SystemCallError("set attributes", errno.EAGAIN, "not now")

    threads: list[threading.Thread] = []
    world.kernel.before = before
    to_private(world)
    threads[0].join()
    assert is_private(world, RAM.range.end - PAGE_SIZE)


def test_a_refusal_comes_before_anything_is_held(world: World) -> None:
    with pytest.raises(ConversionRefusedError):
        world.memory.conversion.convert(0, RAM.range.size + PAGE_SIZE, Side.PRIVATE)
    assert world.conversions.total("attributes") == 0
    to_private(world)
