# SPDX-License-Identifier: MIT
"""Data of a scripted guest that has two sides, and the three ways in which it is converted."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion

from .conftest import RUNAWAY_SECONDS
from .reaching_device import ReachingDevice, pages_of
from .scripted_guest import (
    DONE_EXIT,
    MAP_GPA_RANGE,
    PAGE,
    Script,
    ScriptedGuest,
    not_longer_than,
)

MIB = 1 << 20
DATA = 1 << 32
"""GPA of the data: far from the guest's code."""
SPAN = 2 * MIB + PAGE
"""Bytes that each vCPU works on."""
ROOM = 4 * MIB
"""Bytes from one vCPU's data to the next one's."""
FIRST_SLOT = 10


class Via(enum.Enum):
    """Who converts when the guest asks by hypercall."""

    IOCTLS = "the test, by KVM_SET_MEMORY_ATTRIBUTES and nothing else"
    GUEST_MEMORY = "GuestMemory, on an exit: a device listens, which has to be told"
    RUN_LOOP = "the vCPU's thread, without an exit; what is in two memslots goes to GuestMemory"


class Ask(enum.IntFlag):
    """The hypercall's attributes: what KVM defines, and in bits that it ignores, our own wishes."""

    SHARED = 0
    PRIVATE = 1 << 4
    ATTRIBUTES = 1 << 8
    FILE = 1 << 9
    """Allocate the private side, or free it, before the attributes change."""


