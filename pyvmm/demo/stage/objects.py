# SPDX-License-Identifier: MIT
"""VMs, files, slots and mappings of one stage by their numbers, on a host's interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pyvmm.demo.telling.acts import (
    Act,
    Actor,
    Close,
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
from pyvmm.errors import UsageError
from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.owner import Owned, Owner
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.rules.abi import PAGE_SIZE

T = TypeVar("T")

MOST = 8
"""Most things of a kind, and slots of a VM: a reader may make no more."""
LARGEST = 64 << 20
"""Largest file, and largest host's side of a slot, in bytes."""
_ATTEMPT = "try something in the demo"
_ALL = GpaRange(0, 1 << 52)


@dataclass
class VmOnStage:
    """A VM; its slots by number; which of its addresses are private, mapped or not."""

    vm: interface.Vm
    slots: dict[int, SetSlot] = field(default_factory=dict)
    host_sides: dict[int, interface.GuestMapping] = field(default_factory=dict)
    sides: PageStates = field(default_factory=PageStates)

    def runs(self) -> Iterator[PageRun]:
        """The sides of all memory that slots give, ascending."""
        for slot in sorted(self.slots.values(), key=lambda one: one.gpa):
            yield from self.sides.runs(GpaRange(slot.gpa, slot.gpa + slot.size))


