# SPDX-License-Identifier: MIT
"""One of several slots is taken away, or deleted, while a guest goes on: the others keep theirs.

Without a whole machine, so that there are slots beside each other that a guest need not run from:
two regions of one mapping and one guest_memfd, at other offsets than their addresses.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from pyvmm.errors import ConversionRefusedError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.exits import MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, MemslotFlag, System, Vm
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE
from tests.differential.guests import MMIO, RunningGuest, told

LOW = GpaRange(0x10000, 0x14000)
HIGH = GpaRange(0x80000, 0x88000)
LOW_SLOT, HIGH_SLOT = 3, 7
LOW_OFFSET, HIGH_OFFSET = 0, 0x4000
FILE_SIZE = 0xC000
HIGH_PRIVATE, HIGH_SHARED = HIGH.start + 2 * PAGE_SIZE, HIGH.start + 5 * PAGE_SIZE
LOW_PRIVATE, LOW_SHARED = LOW.start + PAGE_SIZE, LOW.start + 3 * PAGE_SIZE


@dataclass(frozen=True)
class Slots:
    """A guest beside two slots that it does not run from."""

    vm: Vm
    memory: GuestMemory
    guest: RunningGuest
    mapping: GuestMapping
    file: GuestMemfd

    def resident(self, offset: int, size: int) -> tuple[int, int]:
        """Bytes that the kernel holds for the shared and the private side."""
        return self.mapping.resident(offset, size), self.file.resident(offset, size)

    def high_resident(self) -> tuple[int, int]:
        return self.resident(HIGH_OFFSET, HIGH.size)

    def low_resident(self) -> tuple[int, int]:
        return self.resident(LOW_OFFSET, LOW.size)

    def check_low(self) -> None:
        """The other slot's contents, states and pages are as `prepare` left them."""
        assert self.guest.touch(LOW_PRIVATE, None) == "reads 0x11"
        assert self.guest.touch(LOW_SHARED, None) == "reads 0x22"
        assert self.memory.states.runs(LOW) == (
            PageRun(GpaRange(LOW.start, LOW_SHARED), PageState.PRIVATE),
            PageRun(GpaRange(LOW_SHARED, LOW.end), PageState.SHARED),
        )
        assert self.low_resident() == (PAGE_SIZE, PAGE_SIZE)


@pytest.fixture
def slots(each_private_system: System) -> Iterator[Slots]:
    """Both slots with private and shared pages, each with one page that has been written to."""
    with ExitStack() as owned:
        vm = owned.enter_context(each_private_system.create_vm(VmType.SW_PROTECTED))
        mapping = owned.enter_context(each_private_system.map_anonymous(FILE_SIZE))
        file = owned.enter_context(vm.create_guest_memfd(FILE_SIZE))
        view = mapping.view()
        owned.callback(view.release)
        memory = GuestMemory(vm)
        owned.callback(memory.close)
        for slot, where, offset in (LOW_SLOT, LOW, LOW_OFFSET), (HIGH_SLOT, HIGH, HIGH_OFFSET):
            memslot = Memslot(
                slot, where.start, where.size, mapping.hva + offset,
                MemslotFlag.GUEST_MEMFD, file, offset,
            )  # fmt: skip
            vm.set_memslot(memslot)
            region = MemoryRegion(slot, where, True, f"slot {slot}")
            memory.regions.add(MemorySides(region, memslot, mapping, view, offset))
        guest = RunningGuest(each_private_system, vm)
        owned.callback(guest.close)
        memory.conversion.convert(LOW.start, 3 * PAGE_SIZE, Side.PRIVATE)
        memory.conversion.convert(HIGH.start, 4 * PAGE_SIZE, Side.PRIVATE)
        written = {LOW_PRIVATE: 0x11, LOW_SHARED: 0x22, HIGH_PRIVATE: 0x33, HIGH_SHARED: 0x44}
        for gpa, value in written.items():
            assert guest.touch(gpa, value) == "done"
        made = Slots(vm, memory, guest, mapping, file)
        made.check_low()
        assert made.high_resident() == (PAGE_SIZE, PAGE_SIZE)
        yield made


def private_fault(gpa: int) -> MemoryFault:
    return MemoryFault(gpa, PAGE_SIZE, MemoryFaultFlag.PRIVATE, errno.EFAULT)


