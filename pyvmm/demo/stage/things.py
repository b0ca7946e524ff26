# SPDX-License-Identifier: MIT
"""VMs, files and mappings of a stage by their numbers, and how long each of them lives.

A number is an object's: of an object with two descriptors one number is held twice. As in the
kernel, a file lives while a descriptor or a mapping of it is there, and a VM while one of these is:
a descriptor, a vCPU, a file that it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.demo.telling.acts import SetSlot
from pyvmm.hosts import interface
from pyvmm.hosts.owner import Owned
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.replay.guest import Guest
from pyvmm.rules.abi import ADDRESS_END, PAGE_SIZE

EVERYWHERE = GpaRange(0, ADDRESS_END)


@dataclass(eq=False)
class FileOnStage:
    """A guest_memfd of VM number `vm`; `copies` are descriptors beside the first.

    `sides` are those of its offsets, where files keep them; `held` its pages, by offset, that
    somebody has a reference on.
    """

    file: interface.GuestMemfd
    vm: int
    flags: int
    sides: PageStates | None = None
    is_open: bool = True
    copies: list[Owned] = field(default_factory=list)
    held: dict[int, Owned] = field(default_factory=dict)

    def is_private(self, offset: int) -> bool | None:
        """Tell whether the file says of a byte that it is private; None: it says nothing."""
        return None if self.sides is None else self.sides.state_at(offset) is PageState.PRIVATE


@dataclass(eq=False)
class MappingOnStage:
    """A mapping of file number `file`."""

    mapping: interface.GuestMapping
    file: int


@dataclass(eq=False)
class SlotOnStage:
    """A memslot as it was set, its memory of the host's, and the file that it was bound to."""

    act: SetSlot
    side: interface.GuestMapping | None
    file: FileOnStage | None

    @property
    def range(self) -> GpaRange:
        """The GPAs of it."""
        return GpaRange(self.act.gpa, self.act.gpa + self.act.size)


@dataclass(eq=False)
class VmOnStage:
    """A VM; its slots by number; which of its addresses are private, mapped or not.

    `guest` is its vCPU, while there is one; `vcpus` how many there have been.
    """

    vm: interface.Vm
    private: bool
    sides: PageStates
    is_open: bool = True
    copies: list[Owned] = field(default_factory=list)
    slots: dict[int, SlotOnStage] = field(default_factory=dict)
    guest: Guest | None = None
    guest_copies: list[Owned] = field(default_factory=list)
    vcpus: int = 0

    def runs(self) -> Iterator[PageRun]:
        """The sides of all memory that slots give, ascending."""
        for slot in sorted(self.slots.values(), key=lambda one: one.act.gpa):
            yield from self._runs_of(slot)

    def _runs_of(self, slot: SlotOnStage) -> Iterator[PageRun]:
        kept = None if slot.file is None else slot.file.sides
        if kept is None:
            yield from self.sides.runs(slot.range)
            return
        start = slot.act.file_offset
        moved = slot.act.gpa - start
        for run in kept.runs(GpaRange(start, start + slot.act.size)):
            yield PageRun(GpaRange(run.range.start + moved, run.range.end + moved), run.state)

    def state_at(self, gpa: int) -> PageState | None:
        """The side of a page: by its slot's file where that keeps it, else by the VM."""
        slot = self.slot_at(gpa)
        if slot is not None and slot.file is not None and slot.file.sides is not None:
            return slot.file.sides.state_at(gpa - slot.act.gpa + slot.act.file_offset)
        return self.sides.state_at(gpa)

    def slot_at(self, gpa: int) -> SlotOnStage | None:
        """The slot that has the byte at a GPA."""
        found = (one for one in self.slots.values() if one.range.contains(gpa, 1))
        return next(found, None)

    def owned(self) -> Iterator[Owned]:
        """All that is to be closed with it, in order."""
        yield from self.guest_copies
        if self.guest is not None:
            yield self.guest
        yield from self.copies
        yield self.vm
        for slot in self.slots.values():
            if slot.side is not None:
                yield slot.side


class Things:
    """All of a stage. Those that nobody holds any more are let go of by `sweep`."""

    def __init__(self) -> None:
        self.vms: dict[int, VmOnStage] = {}
        self.files: dict[int, FileOnStage] = {}
        self.mappings: dict[int, MappingOnStage] = {}

    def held(self) -> Iterator[str]:
        """Names of what the process holds, as often as it does."""
        for number, vm in sorted(self.vms.items()):
            yield from [f"vm {number}"] * (vm.is_open + len(vm.copies))
        for number, file in sorted(self.files.items()):
            yield from [f"file {number}"] * (file.is_open + len(file.copies))
        yield from (f"mapping {number}" for number in sorted(self.mappings))
        for number, file in sorted(self.files.items()):
            yield from (f"page {number} {at // PAGE_SIZE}" for at in sorted(file.held))
        for number, vm in sorted(self.vms.items()):
            yield from [f"vcpu {number}"] * ((vm.guest is not None) + len(vm.guest_copies))

    def origins(self) -> Iterator[tuple[str, str]]:
        """Names of what was made, and of what it was made from."""
        yield from ((f"file {n}", f"vm {file.vm}") for n, file in sorted(self.files.items()))
        yield from ((f"mapping {n}", f"file {m.file}") for n, m in sorted(self.mappings.items()))
        for number, file in sorted(self.files.items()):
            yield from (
                (f"page {number} {at // PAGE_SIZE}", f"inode {number}") for at in sorted(file.held)
            )
        for number, vm in sorted(self.vms.items()):
            if vm.guest is not None:
                yield f"vcpu {number}", f"vm {number}"

    def slots(self) -> Iterator[tuple[int, int]]:
        """(VM, slot) of each memslot."""
        for number, vm in sorted(self.vms.items()):
            yield from ((number, slot) for slot in sorted(vm.slots))

    def bindings(self) -> Iterator[tuple[int, int, int]]:
        """(file, VM, slot) of each binding: a file that has gone is bound to nothing."""
        numbers = {file: number for number, file in self.files.items()}
        for vm, slot in self.slots():
            file = self.vms[vm].slots[slot].file
            if file in numbers:
                yield numbers[file], vm, slot

    def lives(self, file: FileOnStage) -> bool:
        """True until nothing refers to a file any more."""
        return any(file is one for one in self.files.values())

    def sweep(self) -> None:
        """Let go of files and VMs that nobody holds any more; of slots' memory with the VMs."""
        mapped = {one.file for one in self.mappings.values()}
        for number, file in list(self.files.items()):
            if not (file.is_open or file.copies or number in mapped):
                for page in file.held.values():
                    page.close()
                del self.files[number]
        made = {one.vm for one in self.files.values()}
        for number, vm in list(self.vms.items()):
            if not (vm.is_open or vm.copies or vm.guest or number in made):
                for one in vm.owned():
                    one.close()
                del self.vms[number]

    def close(self) -> None:
        """Close everything, in the order of a process's exit; a second call does nothing."""
        owned: list[Owned] = [one.mapping for one in self.mappings.values()]
        for file in self.files.values():
            owned += [*file.held.values(), *file.copies, file.file]
        for vm in self.vms.values():
            owned += vm.owned()
        self.mappings.clear()
        self.files.clear()
        self.vms.clear()
        for thing in owned:
            thing.close()