class StageObjects(Owner):
    """The objects of one stage. Closing lets go of all, in the order of a process's exit."""

    def __init__(self, system: interface.System) -> None:
        """`system` is not owned."""
        self._system = system
        self.vms: dict[int, VmOnStage] = {}
        self.files: dict[int, interface.GuestMemfd] = {}
        self.mappings: dict[int, interface.GuestMapping] = {}
        self.bindings: list[tuple[int, int, int]] = []
        self.origins: dict[str, str] = {}

    def do(self, act: Act) -> int | None:
        """Carry `act` out; the byte that a read gives.

        Raises `SystemCallError` where the kernel refuses, `UsageError` for what names a thing that
        is not there, or would be too much, of which the kernel is not asked.
        """
        match act:
            case MakeVm():
                self._make_vm(act)
            case MakeFile():
                self._make_file(act)
            case SetSlot():
                self._set_slot(act)
            case SetAttributes():
                self._set_attributes(act)
            case MapFile(file=number):
                self._free(self.mappings, number, "mapping")
                self.mappings[number] = self._there(self.files, number, "file").map()
                self.origins[f"mapping {number}"] = f"file {number}"
            case Hole(file=number, offset=offset, size=size):
                self._there(self.files, number, "file").punch_hole(offset, size)
            case Close(what=what, number=number):
                self._close(what, number)
            case Read(who=Actor.HOST):
                return self._host_view(act.vm, act.gpa)[
                    act.gpa - self._slot_at(act.vm, act.gpa).gpa
                ]
            case Write(who=Actor.HOST):
                view = self._host_view(act.vm, act.gpa)
                view[act.gpa - self._slot_at(act.vm, act.gpa).gpa] = act.value & 0xFF
            case Look():
                pass
            case _:
                raise UsageError(_ATTEMPT, "this stage has no guest that runs")
        return None

    def _make_vm(self, act: MakeVm) -> None:
        self._free(self.vms, act.vm, "VM")
        made = VmOnStage(
            self._system.create_vm(VmType.SW_PROTECTED if act.private else VmType.DEFAULT)
        )
        made.sides.add(_ALL, PageState.SHARED)
        self.vms[act.vm] = made

    def _make_file(self, act: MakeFile) -> None:
        self._free(self.files, act.file, "file")
        self._limit(act.size)
        vm = self._there(self.vms, act.vm, "VM").vm
        self.files[act.file] = vm.create_guest_memfd(act.size, GuestMemfdFlag(act.flags))
        self.origins[f"file {act.file}"] = f"vm {act.vm}"

    def _set_slot(self, act: SetSlot) -> None:
        on_stage = self._there(self.vms, act.vm, "VM")
        if act.slot not in on_stage.slots and len(on_stage.slots) >= MOST:
            raise UsageError(_ATTEMPT, f"the VM has {MOST} slots, the most here")
        file = None if act.file < 0 else self._there(self.files, act.file, "file")
        side = on_stage.host_sides.get(act.slot)
        new_side = act.host_side and act.size and (side is None or side.size < act.size)
        if new_side:
            self._limit(act.size)
            side = self._system.map_anonymous(-(-act.size // PAGE_SIZE) * PAGE_SIZE)
        try:
            hva = side.hva if act.host_side and side is not None else 0
            flags = MemslotFlag(act.flags)
            on_stage.vm.set_memslot(
                Memslot(act.slot, act.gpa, act.size, hva, flags, file, act.file_offset)
            )
        except BaseException:
            if new_side and side is not None:
                side.close()
            raise
        self._note_slot(on_stage, act, side if act.host_side and act.size else None)

    def _note_slot(
        self, on_stage: VmOnStage, act: SetSlot, side: interface.GuestMapping | None
    ) -> None:
        old = on_stage.host_sides.get(act.slot)
        if old is not None and old is not side:
            del on_stage.host_sides[act.slot]
            old.close()
        self.bindings = [one for one in self.bindings if one[1:] != (act.vm, act.slot)]
        if act.size:
            on_stage.slots[act.slot] = act
            if side is not None:
                on_stage.host_sides[act.slot] = side
            if act.file >= 0:
                self.bindings.append((act.file, act.vm, act.slot))
        else:
            on_stage.slots.pop(act.slot, None)

    def _set_attributes(self, act: SetAttributes) -> None:
        on_stage = self._there(self.vms, act.vm, "VM")
        private = act.side is Side.PRIVATE
        attributes = MemoryAttribute.PRIVATE if private else MemoryAttribute(0)
        on_stage.vm.set_memory_attributes(act.gpa, act.size, attributes)
        state = PageState.PRIVATE if private else PageState.SHARED
        on_stage.sides.set(GpaRange(act.gpa, act.gpa + act.size), state)

    def _close(self, what: Thing, number: int) -> None:
        match what:
            case Thing.VM:
                on_stage = self._there(self.vms, number, "VM")
                on_stage.vm.close()
                for side in on_stage.host_sides.values():
                    side.close()
                del self.vms[number]
            case Thing.FILE:
                self._there(self.files, number, "file").close()
                del self.files[number]
            case Thing.MAPPING:
                self._there(self.mappings, number, "mapping").close()
                del self.mappings[number]
            case Thing.VCPU:
                raise UsageError(_ATTEMPT, "this stage has no vCPU")

    def _slot_at(self, vm: int, gpa: int) -> SetSlot:
        for slot in self._there(self.vms, vm, "VM").slots.values():
            if slot.gpa <= gpa < slot.gpa + slot.size:
                return slot
        raise UsageError(_ATTEMPT, f"VM {vm} has no memory at {gpa:#x}")

    def _host_view(self, vm: int, gpa: int) -> memoryview:
        """Memory of the host's, of the slot at a GPA, from the slot's beginning."""
        slot = self._slot_at(vm, gpa)
        side = self.vms[vm].host_sides.get(slot.slot)
        if side is None:
            raise UsageError(_ATTEMPT, f"slot {slot.slot} has no memory of the host's")
        return side.view()

    def _there(self, kind: Mapping[int, T], number: int, what: str) -> T:
        if number not in kind:
            raise UsageError(_ATTEMPT, f"there is no {what} {number}")
        return kind[number]

    def _free(self, kind: Mapping[int, object], number: int, what: str) -> None:
        if number in kind:
            raise UsageError(_ATTEMPT, f"there is {what} {number} already")
        if not 0 <= number < MOST:
            raise UsageError(_ATTEMPT, f"the {what}s here are 0..{MOST - 1}")

    def _limit(self, size: int) -> None:
        if size > LARGEST:
            raise UsageError(_ATTEMPT, f"the most here is {LARGEST >> 20} MiB")

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        owned: list[Owned] = [*self.mappings.values(), *self.files.values()]
        for one in self.vms.values():
            owned += [one.vm, *one.host_sides.values()]
        for thing in owned:
            thing.close()
        self.vms.clear()
        self.files.clear()
        self.mappings.clear()
        self.bindings.clear()