class TwoSided:
    """A scripted guest with data that has two sides; at GPA `DATA`, in file and mapping at 0."""

    def __init__(
        self, guest: ScriptedGuest, shared: GuestMapping, file: GuestMemfd, via: Via, part: int
    ) -> None:
        self.guest = guest
        self.file = file
        self.via = via
        self._shared = shared
        self._part = part
        self._memory = GuestMemory(guest.vm)
        self._device = ReachingDevice()
        self._expected: Counter[str] = Counter()
        """Exits that the conversions asked for so far take, by the name of their reason."""

    @contextmanager
    def in_slots(self) -> Iterator[None]:
        """The data is there, `part` bytes of it in each memslot."""
        with ExitStack() as owned:
            view = owned.enter_context(self._shared.view())
            owned.callback(self._memory.close)
            for number in range(self._shared.size // self._part):
                at = self._part * number
                where = GpaRange(DATA + at, DATA + at + self._part)
                memslot = Memslot(
                    FIRST_SLOT + number,
                    where.start,
                    where.size,
                    self._shared.hva + at,
                    guest_memfd=self.file,
                    guest_memfd_offset=at,
                )
                self.guest.vm.set_memslot(memslot)
                if self.via is not Via.IOCTLS:
                    region = MemoryRegion(memslot.slot, where, True, f"slot {memslot.slot}")
                    sides = MemorySides(region, memslot, self._shared, view, at)
                    self._memory.regions.add(sides)
            if self.via is Via.GUEST_MEMORY:
                self._memory.regions.listen(self._device, [self._whole])
            yield

    @property
    def _whole(self) -> GpaRange:
        return GpaRange(DATA, DATA + self._shared.size)

    # -- what a guest does --

    def add_conversion(self, script: Script, gpa: int, size: int, ask: Ask) -> None:
        """Have the guest ask for it."""
        if self.via is Via.IOCTLS:
            script.convert(gpa, size, ask)
            self._expected["HYPERCALL"] += 1
            return
        if Ask.FILE in ask:
            script.host(partial(self._change_file, gpa, size, ask))
        if Ask.ATTRIBUTES in ask:
            script.convert(gpa, size, ask & Ask.PRIVATE)
            by_itself = self.via is Via.RUN_LOOP and len([*self._by_slots(gpa, size)]) == 1
            self._expected["CONVERTED" if by_itself else "HYPERCALL"] += 1

    def add_clearing(self, script: Script, gpa: int, size: int) -> None:
        """Have all that the guest has made private, and shared again, leave the file."""
        if self.via is Via.IOCTLS:
            self.add_conversion(script, gpa, size, Ask.ATTRIBUTES | Ask.FILE | Ask.SHARED)
        else:
            # It has, by the conversions as such.
            script.host(partial(self._look_for_none_private, gpa, size))

    def _look_for_none_private(self, gpa: int, size: int) -> None:
        assert self.file.resident(gpa - DATA, size) == 0

    def _change_file(self, gpa: int, size: int, ask: Ask) -> None:
        if Ask.PRIVATE in ask:
            self.file.allocate(gpa - DATA, size)
        else:
            self.file.punch_hole(gpa - DATA, size)

    def left(self, byte: int, private: int = 0, how: Ask = Ask.ATTRIBUTES) -> int:
        """What is found shared after a conversion to private and, asked for with `how`, back.

        It was `byte` before that and `private` between. The kernel changes attributes and nothing
        else; `GuestMemory` gives the stale side back.
        """
        return byte if self.via is Via.IOCTLS else 0

    # -- what the host does --

    def answer(self, call: exits.Hypercall) -> int:
        """Convert what the guest has asked for."""
        assert call.number == MAP_GPA_RANGE
        if self.via is not Via.IOCTLS:
            return self._memory.exits.answer_hypercall(call.args)
        gpa, pages, wish = call.args[:3]
        size, ask = pages * PAGE, Ask(wish)
        if Ask.FILE in ask:
            self._change_file(gpa, size, ask)
        if Ask.ATTRIBUTES in ask:
            attributes = MemoryAttribute.PRIVATE if Ask.PRIVATE in ask else MemoryAttribute(0)
            self._set_attributes(gpa, size, attributes)
        return 0

    def _set_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        self.guest.vm.set_memory_attributes(gpa, size, attributes)

    def look(self, gpa: int, size: int, expected: int, then: int | None = None) -> None:
        """The host finds `expected` on the shared side, and fills it with `then`."""
        if self.via is Via.IOCTLS:
            offset = gpa - DATA
            with self._shared.view() as view:
                assert bytes(view[offset : offset + size]) == bytes([expected]) * size
                if then is not None:
                    view[offset : offset + size] = bytes([then]) * size
            return
        for at, part in self._by_slots(gpa, size):
            assert self._memory.read(at, part) == bytes([expected]) * part
            if then is not None:
                assert self._memory.write(at, bytes([then]) * part)

    def look_behind(self, gpa: int, size: int, before: int) -> None:
        """The host's view of what the guest has made private, of `before` when it was shared."""
        offset = gpa - DATA
        if self.via is Via.IOCTLS:
            with self._shared.view() as view:
                assert bytes(view[offset : offset + size]) == bytes([before]) * size
            return
        # Not through the view: that would make pages of zeroes.
        assert self._shared.resident(offset, size) == 0
        for at, part in self._by_slots(gpa, size):
            assert self._memory.read(at, part) is None
            assert not self._memory.write(at, bytes(part))

    def _by_slots(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        """[gpa, gpa + size) cut where memslots meet: one read or write is of one of them."""
        end = gpa + size
        while gpa < end:
            next_slot = DATA + ((gpa - DATA) // self._part + 1) * self._part
            yield gpa, min(end, next_slot) - gpa
            gpa = next_slot

    def run(self, scripts: list[Script]) -> None:
        """One vCPU for each, all at once; conversions are made in the way that is to be shown."""
        seen: Counter[str] = Counter()

        def run_one(index: int) -> exits.Exit:
            with self.guest.vcpu(index) as vcpu:
                try:
                    return vcpu.run(scripts[index], self.answer)
                finally:
                    seen.update(vcpu.vcpu.exit_counts())

        with ThreadPoolExecutor(len(scripts)) as threads:
            assert set(threads.map(run_one, range(len(scripts)))) == {DONE_EXIT}
        assert {name: seen[name] for name in self._expected} == self._expected
        assert set(self._expected) >= seen.keys() & {"HYPERCALL", "CONVERTED"}
        if self.via is not Via.IOCTLS:
            self._check_memory()

    def _check_memory(self) -> None:
        assert self._memory.conversion.failures == []
        assert sum(self._memory.conversion.counts.values()) == self._expected["HYPERCALL"]
        shared: set[int] = set()
        for run in self._memory.states.runs(self._whole):
            at, size = run.range.start - DATA, run.range.size
            if run.state is PageState.SHARED:
                shared |= pages_of(run.range)
                assert self.file.resident(at, size) == 0
            else:
                assert run.state is PageState.PRIVATE
                assert self._shared.resident(at, size) == 0
        if self.via is Via.GUEST_MEMORY:
            assert self._device.reaches == shared


@contextmanager
def two_sided(
    system: System, code: bytes, via: Via, vcpus: int, memslots: int
) -> Iterator[TwoSided]:
    """Data for `vcpus` vCPUs, cut into `memslots` slots of one size."""
    size = ROOM * vcpus
    with (
        system.create_vm(VmType.SW_PROTECTED) as vm,
        ScriptedGuest(system, vm, code) as guest,
        system.map_anonymous(size) as shared,
        vm.create_guest_memfd(size) as file,
        not_longer_than(RUNAWAY_SECONDS, guest),
    ):
        vm.enable_hypercall_exits(1 << MAP_GPA_RANGE)
        memory = TwoSided(guest, shared, file, via, size // memslots)
        for index in range(vcpus):
            guest.tables.map(DATA + ROOM * index, DATA + ROOM * index, SPAN)
        with memory.in_slots():
            yield memory
