# SPDX-License-Identifier: MIT
"""Conversions as the machine executes them, on a kernel of our own that records and can fail."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from pyvmm.errors import ConversionRefusedError, SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.interface import Converted, GuestMapping, GuestMemfd, Memslot, ServedSpan, Vm
from pyvmm.hosts.model.held_ranges import ModelHeldRanges
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.implicit import FaultRefused, ImplicitConversion
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GIB, GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.memory.steps import STEP
from pyvmm.rules.abi import PAGE_SIZE

RAM = GpaRange(0, 64 * PAGE_SIZE)
MORE_RAM = GpaRange(64 * PAGE_SIZE, 80 * PAGE_SIZE)
WINDOW = GpaRange(1 << 30, (1 << 30) + 4 * PAGE_SIZE)
EVERYTHING = GpaRange(0, 1 << 52)
KVM_HC_SHARED, KVM_HC_PRIVATE = 0, 1 << 4


class Kernel:
    """Notes down every call; `failing` makes the one whose name it is asked with fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.fast: list[Converted] = []
        self.served: list[ServedSpan] = []
        self.locked = False
        self.failing: Callable[[str], int] = lambda _call: 0
        self.conversions = self
        self.held = ModelHeldRanges()

    def note(self, name: str, *values: object) -> None:
        number = self.failing(name)
        if number:
            raise SystemCallError(name, number, errno.errorcode[number])
        self.calls.append((name, *values))

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        assert self.locked
        self.note("attributes", gpa, size, bool(attributes))

    def set_memslot(self, memslot: Memslot) -> None:
        self.note("memslot", memslot.slot, memslot.size)

    def serve(self, spans: Sequence[ServedSpan]) -> None:
        self.served = list(spans)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        assert not self.locked
        self.locked = True
        try:
            yield
        finally:
            self.locked = False

    def give_way(self, seconds: float = 0.0) -> bool:
        assert self.locked
        del seconds
        return False

    def await_end(self) -> None:
        pytest.fail("nobody else is here")

    def drain(self) -> list[Converted]:
        fast, self.fast = self.fast, []
        return fast