def test_what_is_taken_is_withheld_and_given_back_to_the_host(slots: Slots) -> None:
    slots.memory.regions.unplug(HIGH_SLOT)
    assert slots.memory.states.runs(HIGH) == (PageRun(HIGH, PageState.WITHHELD),)
    assert slots.high_resident() == (0, 0)
    assert slots.memory.read(HIGH_SHARED, 1) is None
    for gpa in HIGH_PRIVATE, HIGH_SHARED, HIGH.start, HIGH.end - PAGE_SIZE:
        assert slots.guest.touch(gpa, None) == told(private_fault(gpa))
    for gpa in HIGH_PRIVATE, HIGH_SHARED:
        with pytest.raises(ConversionRefusedError):
            slots.memory.conversion.convert(gpa, PAGE_SIZE, Side.SHARED)
    slots.check_low()


def test_touching_it_brings_the_whole_slot_back_private_and_empty(slots: Slots) -> None:
    slots.memory.regions.unplug(HIGH_SLOT)
    assert slots.guest.touch(HIGH_SHARED, None) == told(private_fault(HIGH_SHARED))
    assert slots.memory.exits.resolve_fault(private_fault(HIGH_SHARED), 0, lambda _: True) is None
    assert slots.memory.states.runs(HIGH) == (PageRun(HIGH, PageState.PRIVATE),)
    assert slots.guest.touch(HIGH_SHARED, None) == "reads 0x00"
    assert slots.guest.touch(HIGH_PRIVATE, None) == "reads 0x00"
    assert slots.guest.touch(HIGH_PRIVATE, 0x55) == "done"
    slots.check_low()
    slots.memory.conversion.convert(HIGH_PRIVATE, PAGE_SIZE, Side.SHARED)
    assert slots.guest.touch(HIGH_PRIVATE, None) == "reads 0x00"
    assert slots.memory.read(HIGH_PRIVATE, 1) == b"\0"
    slots.check_low()


def test_a_refused_touch_leaves_it_away(slots: Slots) -> None:
    slots.memory.regions.unplug(HIGH_SLOT)
    refused = slots.memory.exits.resolve_fault(private_fault(HIGH_PRIVATE), 0, lambda _: False)
    assert refused is not None
    assert PageRun(HIGH, PageState.WITHHELD) in refused.runs
    assert slots.guest.touch(HIGH_PRIVATE, None) == told(private_fault(HIGH_PRIVATE))
    slots.check_low()


def test_a_deleted_slot_has_no_pages_and_the_guest_finds_none(slots: Slots) -> None:
    slots.memory.regions.remove(HIGH_SLOT)
    assert slots.memory.states.runs(HIGH) == ()
    assert slots.memory.states.at(HIGH_PRIVATE) is None
    assert slots.memory.read(HIGH_SHARED, 1) is None
    # The attributes go with it: a device's place, as anywhere else without memory.
    assert slots.guest.touch(HIGH_SHARED, None) == MMIO
    assert slots.guest.touch(HIGH_PRIVATE, None) == MMIO
    with pytest.raises(ConversionRefusedError):
        slots.memory.conversion.convert(HIGH.start, PAGE_SIZE, Side.SHARED)
    refused = slots.memory.exits.resolve_fault(private_fault(HIGH_PRIVATE), 0, lambda _: True)
    assert refused is not None
    slots.check_low()


def test_deleting_what_has_been_taken_is_for_good(slots: Slots) -> None:
    slots.memory.regions.unplug(HIGH_SLOT)
    slots.memory.regions.remove(HIGH_SLOT)
    assert slots.memory.states.runs(HIGH) == ()
    assert (
        slots.memory.exits.resolve_fault(private_fault(HIGH_PRIVATE), 0, lambda _: True) is not None
    )
    assert slots.guest.touch(HIGH_PRIVATE, None) == MMIO
    slots.check_low()


def test_a_slot_in_the_place_of_a_private_one_is_shared_for_the_guest_too(slots: Slots) -> None:
    sides = slots.memory.regions.sides()[1]
    slots.memory.regions.remove(HIGH_SLOT)
    slots.vm.set_memslot(sides.memslot())
    slots.memory.regions.add(sides)
    assert slots.memory.states.runs(HIGH) == (PageRun(HIGH, PageState.SHARED),)
    assert slots.memory.write(HIGH_PRIVATE, b"\x5a")
    assert slots.guest.touch(HIGH_PRIVATE, None) == "reads 0x5a"
    slots.check_low()


def test_a_file_that_is_closed_under_its_slot_ends_in_a_report_that_says_so(slots: Slots) -> None:
    slots.file.close()
    found = slots.guest.touch(HIGH_PRIVATE, None)
    assert found == told(private_fault(HIGH_PRIVATE))
    refused = slots.memory.exits.resolve_fault(private_fault(HIGH_PRIVATE), 0, lambda _: True)
    assert refused is not None
    assert "guest_memfd of its private side has been closed" in refused.cause
