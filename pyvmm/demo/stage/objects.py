# SPDX-License-Identifier: MIT
"""Acts on VMs, files, slots and mappings of one stage, by a host's interface."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar

from pyvmm.demo.stage.one_access import (
    MOST_VCPUS,
    Accessed,
    accessed,
    host_fault,
    require_reach,
)
from pyvmm.demo.stage.things import (
    EVERYWHERE,
    FileOnStage,
    MappingOnStage,
    SlotOnStage,
    Things,
    VmOnStage,
)
from pyvmm.demo.telling.acts import (
    ATTEMPT,
    Act,
    Actor,
    Close,
    ConvertInPlace,
    Duplicate,
    HoldPage,
    Hole,
    Look,
    MakeFile,
    MakeVm,
    MapFile,
    Read,
    SetAttributes,
    SetSlot,
    Thing,
    Write,
)
from pyvmm.errors import HostLacksError, SystemCallError, UsageError
from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.owner import Owned, Owner
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState, PageStates
from pyvmm.replay.guest import PLACE, SIZE, SLOT, Guest, put_program
from pyvmm.rules.abi import (
    ADDRESS_END,
    FILE_OFFSET_END,
    GUEST_MEMFD_FLAG_INIT_SHARED,
    PAGE_SIZE,
)
from pyvmm.rules.memslots import is_guest_memfd_only

T = TypeVar("T")

MOST = 8
"""Most things of a kind, slots of a VM, and descriptors of a thing: a reader may make no more."""
LARGEST = 64 << 20
"""Largest file, and largest host's side of a slot, in bytes."""
_WORDS = {"slot": 1 << 32, "flags": 1 << 32, "offset": FILE_OFFSET_END}
"""Ends of what the kernel is given in less than 64 bits."""
_NAMES = frozenset({"vm", "file", "number"})
"""Numbers of things, of which there is one or not."""