class Side0:
    """Either side of a region: a mapping and a guest_memfd in one."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self._name = name

    def discard(self, offset: int, size: int) -> None:
        self._kernel.note(f"discard {self._name}", offset, size)

    punch_hole = discard
    is_open = True

    def resident(self, _offset: int, size: int) -> int:
        return size


def sides(kernel: Kernel, region: MemoryRegion, offset: int) -> MemorySides:
    private = cast(GuestMemfd, Side0(kernel, "private")) if region.can_be_private else None
    memslot = Memslot(
        region.slot, region.range.start, region.range.size, 0x7000_0000 + offset,
        guest_memfd=private, guest_memfd_offset=offset,
    )  # fmt: skip
    view = memoryview(bytearray(region.range.size + offset))
    return MemorySides(region, memslot, cast(GuestMapping, Side0(kernel, "shared")), view, offset)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def memory(kernel: Kernel) -> GuestMemory:
    made = GuestMemory(cast(Vm, kernel))
    made.regions.add(sides(kernel, MemoryRegion(0, RAM, True, "RAM"), 0))
    made.regions.add(sides(kernel, MemoryRegion(1, MORE_RAM, True, "RAM"), RAM.size))
    made.regions.add(sides(kernel, MemoryRegion(2, WINDOW, False, "window"), 0))
    kernel.calls.clear()
    return made


def fault(gpa: int, *, private: bool = True, number: int = errno.EFAULT) -> MemoryFault:
    flags = MemoryFaultFlag.PRIVATE if private else MemoryFaultFlag(0)
    return MemoryFault(gpa, PAGE_SIZE, flags, number)


def always(_conversion: ImplicitConversion) -> bool:
    return True


def states(memory: GuestMemory) -> list[tuple[int, int, str]]:
    return [(run.range.start, run.range.end, run.state.value) for run in memory.states.runs()]


# -- the order of things --


def test_to_private_sets_attributes_and_then_gives_the_shared_side_back_slot_by_slot(
    memory: GuestMemory, kernel: Kernel
) -> None:
    memory.conversion.convert(62 * PAGE_SIZE, 4 * PAGE_SIZE, Side.PRIVATE)
    assert kernel.calls == [
        ("attributes", 62 * PAGE_SIZE, 4 * PAGE_SIZE, True),
        ("discard shared", 62 * PAGE_SIZE, 2 * PAGE_SIZE),
        ("discard shared", 64 * PAGE_SIZE, 2 * PAGE_SIZE),
    ]
    assert memory.states.bytes_in(PageState.PRIVATE) == 4 * PAGE_SIZE
    assert memory.conversion.counts == {"host to private": 1}


def test_to_shared_gives_the_private_side_back(memory: GuestMemory, kernel: Kernel) -> None:
    memory.conversion.convert(0, RAM.size, Side.PRIVATE)
    kernel.calls.clear()
    memory.conversion.convert(PAGE_SIZE, PAGE_SIZE, Side.SHARED)
    assert kernel.calls == [
        ("attributes", PAGE_SIZE, PAGE_SIZE, False),
        ("discard private", PAGE_SIZE, PAGE_SIZE),
    ]
    assert memory.states.at(PAGE_SIZE) is PageState.SHARED
    assert memory.states.at(2 * PAGE_SIZE) is PageState.PRIVATE


@pytest.mark.parametrize(
    ("gpa", "size", "to"),
    [
        (0, 0, Side.PRIVATE),
        (1, PAGE_SIZE, Side.PRIVATE),
        (0, 100, Side.SHARED),
        (MORE_RAM.end - PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE),
        ((1 << 64) - PAGE_SIZE, PAGE_SIZE, Side.PRIVATE),
        (WINDOW.start, PAGE_SIZE, Side.PRIVATE),
    ],
)
def test_what_cannot_be_changes_nothing(
    memory: GuestMemory, kernel: Kernel, gpa: int, size: int, to: Side
) -> None:
    before = states(memory)
    with pytest.raises(ConversionRefusedError, match="convert"):
        memory.conversion.convert(gpa, size, to)
    assert kernel.calls == []
    assert states(memory) == before


# -- devices --


class Device:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def leaving(self, range_: GpaRange) -> None:
        self._kernel.note("leaving", range_.start, range_.end)

    def joined(self, range_: GpaRange) -> None:
        self._kernel.note("joined", range_.start, range_.end)


def test_a_device_lets_go_before_and_joins_after(memory: GuestMemory, kernel: Kernel) -> None:
    memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    kernel.calls.clear()
    memory.regions.listen(Device(kernel), [EVERYTHING])
    assert kernel.calls == [
        ("joined", PAGE_SIZE, MORE_RAM.end),
        ("joined", WINDOW.start, WINDOW.end),
    ]
    assert kernel.held.overlapping(HeldKind.LISTENER, 0, PAGE_SIZE), "not the fast path's"
    kernel.calls.clear()
    memory.conversion.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    memory.conversion.convert(0, PAGE_SIZE, Side.SHARED)
    assert [call[0] for call in kernel.calls] == [
        "leaving", "attributes", "discard shared", "attributes", "discard private", "joined",
    ]  # fmt: skip


def test_a_device_hears_of_what_it_listens_to_and_no_more(
    memory: GuestMemory, kernel: Kernel
) -> None:
    memory.regions.listen(
        Device(kernel), [GpaRange(PAGE_SIZE, 3 * PAGE_SIZE), GpaRange(WINDOW.start, WINDOW.end)]
    )
    assert kernel.calls == [
        ("joined", PAGE_SIZE, 3 * PAGE_SIZE),
        ("joined", WINDOW.start, WINDOW.end),
    ]
    assert len(kernel.served) == 2, "vCPUs go on converting by themselves"
    assert not kernel.held.overlapping(HeldKind.LISTENER, 3 * PAGE_SIZE, PAGE_SIZE)
    kernel.calls.clear()
    memory.conversion.convert(4 * PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    memory.conversion.convert(2 * PAGE_SIZE, 2 * PAGE_SIZE, Side.PRIVATE)
    assert [call for call in kernel.calls if call[0] == "leaving"] == [
        ("leaving", 2 * PAGE_SIZE, 3 * PAGE_SIZE)
    ]


# -- failures --


def test_eagain_is_tried_again(memory: GuestMemory, kernel: Kernel) -> None:
    left = 3

    def fails(name: str) -> int:
        nonlocal left
        if name == "attributes" and left:
            left -= 1
            return errno.EAGAIN
        return 0

    kernel.failing = fails
    memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    assert left == 0
    assert memory.states.at(0) is PageState.PRIVATE


def test_a_failure_of_the_attributes_leaves_all_as_it_was(
    memory: GuestMemory, kernel: Kernel
) -> None:
    kernel.failing = lambda name: errno.ENOMEM if name == "attributes" else 0
    with pytest.raises(SystemCallError):
        memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    assert memory.states.at(0) is PageState.SHARED
    assert memory.exits.answer_hypercall((0, 1, KVM_HC_PRIVATE)) == -errno.EFAULT
    assert memory.conversion.failures == ["cannot attributes: ENOMEM"]


def test_a_failure_in_the_middle_leaves_a_state_that_is_true(
    memory: GuestMemory, kernel: Kernel
) -> None:
    kernel.failing = lambda name: errno.ENOMEM if name == "discard shared" else 0
    assert memory.exits.answer_hypercall((0, 2, KVM_HC_PRIVATE)) == -errno.EFAULT
    assert memory.states.at(0) is PageState.PRIVATE, "the attributes are set, whatever came after"
    assert memory.states.at(2 * PAGE_SIZE) is PageState.SHARED
    assert len(memory.conversion.failures) == 1
    kernel.failing = lambda _name: 0
    assert memory.exits.answer_hypercall((0, 2, KVM_HC_PRIVATE)) == 0, "it can be tried again"
    assert ("discard shared", 0, 2 * PAGE_SIZE) in kernel.calls


def test_a_run_that_is_over_stops_a_long_conversion_between_two_parts(kernel: Kernel) -> None:
    over = False
    memory = GuestMemory(cast(Vm, kernel), is_over=lambda: over)
    big = MemoryRegion(0, GpaRange(0, 4 * GIB), True, "RAM")
    view = memoryview(b"")
    private = cast(GuestMemfd, Side0(kernel, "private"))
    memslot = Memslot(0, 0, 4 * GIB, 0x7000_0000, guest_memfd=private)
    memory.regions.add(
        MemorySides(big, memslot, cast(GuestMapping, Side0(kernel, "shared")), view, 0)
    )

    def ends_soon(name: str) -> int:
        nonlocal over
        over = name == "discard shared"
        return 0

    kernel.failing = ends_soon
    memory.conversion.convert(0, 4 * GIB, Side.PRIVATE)
    assert memory.states.bytes_in(PageState.PRIVATE) == STEP
    assert memory.conversion.counts == {}, "it was not finished"


# -- the guest asks --


def test_a_hypercall_is_answered_whatever_it_asks(memory: GuestMemory) -> None:
    assert memory.exits.answer_hypercall((0, 2, KVM_HC_PRIVATE)) == 0
    assert memory.exits.answer_hypercall((0, 1, KVM_HC_SHARED)) == 0
    assert memory.exits.answer_hypercall((0, 0, KVM_HC_PRIVATE)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((5, 1, KVM_HC_PRIVATE)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((1 << 40, 1, KVM_HC_PRIVATE)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((1 << 40, 1, KVM_HC_SHARED)) == 0, (
        "a device's place is shared"
    )
    assert memory.exits.answer_hypercall((0, 1 << 63, KVM_HC_PRIVATE)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((0, 1, 1 << 5)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((WINDOW.start, 1, KVM_HC_PRIVATE)) == -errno.EOPNOTSUPP
    assert states(memory)[:3] == [
        (0, PAGE_SIZE, "shared"),
        (PAGE_SIZE, 2 * PAGE_SIZE, "private"),
        (2 * PAGE_SIZE, MORE_RAM.end, "shared"),
    ]


def test_what_vcpus_converted_by_themselves_is_known(memory: GuestMemory, kernel: Kernel) -> None:
    assert [span.gpa for span in kernel.served] == [0, MORE_RAM.start]
    kernel.fast = [Converted(0, 2 * PAGE_SIZE, True), Converted(0, PAGE_SIZE, False)]
    assert memory.states.at(0) is PageState.SHARED
    assert memory.states.at(PAGE_SIZE) is PageState.PRIVATE


# -- the guest touches --


def test_touching_what_is_withheld_converts_it_if_that_is_allowed(
    memory: GuestMemory, kernel: Kernel
) -> None:
    memory.conversion.withhold(WINDOW.start, WINDOW.size)
    assert memory.states.at(WINDOW.start) is PageState.WITHHELD
    kernel.calls.clear()
    asked: list[ImplicitConversion] = []

    def allow(conversion: ImplicitConversion) -> bool:
        assert not kernel.locked, "who is asked may ask about memory"
        asked.append(conversion)
        return True

    assert memory.exits.resolve_fault(fault(WINDOW.start), 3, allow) is None
    assert asked == [
        ImplicitConversion(WINDOW.start, PAGE_SIZE, PageState.WITHHELD, Side.SHARED, 3)
    ]
    assert kernel.calls == [("attributes", WINDOW.start, PAGE_SIZE, False)]
    assert memory.states.at(WINDOW.start) is PageState.SHARED
    assert memory.states.at(WINDOW.start + PAGE_SIZE) is PageState.WITHHELD


def test_a_refusal_shows_page_access_and_map(memory: GuestMemory, kernel: Kernel) -> None:
    memory.conversion.withhold(WINDOW.start, PAGE_SIZE)
    kernel.calls.clear()
    refused = memory.exits.resolve_fault(fault(WINDOW.start), 0, lambda _conversion: False)
    assert isinstance(refused, FaultRefused)
    text = "\n".join(refused.lines())
    assert f"{WINDOW.start:#x}" in text
    assert "private" in text
    assert "withheld" in text
    assert kernel.calls == []
    assert refused.to_json()["gpa"] == WINDOW.start


def test_a_fault_that_another_vcpu_has_overtaken_is_tried_again(memory: GuestMemory) -> None:
    never = cast(Any, None)
    assert memory.exits.resolve_fault(fault(0, private=True), 0, never) is None
    memory.conversion.convert(0, PAGE_SIZE, Side.PRIVATE)
    assert memory.exits.resolve_fault(fault(0, private=False), 0, never) is None
    assert memory.states.at(0) is PageState.PRIVATE, "a race is no wish to convert"


def test_a_fault_where_there_is_no_memory_is_refused(memory: GuestMemory) -> None:
    assert isinstance(memory.exits.resolve_fault(fault(1 << 40), 0, always), FaultRefused)
    poisoned = fault(0, number=133)
    assert isinstance(memory.exits.resolve_fault(poisoned, 0, always), FaultRefused)


def test_touching_an_unplugged_region_plugs_it_private(memory: GuestMemory, kernel: Kernel) -> None:
    memory.regions.unplug(1)
    assert memory.states.at(MORE_RAM.start) is PageState.WITHHELD
    assert kernel.calls == [
        ("attributes", MORE_RAM.start, MORE_RAM.size, True),
        ("memslot", 1, 0),
        ("discard shared", RAM.size, MORE_RAM.size),
        ("discard private", RAM.size, MORE_RAM.size),
    ]
    assert [span.gpa for span in kernel.served] == [0]
    kernel.calls.clear()
    memory.regions.unplug(1)
    assert kernel.calls == [], "it is gone already"
    assert memory.exits.resolve_fault(fault(MORE_RAM.start + PAGE_SIZE), 0, always) is None
    assert kernel.calls == [("memslot", 1, MORE_RAM.size)]
    assert memory.states.at(MORE_RAM.start) is PageState.PRIVATE
    assert [span.gpa for span in kernel.served] == [0, MORE_RAM.start]


def test_a_region_that_a_vcpu_has_plugged_in_is_known(kernel: Kernel) -> None:
    memory = GuestMemory(cast(Vm, kernel), honours_touches=True)
    memory.regions.add(sides(kernel, MemoryRegion(0, RAM, True, "RAM"), 0))
    memory.regions.add(sides(kernel, MemoryRegion(1, MORE_RAM, True, "RAM"), RAM.size))
    assert [span.missing for span in kernel.served] == [None, None]
    memory.regions.unplug(1)
    memslot = memory.regions.sides()[1].memslot()
    assert [span.missing for span in kernel.served] == [None, memslot]
    kernel.fast = [
        Converted(MORE_RAM.start, MORE_RAM.size, True, plugged=True),
        Converted(MORE_RAM.start, PAGE_SIZE, False),
    ]
    kernel.calls.clear()
    assert memory.states.at(MORE_RAM.start) is PageState.SHARED
    assert memory.states.at(MORE_RAM.start + PAGE_SIZE) is PageState.PRIVATE
    assert kernel.calls == []
    memory.conversion.convert(MORE_RAM.start, MORE_RAM.size, Side.SHARED)
    memory.regions.unplug(1)
    assert [span.missing for span in kernel.served] == [None, memslot]


def test_what_is_unplugged_is_no_memory_to_convert(memory: GuestMemory, kernel: Kernel) -> None:
    memory.regions.unplug(1)
    before = states(memory)
    kernel.calls.clear()
    for side in Side:
        with pytest.raises(ConversionRefusedError):
            memory.conversion.convert(MORE_RAM.start, PAGE_SIZE, side)
    assert memory.exits.answer_hypercall((MORE_RAM.start, 1, KVM_HC_SHARED)) == -errno.EINVAL
    assert memory.exits.answer_hypercall((0, 1 << 20, KVM_HC_SHARED)) == -errno.EINVAL
    assert memory.read(MORE_RAM.start, 1) is None
    assert (kernel.calls, states(memory)) == ([], before)
    memory.regions.remove(1)
    assert memory.states.at(MORE_RAM.start) is None


# -- what the host sees --


def test_the_host_reads_and_writes_shared_pages_only(memory: GuestMemory) -> None:
    assert memory.write(PAGE_SIZE - 2, b"abcd")
    assert memory.read(PAGE_SIZE - 2, 4) == b"abcd"
    memory.conversion.convert(PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    assert memory.read(PAGE_SIZE - 2, 4) is None
    assert memory.read(PAGE_SIZE - 2, 2) == b"ab"
    assert not memory.write(PAGE_SIZE, b"x")
    assert memory.read(1 << 40, 4) is None


@pytest.mark.parametrize("size", [4, 20 * PAGE_SIZE], ids=["short", "in steps"])
def test_the_host_reads_and_writes_across_regions(memory: GuestMemory, size: int) -> None:
    start = MORE_RAM.start - size // 2
    data = bytes(number % 251 for number in range(size))
    assert memory.write(start, data)
    assert memory.read(start, size) == data
    assert memory.read(MORE_RAM.start, size // 2) == data[size // 2 :]
    assert not memory.write(MORE_RAM.end - 2, b"abcd")
    assert memory.read(MORE_RAM.end - 2, 4) is None
    memory.conversion.convert(MORE_RAM.start, PAGE_SIZE, Side.PRIVATE)
    assert memory.read(start, size) is None
    assert not memory.write(start, bytes(size))
    assert memory.read(start, size // 2) == data[: size // 2]


def test_the_lock_is_given_away_between_regions(
    memory: GuestMemory, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 0

    def counted(seconds: float = 0.0) -> bool:
        nonlocal times
        del seconds
        times += 1
        return False

    monkeypatch.setattr(kernel, "give_way", counted)
    assert memory.read(0, RAM.size) is not None
    alone, times = times, 0
    assert memory.read(0, RAM.size + MORE_RAM.size) is not None
    assert times == alone + 1


def test_a_region_that_is_removed_is_gone(memory: GuestMemory, kernel: Kernel) -> None:
    memory.regions.remove(2)
    assert ("memslot", 2, 0) in kernel.calls
    assert memory.states.at(WINDOW.start) is None
    with pytest.raises(ConversionRefusedError):
        memory.conversion.convert(WINDOW.start, PAGE_SIZE, Side.SHARED)


def test_residency_names_each_region(memory: GuestMemory) -> None:
    memory.conversion.convert(0, 4 * PAGE_SIZE, Side.PRIVATE)
    first, second, window = memory.states.residency()
    assert (first.what, first.private_bytes, first.shared_bytes) == (
        "RAM", 4 * PAGE_SIZE, RAM.size - 4 * PAGE_SIZE,
    )  # fmt: skip
    assert second.private_bytes == 0
    assert window.private_resident == 0