class StageObjects(Owner):
    """The objects of one stage. Closing lets go of all, in the order of a process's exit."""

    def __init__(self, system: interface.System) -> None:
        """`system` is not owned."""
        self._system = system
        self.things = Things()
        self._program: interface.GuestMapping | None = None

    def do(self, act: Act) -> Accessed | int | None:
        """Carry `act` out; the byte that the host's read gives, the outcome of a guest's access.

        Raises `SystemCallError` where the kernel refuses, `UsageError` for what names a thing that
        is not there, or would be too much, of which the kernel is not asked.
        """
        _require_numbers(act)
        match act:
            case Read(who=who, vm=vm, gpa=gpa):
                value = None
            case Write(who=who, vm=vm, gpa=gpa):
                value = act.value & 0xFF
            case _:
                self._change(act)
                return None
        access = self._guest_access if who is Actor.GUEST else self._host_access
        return access(vm, gpa, value)

    def _change(self, act: Act) -> None:
        match act:
            case Close(what=what, number=number):
                self._close(what, number)
            case Duplicate(what=what, number=number):
                self._duplicate(what, number)
            case MakeVm():
                self._make_vm(act)
            case MakeFile():
                self._make_file(act)
            case SetSlot():
                self._set_slot(act)
            case SetAttributes():
                self._set_attributes(act)
            case MapFile(file=number):
                self._free(self.things.mappings, number, "mapping")
                mapping = self._open_file(number).file.map()
                self.things.mappings[number] = MappingOnStage(mapping, number)
            case Hole(file=number, offset=offset, size=size):
                self._open_file(number).file.punch_hole(offset, size)
            case ConvertInPlace():
                self._convert_in_place(act)
            case HoldPage():
                self._hold_page(act)
            case Look():
                pass
            case _:
                raise UsageError(ATTEMPT, "this stage has no guest that runs")

    # -- VMs, files, slots --

    def _make_vm(self, act: MakeVm) -> None:
        self._free(self.things.vms, act.vm, "VM")
        vm = self._system.create_vm(VmType.SW_PROTECTED if act.private else VmType.DEFAULT)
        made = VmOnStage(vm, act.private, PageStates())
        made.sides.add(EVERYWHERE, PageState.SHARED)
        self.things.vms[act.vm] = made

    def _make_file(self, act: MakeFile) -> None:
        self._free(self.things.files, act.file, "file")
        self._limit(act.size)
        vm = self._open_vm(act.vm).vm
        file = vm.create_guest_memfd(act.size, GuestMemfdFlag(act.flags))
        sides = self._sides_of(act)
        self.things.files[act.file] = FileOnStage(file, act.vm, act.flags, sides)

    def _sides_of(self, act: MakeFile) -> PageStates | None:
        """Sides of a new file's pages, where files keep them."""
        private_vm = self.things.vms[act.vm].private
        if not private_vm or not self._system.capabilities().file_attributes:
            return None
        sides = PageStates()
        shared = act.flags & GUEST_MEMFD_FLAG_INIT_SHARED
        sides.add(GpaRange(0, act.size), PageState.SHARED if shared else PageState.PRIVATE)
        return sides

    def _convert_in_place(self, act: ConvertInPlace) -> None:
        on_stage = self._open_file(act.file)
        private = act.side is Side.PRIVATE
        attributes = MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
        try:
            on_stage.file.set_attributes(act.offset, act.size, attributes)
        except HostLacksError as error:
            # This one is the kernel's answer, too.
            raise SystemCallError(error.attempt, errno.ENOTTY, error.cause) from error
        if on_stage.sides is not None:
            state = PageState.PRIVATE if private else PageState.SHARED
            on_stage.sides.set(GpaRange(act.offset, act.offset + act.size), state)

    def _hold_page(self, act: HoldPage) -> None:
        on_stage = self._open_file(act.file)
        page = act.offset // PAGE_SIZE * PAGE_SIZE
        if not act.held:
            if page not in on_stage.held:
                raise UsageError(ATTEMPT, f"nobody holds the page at {page:#x}")
            on_stage.held.pop(page).close()
            return
        if act.offset >= on_stage.file.size:
            raise UsageError(ATTEMPT, f"file {act.file} has {on_stage.file.size:#x} bytes")
        if page in on_stage.held:
            raise UsageError(ATTEMPT, f"the page at {page:#x} is held already")
        if len(on_stage.held) >= MOST:
            raise UsageError(ATTEMPT, f"{MOST} pages of the file are held, the most here")
        on_stage.held[page] = on_stage.file.hold_page(page)

    def _set_slot(self, act: SetSlot) -> None:
        on_stage = self._open_vm(act.vm)
        old = on_stage.slots.get(act.slot)
        if old is None and len(on_stage.slots) >= MOST:
            raise UsageError(ATTEMPT, f"the VM has {MOST} slots, the most here")
        if act.slot == SLOT or (act.gpa < PLACE + SIZE and act.gpa + act.size > PLACE):
            raise UsageError(
                ATTEMPT, f"slot {SLOT}, at {PLACE:#x}, has the code by which the guest touches"
            )
        file = None if act.file < 0 else self._open_file(act.file)
        side = None if old is None else old.side
        new_side = act.host_side and act.size and (side is None or side.size < act.size)
        if new_side:
            self._limit(act.size)
            side = self._system.map_anonymous(-(-act.size // PAGE_SIZE) * PAGE_SIZE)
        try:
            hva = side.hva if act.host_side and side is not None else 0
            bound = None if file is None else file.file
            flags = MemslotFlag(act.flags)
            on_stage.vm.set_memslot(
                Memslot(act.slot, act.gpa, act.size, hva, flags, bound, act.file_offset)
            )
        except BaseException:
            if new_side and side is not None:
                side.close()
            raise
        kept = side if act.host_side and act.size else None
        if old is not None and old.side is not None and old.side is not kept:
            old.side.close()
        on_stage.slots.pop(act.slot, None)
        if act.size:
            on_stage.slots[act.slot] = SlotOnStage(act, kept, file)

    def _set_attributes(self, act: SetAttributes) -> None:
        on_stage = self._open_vm(act.vm)
        self._limit(act.size)
        private = act.side is Side.PRIVATE
        attributes = MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
        on_stage.vm.set_memory_attributes(act.gpa, act.size, attributes)
        state = PageState.PRIVATE if private else PageState.SHARED
        on_stage.sides.set(GpaRange(act.gpa, act.gpa + act.size), state)

    # -- descriptors --

    def _close(self, what: Thing, number: int) -> None:
        things = self.things
        match what:
            case Thing.VM:
                vm = self._open_vm(number)
                if _is_last(vm.copies):
                    vm.is_open = False
                    vm.vm.close()
            case Thing.FILE:
                file = self._open_file(number)
                if _is_last(file.copies):
                    file.is_open = False
                    file.file.close()
            case Thing.MAPPING:
                self._there(things.mappings, number, "mapping").mapping.close()
                del things.mappings[number]
            case Thing.VCPU:
                vm, guest = self._vcpu(number)
                if _is_last(vm.guest_copies):
                    vm.guest = None
                    guest.close()
        things.sweep()

    def _duplicate(self, what: Thing, number: int) -> None:
        copies: list[Owned]
        match what:
            case Thing.VM:
                vm = self._open_vm(number)
                copies, duplicate = vm.copies, vm.vm.duplicate
            case Thing.FILE:
                file = self._open_file(number)
                copies, duplicate = file.copies, file.file.duplicate
            case Thing.VCPU:
                vm, guest = self._vcpu(number)
                copies, duplicate = vm.guest_copies, guest.duplicate
            case Thing.MAPPING:
                raise UsageError(ATTEMPT, "a mapping is no descriptor: it cannot be duplicated")
        if len(copies) + 1 >= MOST:
            raise UsageError(ATTEMPT, f"there are {MOST} descriptors of it, the most here")
        copies.append(duplicate())

    # -- accesses --

    def _guest_access(self, number: int, gpa: int, value: int | None) -> Accessed:
        require_reach(gpa)
        on_stage = self._there(self.things.vms, number, "VM")
        if on_stage.guest is None:
            self._make_vcpu(number)
        return accessed(self.things, on_stage, gpa, value)

    def _make_vcpu(self, number: int) -> None:
        """Give a VM the vCPU that touches memory for it."""
        on_stage = self._open_vm(number)
        if on_stage.vcpus >= MOST_VCPUS:
            raise UsageError(ATTEMPT, f"the VM has had {MOST_VCPUS} vCPUs, the most here")
        if self._program is None:
            program = self._system.map_anonymous(SIZE)
            put_program(program)
            self._program = program
        on_stage.guest = Guest(on_stage.vm, on_stage.vcpus, self._program)
        on_stage.vcpus += 1

    def _host_access(self, vm: int, gpa: int, value: int | None) -> Accessed | int | None:
        """Read or write the byte that the guest has at a GPA where that page is shared.

        A file that can be mapped is the slot's shared memory, too: it is touched by a system call,
        since the touch itself could be a signal that ends the process.
        """
        slot = self._there(self.things.vms, vm, "VM").slot_at(gpa)
        if slot is None:
            raise UsageError(ATTEMPT, f"VM {vm} has no memory at {gpa:#x}")
        offset = gpa - slot.act.gpa
        if slot.file is not None and is_guest_memfd_only(slot.file.flags):
            mapping = self._mapping_of(slot.file, slot.act.slot)
            offset += slot.act.file_offset
            try:
                if value is None:
                    return mapping.peek(offset, 1)[0]
                mapping.poke(offset, bytes((value,)))
            except SystemCallError as error:
                return host_fault(slot.file, offset, error.errno)
            return None
        if slot.side is None:
            raise UsageError(ATTEMPT, f"slot {slot.act.slot} has no memory of the host's")
        with slot.side.view() as view:
            if value is None:
                return view[offset]
            view[offset] = value
        return None

    def _mapping_of(self, file: FileOnStage, slot: int) -> interface.GuestMapping:
        """A mapping of a slot's file."""
        for one in self.things.mappings.values():
            if self.things.files.get(one.file) is file:
                return one.mapping
        numbers = [number for number, one in self.things.files.items() if one is file]
        if not numbers:
            raise UsageError(ATTEMPT, f"slot {slot} has lost its file, which was its memory")
        raise UsageError(
            ATTEMPT, f"slot {slot}'s memory is file {numbers[0]}: map it (map-file {numbers[0]})"
        )

    # -- what there is --

    def _open_vm(self, number: int) -> VmOnStage:
        found = self._there(self.things.vms, number, "VM")
        if not found.is_open:
            raise UsageError(ATTEMPT, f"VM {number} lives on, but has no descriptor any more")
        return found

    def _open_file(self, number: int) -> FileOnStage:
        found = self._there(self.things.files, number, "file")
        if not found.is_open:
            raise UsageError(ATTEMPT, f"file {number} lives on, but has no descriptor any more")
        return found

    def _vcpu(self, number: int) -> tuple[VmOnStage, Guest]:
        found = self._there(self.things.vms, number, "VM")
        if found.guest is None:
            raise UsageError(ATTEMPT, f"VM {number} has no vCPU: it gets one when its guest acts")
        return found, found.guest

    def _there(self, kind: Mapping[int, T], number: int, what: str) -> T:
        if number not in kind:
            raise UsageError(ATTEMPT, f"there is no {what} {number}")
        return kind[number]

    def _free(self, kind: Mapping[int, object], number: int, what: str) -> None:
        if number in kind:
            raise UsageError(ATTEMPT, f"there is {what} {number} already")
        if not 0 <= number < MOST:
            raise UsageError(ATTEMPT, f"the {what}s here are 0..{MOST - 1}")

    def _limit(self, size: int) -> None:
        if size > LARGEST:
            raise UsageError(ATTEMPT, f"the most here is {LARGEST >> 20} MiB")

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        self.things.close()
        program, self._program = self._program, None
        if program is not None:
            program.close()


def _is_last(copies: list[Owned]) -> bool:
    """Close a descriptor beside the first one; True where there is none beside it."""
    if copies:
        copies.pop().close()
        return False
    return True


def _require_numbers(act: Act) -> None:
    """Raise `UsageError` for a number that no system call takes."""
    for one in fields(act):
        value = getattr(act, one.name)
        if one.name in _NAMES or not isinstance(value, int):
            continue
        if not 0 <= value < _WORDS.get(one.name, ADDRESS_END):
            raise UsageError(ATTEMPT, f"{value} is no {one.name.replace('_', ' ')}")
